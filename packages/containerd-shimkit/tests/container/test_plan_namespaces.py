"""Which namespaces a plan makes and enters, in which order, and what is set in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import Plan, plan_container
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec


def plan_of(namespaces: list[dict[str, str]], **linux: Any) -> Plan:
    document = default_spec(["/app"], cgroups_path="/pod/c1")
    document["linux"] |= {"namespaces": namespaces, **linux}
    return plan_container(parse_spec(json.dumps(document)), "/bundle")


def test_a_new_time_namespace_has_its_clocks_set() -> None:
    offsets = {"boottime": {"secs": -7, "nanosecs": 5}, "monotonic": {"secs": 86400}}
    plan = plan_of([{"type": "mount"}, {"type": "time"}], timeOffsets=offsets)
    assert plan.host[1:] == (op.Unshare(("mount",)), op.NewTimeNamespace("monotonic 86400 0\nboottime -7 5\n"))


def test_it_need_not() -> None:
    assert op.NewTimeNamespace("") in plan_of([{"type": "mount"}, {"type": "time"}]).host


def test_an_existing_time_namespace_is_joined_as_it_is() -> None:
    time = {"type": "time", "path": "/proc/1/ns/time"}
    assert plan_of([{"type": "mount"}, time]).host[1] == op.JoinNamespace("time", "/proc/1/ns/time")
    with pytest.raises(InvalidArgumentError, match=r"linux\.timeOffsets is set, but .* no new namespace of type"):
        plan_of([{"type": "mount"}, time], timeOffsets={"boottime": {"secs": 1}})


def test_the_hosts_clocks_are_not_set() -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux\.timeOffsets is set"):
        plan_of([{"type": "mount"}], timeOffsets={"boottime": {"secs": 1}})


def test_interfaces_are_moved_before_anybody_looks_at_the_container() -> None:
    plan = plan_of([{"type": "mount"}, {"type": "network"}], netDevices={"eth1": {"name": "eth0"}})
    assert plan.root[-1] == op.WaitForNetDevices()
    assert op.WaitForNetDevices() not in plan_of([{"type": "mount"}]).root
