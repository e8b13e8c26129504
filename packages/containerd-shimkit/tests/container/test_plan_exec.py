"""What is done where for an exec."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, UnimplementedError
from containerd_shimkit.container.operations import (
    ChangeDirectory,
    DropPrivileges,
    InstallSeccomp,
    JoinCgroup,
    MakeTerminal,
    Operation,
    SetOomScoreAdj,
    SetRlimit,
)
from containerd_shimkit.container.plan_exec import plan_exec
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import Process, Rlimit, Spec, User, parse_process, parse_spec

PROCESS = Process(args=("/bin/true",), no_new_privileges=True)
PROFILE = {"defaultAction": "SCMP_ACT_ALLOW"}


def spec_of(seccomp: object = None, **process: Any) -> Spec:
    document = default_spec(["/app"])
    document["linux"]["seccomp"] = seccomp
    document["process"].update(process)
    return parse_spec(json.dumps(document))


def kinds(steps: tuple[Operation, ...]) -> list[type]:
    return [type(step) for step in steps]


def test_the_cgroup_is_entered_first_and_privileges_go_outside_of_the_pid_namespace() -> None:
    plan = plan_exec(replace(PROCESS, oom_score_adj=5), spec_of(PROFILE), b"program")
    assert kinds(plan.host) == [JoinCgroup, SetOomScoreAdj]
    assert kinds(plan.outside) == [SetRlimit, ChangeDirectory, DropPrivileges, ChangeDirectory]
    assert plan.inside == (InstallSeccomp(None, b"program"),)
    assert plan.root == ()


def test_a_filter_that_takes_a_privilege_goes_on_inside_with_what_follows_it() -> None:
    plan = plan_exec(replace(PROCESS, no_new_privileges=False), spec_of(PROFILE), b"program")
    assert kinds(plan.outside) == [SetRlimit, ChangeDirectory]
    assert kinds(plan.inside) == [InstallSeccomp, DropPrivileges, ChangeDirectory]
    assert plan_exec(replace(PROCESS, no_new_privileges=False), spec_of()).inside == ()


def test_what_the_process_leaves_open_is_the_containers() -> None:
    container = spec_of(oomScoreAdj=7, rlimits=[{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}])
    plan = plan_exec(PROCESS, container)
    assert plan.host[1:] == (SetOomScoreAdj(7),)
    assert plan.outside[0] == SetRlimit("RLIMIT_CORE", 1, 2)
    drop = next(step for step in plan.outside if isinstance(step, DropPrivileges))
    assert "CAP_CHOWN" in drop.bounding
    own = parse_process('{"args": ["a"], "cwd": "/", "capabilities": {}, "oomScoreAdj": 0}')
    plan = plan_exec(replace(own, rlimits=(Rlimit("RLIMIT_CPU", 3, 3),)), container)
    assert plan.host[1:] == (SetOomScoreAdj(0),)
    assert plan.outside[0] == SetRlimit("RLIMIT_CPU", 3, 3)
    drop = next(step for step in plan.outside if isinstance(step, DropPrivileges))
    assert drop.bounding == ()


def test_a_terminal_is_the_users_and_no_console() -> None:
    process = replace(PROCESS, terminal=True, console_size=(24, 80), user=User(uid=12))
    assert plan_exec(process, spec_of()).root == (MakeTerminal(12, (24, 80), console=False),)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"args": ()}, InvalidArgumentError, "process.args of the exec is empty"),
        ({"cwd": "x"}, InvalidArgumentError, "process.cwd of the exec is 'x'"),
    ],
)
def test_what_cannot_be_is_refused_by_the_fields_name(
    change: dict[str, Any], kind: type[InvalidArgumentError | UnimplementedError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        plan_exec(replace(PROCESS, **change), spec_of())
