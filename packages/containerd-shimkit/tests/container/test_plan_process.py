"""What a plan makes of the process that will run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import Plan, plan_container, with_filter
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec

Change = Callable[[dict[str, Any]], object]


def plan_of(*changes: Change) -> Plan:
    spec = copy.deepcopy(default_spec(["/app"], cgroups_path="/pod/c1"))
    for change in changes:
        change(spec)
    return plan_container(parse_spec(json.dumps(spec)), "/bundle")


def put(path: str, value: object) -> Change:
    def change(spec: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            spec = spec.setdefault(name, {})
        spec[last] = value

    return change


def test_limits_then_privileges_then_the_working_directory() -> None:
    plan = plan_of(put("process.user.umask", 0o77), put("process.cwd", "/work"))
    kinds = [type(step) for step in plan.process]
    assert kinds == [op.SetRlimit, op.ChangeDirectory, op.DropPrivileges, op.ChangeDirectory]
    assert plan.process[1] == op.ChangeDirectory("/work", may_be_denied=True)
    privileges = plan.process[2]
    assert isinstance(privileges, op.DropPrivileges)
    assert (privileges.umask, privileges.groups, privileges.no_new_privileges) == (0o77, (0,), True)
    assert "CAP_CHOWN" in privileges.bounding
    assert privileges.ambient == ()


FILTER = put("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]})


def test_a_filter_comes_last_where_new_privileges_are_ruled_out() -> None:
    plan = plan_of(FILTER)
    assert plan.last == (op.InstallSeccomp(("SECCOMP_FILTER_FLAG_LOG",)),)
    assert with_filter(plan, b"12345678").last == (op.InstallSeccomp(("SECCOMP_FILTER_FLAG_LOG",), b"12345678"),)
    assert op.InstallSeccomp not in map(type, plan.process)


def test_else_it_comes_before_the_capability_that_it_takes_goes() -> None:
    plan = plan_of(put("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW"}), put("process.noNewPrivileges", False))
    assert [type(step) for step in plan.process][-3:] == [op.InstallSeccomp, op.DropPrivileges, op.ChangeDirectory]
    assert plan.process[-3] == op.InstallSeccomp(None)
    assert with_filter(plan, b"12345678").process[-3] == op.InstallSeccomp(None, b"12345678")
    assert plan.last == ()


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_filter_that_asks_a_listener_is_planned_as_one(no_new_privileges: bool) -> None:
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "listenerPath": "/run/agent"}
    plan = plan_of(put("linux.seccomp", profile), put("process.noNewPrivileges", no_new_privileges))
    assert [each for each in (*plan.process, *plan.last) if isinstance(each, op.InstallSeccomp)] == [
        op.InstallSeccomp(None, notifies=True)
    ]


def test_an_empty_profile_is_none() -> None:
    assert plan_of(put("linux.seccomp", {})).last == ()
    assert plan_of(put("linux.seccomp", {"architectures": ["SCMP_ARCH_X86"]})).last == ()


def test_flags_that_no_kernel_has_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux\.seccomp\.flags is \['x'\]; it must be made of SECCOMP"):
        plan_of(put("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["x"]}))


def test_without_capabilities_there_are_none() -> None:
    plan = plan_of(lambda spec: spec["process"].pop("capabilities"))
    privileges = next(step for step in plan.process if isinstance(step, op.DropPrivileges))
    assert (privileges.bounding, privileges.effective, privileges.permitted) == ((), (), ())


def test_attributes_come_before_the_capabilities_that_they_take_go() -> None:
    plan = plan_of(
        put("process.noNewPrivileges", False),
        FILTER,
        put("process.scheduler", {"policy": "SCHED_FIFO", "priority": 3}),
        put("process.ioPriority", {"class": "IOPRIO_CLASS_RT"}),
        put("linux.personality", {"domain": "LINUX32"}),
        put("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "0"}),
    )
    assert plan.process[2:6] == (
        op.SetPersonality("LINUX32"),
        op.SetMemoryPolicy("MPOL_BIND", (0,), ()),
        op.SetIoPriority("IOPRIO_CLASS_RT", 0),
        op.SetScheduler("SCHED_FIFO", 0, 3, (), 0, 0, 0),
    )
    assert [type(step) for step in plan.process[6:]] == [op.InstallSeccomp, op.DropPrivileges, op.ChangeDirectory]


def test_the_cpus_of_what_is_executed_later_are_not_the_inits() -> None:
    assert plan_of(put("process.execCPUAffinity", {"initial": "0", "final": "1"})).process == plan_of().process
