from __future__ import annotations

import re

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.linux.cgroup import is_scope_path
from containerd_shimkit.linux.systemd_scope import ScopeName, parse_scope_path, properties_of
from containerd_shimkit.oci.resources import BlockIo, Cpu, DeviceRule, Memory, Pids, Resources

INFINITY = (1 << 64) - 1


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("kubepods-pod1.slice:cri-containerd:c1", True),
        (":cri:c1", True),
        ("::", True),
        ("/default/c1", False),
        ("/a:b:c", False),
        ("a:b:c/d", False),
        ("a:b", False),
        ("", False),
    ],
)
def test_the_form_tells_which_driver_is_meant(path: str, is_one: bool) -> None:
    assert is_scope_path(path) is is_one


@pytest.mark.parametrize(
    ("path", "slice_name", "unit", "directory"),
    [
        ("a.slice:cri:c1", "a.slice", "cri-c1.scope", "/a.slice/cri-c1.scope"),
        (
            "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
            "kubepods-burstable-pod1_2.slice",
            "cri-containerd-abc.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
        ),
        (":cri:c1", "system.slice", "cri-c1.scope", "/system.slice/cri-c1.scope"),
        ("-.slice:cri:c1", "-.slice", "cri-c1.scope", "/cri-c1.scope"),
        ("a.slice::c1", "a.slice", "c1.scope", "/a.slice/c1.scope"),
        ("", "system.slice", "containerd-shimkit-id.scope", "/system.slice/containerd-shimkit-id.scope"),
    ],
)
def test_a_path_names_a_scope_in_nested_slices(path: str, slice_name: str, unit: str, directory: str) -> None:
    name = parse_scope_path(path, "id")
    assert name == ScopeName(slice_name, unit)
    assert name.path == directory


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/default/c1", "takes slice:prefix:name"),
        ("a.slice:cri:", "cannot be the name of a systemd unit"),
        ("a.slice:cri:c 1", "cannot be the name of a systemd unit"),
        ("a.slice:cri:é", "cannot be the name of a systemd unit"),
        (f"a.slice:cri:{'x' * 250}", "cannot be the name of a systemd unit"),
        ("a.slice:cri:b.slice", "a scope of its own"),
        ("a:cri:c1", "'a' cannot be the name of a systemd slice"),
        ("..:cri:c1", "'..' cannot be the name of a systemd slice"),
        (".slice:cri:c1", "cannot be the name of a systemd slice"),
        ("a--b.slice:cri:c1", "cannot be the name of a systemd slice"),
        ("-a.slice:cri:c1", "cannot be the name of a systemd slice"),
        ("a-.slice:cri:c1", "cannot be the name of a systemd slice"),
        (f"{'x' * 250}.slice:cri:c1", "is too long"),
    ],
)
def test_what_names_no_scope_is_refused_with_the_field_and_its_value(path: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(f"linux.cgroupsPath is {path!r}: ")) as caught:
        parse_scope_path(path, "id")
    assert said in str(caught.value)


def numbers(resources: Resources, version: int) -> dict[str, object]:
    found = dict(properties_of(resources, version))
    assert {signature for signature, _ in found.values()} <= {"t", "ay", "s", "a(ss)"}
    return {name: value for name, (_, value) in found.items()}


def test_nothing_is_said_of_what_is_not_limited() -> None:
    for version in (1, 2):
        assert numbers(Resources(), version) == {}
        assert numbers(Resources(cpu=Cpu(), memory=Memory(), pids=Pids()), version) == {}
        assert numbers(Resources(cpu=Cpu(shares=0, quota=0), memory=Memory(limit=0), pids=Pids(0)), version) == {}


def test_the_limits_of_version_2() -> None:
    resources = Resources(
        cpu=Cpu(shares=1024, quota=12_345, period=50_000, cpus="0-1,9", mems="0"),
        memory=Memory(limit=100, reservation=50, swap=150),
        pids=Pids(7),
        block_io=BlockIo(weight=20),
        devices=(DeviceRule(allow=False),),
    )
    assert numbers(resources, 2) == {
        "CPUWeight": 100,
        "CPUQuotaPeriodUSec": 50_000,
        "CPUQuotaPerSecUSec": 250_000,  # 246900 in whole percents
        "AllowedCPUs": b"\x03\x02",
        "AllowedMemoryNodes": b"\x01",
        "MemoryMax": 100,
        "MemoryLow": 50,
        "MemorySwapMax": 50,
        "TasksMax": 7,
        "IOWeight": 20,
    }


def test_the_limits_of_version_1() -> None:
    resources = Resources(
        cpu=Cpu(shares=512, quota=-1, cpus="0"),
        memory=Memory(limit=100, reservation=50, swap=150),
        pids=Pids(-1),
        block_io=BlockIo(weight=20),
    )
    assert numbers(resources, 1) == {
        "CPUShares": 512,
        "CPUQuotaPerSecUSec": INFINITY,
        "MemoryLimit": 100,
        "TasksMax": INFINITY,
        "BlockIOWeight": 20,
    }


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (Memory(limit=-1), {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        (Memory(limit=5, swap=-1), {"MemoryMax": 5, "MemorySwapMax": INFINITY}),
        (Memory(limit=5, swap=5), {"MemoryMax": 5, "MemorySwapMax": 0}),
        (Memory(limit=5), {"MemoryMax": 5}),
    ],
)
def test_swap_is_what_the_sum_leaves_for_it(memory: Memory, said: dict[str, object]) -> None:
    assert numbers(Resources(memory=memory), 2) == said


def test_an_idle_group_has_no_weight() -> None:
    assert numbers(Resources(cpu=Cpu(shares=1024, idle=1)), 2) == {}


@pytest.mark.parametrize("cpus", ["x", "1-", "-1", "0,,1", "99999"])
def test_a_list_that_is_none_is_refused(cpus: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux\.resources\.cpu\.cpus is"):
        numbers(Resources(cpu=Cpu(cpus=cpus)), 2)


DENY_ALL = DeviceRule(allow=False, access="rwm")


@pytest.mark.parametrize(
    ("rules", "policy", "allowed"),
    [
        ((DENY_ALL,), "strict", []),
        ((DENY_ALL, DeviceRule(True, "c", 1, 3, "rw")), "strict", [("/dev/char/1:3", "rw")]),
        ((DENY_ALL, DeviceRule(True, "c", 136, None, "rwm")), "strict", [("char-136", "rwm")]),
        ((DENY_ALL, DeviceRule(True, "b", None, None, "m")), "strict", [("block-*", "m")]),
        ((DENY_ALL, DeviceRule(True, "", 1, 3, "r")), "strict", [("/dev/block/1:3", "r"), ("/dev/char/1:3", "r")]),
        ((DENY_ALL, DeviceRule(True, "a", access="rwm")), "auto", []),
        ((DeviceRule(True, "c", 1, 3, "rw"), DENY_ALL), "strict", []),
    ],
)
def test_devices_are_told_to_the_systemd_of_version_1(
    rules: tuple[DeviceRule, ...], policy: str, allowed: list[tuple[str, str]]
) -> None:
    assert numbers(Resources(devices=rules), 1) == {"DevicePolicy": policy, "DeviceAllow": allowed}
