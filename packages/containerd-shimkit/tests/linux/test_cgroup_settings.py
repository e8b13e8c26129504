from __future__ import annotations

import pytest
from containerd_shimkit.errors import InvalidArgumentError, UnimplementedError
from containerd_shimkit.linux.cgroup_settings import Setting, compile_resources
from containerd_shimkit.oci.resources import Cpu, DeviceRule, Memory, Pids, Resources
from hypothesis import given
from hypothesis import strategies as st


def writes(resources: Resources) -> list[str]:
    return [f"{setting.file}={setting.value}" for setting in compile_resources(resources)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (DeviceRule(False, access="rwm"), ["devices.deny=a *:* rwm"]),
        (DeviceRule(False), ["devices.deny=a *:* rwm"]),
        (DeviceRule(True, "a", None, None, "mwr"), ["devices.allow=a *:* mwr"]),
        (DeviceRule(True, "c", 1, 3, "rw"), ["devices.allow=c 1:3 rw"]),
        (DeviceRule(True, "b", 8, None, "m"), ["devices.allow=b 8:* m"]),
        (DeviceRule(True, "", 1, 3, "rwm"), ["devices.allow=b 1:3 rwm", "devices.allow=c 1:3 rwm"]),
        (DeviceRule(True, "a", None, None, "m"), ["devices.allow=b *:* m", "devices.allow=c *:* m"]),
        (DeviceRule(False, "c", None, None, ""), ["devices.deny=c *:* rwm"]),
    ],
)
def test_a_device_rule_becomes_what_the_kernel_understands_by_it(rule: DeviceRule, expected: list[str]) -> None:
    assert writes(Resources(devices=(rule,))) == expected


@given(
    st.builds(
        DeviceRule,
        st.just(True),
        st.sampled_from(["", "a", "b", "c"]),
        st.none() | st.integers(0, 300),
        st.none() | st.integers(0, 300),
        st.text("rwm", min_size=1, max_size=3),
    )
)
def test_only_a_rule_for_all_devices_and_all_access_becomes_the_kernels_rule_for_all(rule: DeviceRule) -> None:
    # to the kernel, an allowed `a` means everything, whatever numbers and letters follow
    everything = rule.type in ("", "a") and (rule.major, rule.minor) == (None, None) and set(rule.access) == set("rwm")
    assert any("=a " in each for each in writes(Resources(devices=(rule,)))) == everything


def test_rules_keep_their_order_and_say_where_they_are_from() -> None:
    rules = (DeviceRule(False, access="rwm"), DeviceRule(True, "c", 5, 0, "rw"), DeviceRule(False, "c", 5, 0, "w"))
    assert compile_resources(Resources(devices=rules)) == (
        Setting("devices", "devices.deny", "a *:* rwm", "devices[0]"),
        Setting("devices", "devices.allow", "c 5:0 rw", "devices[1]"),
        Setting("devices", "devices.deny", "c 5:0 w", "devices[2]"),
    )


def test_an_allow_rule_without_access_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux.resources.devices\[0\].access is empty"):
        compile_resources(Resources(devices=(DeviceRule(True, "c", 1, 3),)))


def test_every_limit_goes_to_its_file() -> None:
    resources = Resources(
        cpu=Cpu(shares=512, quota=50000, period=100000, burst=1000, cpus="0-1", mems="0"),
        memory=Memory(
            limit=1 << 25, reservation=1 << 24, swap=1 << 26, kernel_tcp=1 << 20, swappiness=0, disable_oom_killer=True,
            use_hierarchy=True,
        ),
        pids=Pids(64),
    )  # fmt: skip
    assert writes(resources) == [
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "cpu.shares=512",
        "cpu.cfs_period_us=100000",
        "cpu.cfs_quota_us=50000",
        "cpu.cfs_burst_us=1000",
        "memory.use_hierarchy=1",
        f"memory.limit_in_bytes={1 << 25}",
        f"memory.memsw.limit_in_bytes={1 << 26}",
        f"memory.soft_limit_in_bytes={1 << 24}",
        f"memory.kmem.tcp.limit_in_bytes={1 << 20}",
        "memory.swappiness=0",
        "memory.oom_control=1",
        "pids.max=64",
    ]


def test_what_is_not_set_is_not_written() -> None:
    nothing = Resources(cpu=Cpu(shares=0, quota=0, period=0), memory=Memory(limit=0, swap=0), pids=Pids(0))
    assert writes(nothing) == writes(Resources()) == []


def test_no_limit_at_all_raises_the_sum_first() -> None:
    assert writes(Resources(memory=Memory(limit=-1, swap=-1), pids=Pids(-1))) == [
        "memory.memsw.limit_in_bytes=-1",
        "memory.limit_in_bytes=-1",
        "pids.max=max",
    ]


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        (Resources(block_io={"weight": 10}), "blockIO is {'weight': 10}"),
        (Resources(network={"classID": 1}), "network"),
        (Resources(hugepage_limits=({"pageSize": "2MB"},)), "hugepageLimits"),
        (Resources(rdma={"x": {}}), "rdma"),
        (Resources(unified={"memory.high": "1"}), "unified"),
        (Resources(cpu=Cpu(realtime_runtime=1)), "cpu.realtimeRuntime is 1"),
        (Resources(cpu=Cpu(realtime_period=1)), "cpu.realtimePeriod"),
        (Resources(cpu=Cpu(idle=1)), "cpu.idle"),
        (Resources(memory=Memory(kernel=5)), "memory.kernel is 5"),
    ],
)
def test_a_limit_that_is_not_carried_out_is_refused_by_name(resources: Resources, field: str) -> None:
    with pytest.raises(UnimplementedError, match=f"linux.resources.{field}"):
        compile_resources(resources)


def test_equal_limits_are_compiled_once() -> None:
    first = compile_resources(Resources(cpu=Cpu(shares=77)))
    assert compile_resources(Resources(cpu=Cpu(shares=77))) is first
