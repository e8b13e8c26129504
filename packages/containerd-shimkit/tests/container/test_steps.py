"""Plans taken apart for an init: nothing is lost on the way, and all of it is plain."""

from __future__ import annotations

import inspect
import json
import marshal
from typing import Any, get_args

import pytest
from containerd_shimkit.container import apply as module
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import plan_container
from containerd_shimkit.container.steps import Step, describe, steps_of
from containerd_shimkit.linux.capabilities import CAPABILITIES
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec


def ordinary() -> dict[str, Any]:
    document = default_spec(["/app"], cgroups_path="/pod/c1")
    document["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    return document


def plan_of_ordinary() -> tuple[op.Operation, ...]:
    plan = plan_container(parse_spec(json.dumps(ordinary())), "/bundle")
    return (*plan.host, *plan.root, *plan.seal, *plan.process, *plan.last)


def steps_of_ordinary() -> tuple[Step, ...]:
    plan = plan_container(parse_spec(json.dumps(ordinary())), "/bundle")
    steps = steps_of(plan)
    assert (steps.rootfs, steps.user) == ("/bundle/rootfs", 0)
    return (*steps.host, *steps.root, *steps.seal, *steps.process, *steps.last)


def test_each_operation_of_a_plan_becomes_a_step_in_its_place() -> None:
    assert [step[0] for step in steps_of_ordinary()] == [type(each).__name__ for each in plan_of_ordinary()]


def test_a_step_shows_itself_as_its_operation_does() -> None:
    special = (op.JoinCgroup, op.DropPrivileges)  # what an init does not need, or needs in another form
    pairs = [
        pair for pair in zip(steps_of_ordinary(), plan_of_ordinary(), strict=True) if not isinstance(pair[1], special)
    ]
    assert len(pairs) > 40
    assert [describe(step) for step, _ in pairs] == [str(operation) for _, operation in pairs]


def test_capabilities_show_themselves_by_their_names() -> None:
    (step,) = [each for each in steps_of_ordinary() if each[0] == "DropPrivileges"]
    assert "bounding=('CAP_CHOWN', 'CAP_DAC_OVERRIDE', " in describe(step)
    assert "ambient=(), no_new_privileges=True)" in describe(step)


def test_steps_are_plain_values() -> None:
    steps = steps_of_ordinary()
    assert marshal.loads(marshal.dumps(steps)) == steps


def test_capabilities_become_masks() -> None:
    (step,) = [each for each in steps_of_ordinary() if each[0] == "DropPrivileges"]
    (operation,) = [each for each in plan_of_ordinary() if isinstance(each, op.DropPrivileges)]
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    found = dict(zip(op.DropPrivileges.__match_args__, step[1:], strict=True))
    for name in names:
        assert found[name] == sum(1 << CAPABILITIES[each] for each in getattr(operation, name)), name
    assert found["bounding"] > 0


@pytest.mark.parametrize("kind", get_args(op.Operation), ids=lambda kind: kind.__name__)
def test_somebody_carries_each_operation_out_with_its_values(kind: type[op.Operation]) -> None:
    work = module._WORK[kind.__name__]
    assert len(inspect.signature(work).parameters) == 1 + len(kind.__match_args__)
