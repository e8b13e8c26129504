from __future__ import annotations

import pytest
from containerd_shimkit.errors import FailedPreconditionError, InvalidArgumentError
from containerd_shimkit.linux.cgroup_settings import Setting, compile_resources
from containerd_shimkit.oci.resources import (
    BlockIo,
    Cpu,
    DeviceRate,
    DeviceRule,
    DeviceWeight,
    HugepageLimit,
    Memory,
    Network,
    Pids,
    RdmaLimit,
    Resources,
)
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
    first = DeviceRule(False, access="rwm")
    assert writes(Resources(devices=(first, rule))) == ["devices.deny=a *:* rwm", *expected]


def test_rules_that_begin_with_neither_all_nor_nothing_begin_with_nothing() -> None:
    """A group starts with what the one above allows, and one that is updated with what was asked for before."""
    only = DeviceRule(True, "c", 1, 3, "rw")
    assert writes(Resources(devices=(only,))) == ["devices.deny=a *:* rwm", "devices.allow=c 1:3 rw"]
    assert writes(Resources(devices=(DeviceRule(True, access="rwm"),))) == ["devices.allow=a *:* rwm"]


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
    first = DeviceRule(False, access="rwm")
    assert any("=a " in each for each in writes(Resources(devices=(first, rule)))[1:]) == everything


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


def test_the_rest_of_the_limits_go_to_their_files() -> None:
    resources = Resources(
        cpu=Cpu(realtime_runtime=5000, realtime_period=1000000),
        memory=Memory(kernel=1 << 22),
        block_io=BlockIo(
            weight=300,
            leaf_weight=20,
            weight_device=(DeviceWeight(8, 0, 500, 40), DeviceWeight(8, 16)),
            throttle_read_bps_device=(DeviceRate(8, 0, 1 << 20),),
            throttle_write_bps_device=(DeviceRate(8, 0, 0),),
            throttle_read_iops_device=(DeviceRate(8, 1, 100), DeviceRate(8, 2, 200)),
            throttle_write_iops_device=(DeviceRate(253, 7, 9),),
        ),
        hugepage_limits=(HugepageLimit("2MB", 1 << 22), HugepageLimit("1GB", 0)),
        rdma=(RdmaLimit("mlx5_1", 3, None), RdmaLimit("mlx4_0", None, 10)),
        network=Network(0x100001, (("eth0", 500), ("lo", 0))),
    )
    assert writes(resources) == [
        "cpu.rt_period_us=1000000",
        "cpu.rt_runtime_us=5000",
        f"memory.kmem.limit_in_bytes={1 << 22}",
        "blkio.weight=300",
        "blkio.leaf_weight=20",
        "blkio.weight_device=8:0 500",
        "blkio.leaf_weight_device=8:0 40",
        f"blkio.throttle.read_bps_device=8:0 {1 << 20}",
        "blkio.throttle.write_bps_device=8:0 0",
        "blkio.throttle.read_iops_device=8:1 100",
        "blkio.throttle.read_iops_device=8:2 200",
        "blkio.throttle.write_iops_device=253:7 9",
        f"hugetlb.2MB.limit_in_bytes={1 << 22}",
        f"hugetlb.2MB.rsvd.limit_in_bytes={1 << 22}",
        "hugetlb.1GB.limit_in_bytes=0",
        "hugetlb.1GB.rsvd.limit_in_bytes=0",
        "rdma.max=mlx5_1 hca_handle=3 hca_object=max",
        "rdma.max=mlx4_0 hca_handle=max hca_object=10",
        f"net_cls.classid={0x100001}",
        "net_prio.ifpriomap=eth0 500",
        "net_prio.ifpriomap=lo 0",
    ]
    by_field = {each.field: each for each in compile_resources(resources)}
    assert by_field["blockIO.weight"].instead == ("blkio.bfq.weight", "300")
    assert by_field["blockIO.weightDevice[0].weight"].instead == ("blkio.bfq.weight_device", "8:0 500")
    assert by_field["blockIO.throttleReadIOPSDevice[1]"].value == "8:2 200"
    assert [each.may_lack for each in compile_resources(resources) if each.field == "hugepageLimits[0]"] == [
        False,
        True,
    ]


def test_an_idle_group_gets_no_shares_and_one_that_is_no_longer_idle_gets_them_last() -> None:
    assert writes(Resources(cpu=Cpu(shares=512, idle=1))) == ["cpu.idle=1"]
    assert writes(Resources(cpu=Cpu(shares=512, idle=0))) == ["cpu.idle=0", "cpu.shares=512"]
    assert compile_resources(Resources(cpu=Cpu(idle=0)))[0].may_lack, "an older kernel has no idle groups"


def test_what_only_version_2_has_is_refused_by_name() -> None:
    with pytest.raises(FailedPreconditionError, match=r"linux.resources.unified has 'memory.high', but this host uses"):
        compile_resources(Resources(unified=(("memory.high", "1"),)))


def test_equal_limits_are_compiled_once() -> None:
    first = compile_resources(Resources(cpu=Cpu(shares=77)))
    assert compile_resources(Resources(cpu=Cpu(shares=77))) is first
