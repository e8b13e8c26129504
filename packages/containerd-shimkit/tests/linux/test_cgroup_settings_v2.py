from __future__ import annotations

import pytest
from containerd_shimkit.errors import FailedPreconditionError, InvalidArgumentError
from containerd_shimkit.linux.cgroup_settings_v2 import compile_unified, weight_of_shares
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
    return [f"{setting.file}={setting.value}" for setting in compile_unified(resources)]


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (10, 4), (102, 17), (512, 59), (1024, 100), (2048, 174), (10240, 639),
     (262143, 10000), (262144, 10000), (1 << 40, 10000)],
)  # fmt: skip
def test_shares_become_the_weight_that_other_runtimes_give_them(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


@given(st.integers(2, 1 << 18))
def test_more_shares_are_never_less_weight(shares: int) -> None:
    assert 1 <= weight_of_shares(shares) <= weight_of_shares(shares + 1) <= 10000


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (Cpu(shares=1024), ["cpu.weight=100"]),
        (Cpu(shares=0), []),
        (Cpu(quota=50000, period=200000), ["cpu.max=50000 200000"]),
        (Cpu(quota=50000), ["cpu.max=50000 100000"]),
        (Cpu(quota=-1), ["cpu.max=max 100000"]),
        (Cpu(period=50000), ["cpu.max=max 50000"]),
        (Cpu(quota=-1, period=50000), ["cpu.max=max 50000"]),
        (Cpu(quota=0, period=0), []),
        (Cpu(quota=50000, burst=2000), ["cpu.max=50000 100000", "cpu.max.burst=2000"]),
        (Cpu(burst=0), ["cpu.max.burst=0"]),
        (Cpu(idle=1, shares=1024), ["cpu.idle=1"]),
        (Cpu(idle=0, shares=1024), ["cpu.idle=0", "cpu.weight=100"]),
        (Cpu(cpus="0-1", mems="0"), ["cpuset.cpus=0-1", "cpuset.mems=0"]),
    ],
)
def test_processor_time_is_converted(cpu: Cpu, expected: list[str]) -> None:
    assert writes(Resources(cpu=cpu)) == expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (Memory(limit=100), ["memory.max=100"]),
        (Memory(limit=-1), ["memory.max=max", "memory.swap.max=max"]),
        (Memory(limit=-1, swap=-1), ["memory.max=max", "memory.swap.max=max"]),
        (Memory(limit=100, swap=-1), ["memory.max=100", "memory.swap.max=max"]),
        (Memory(limit=100, swap=100), ["memory.max=100", "memory.swap.max=0"]),
        (Memory(limit=100, swap=150), ["memory.max=100", "memory.swap.max=50"]),
        (Memory(swap=-1), ["memory.swap.max=max"]),
        (Memory(limit=0, swap=0), []),
        (Memory(reservation=50), ["memory.low=50"]),
        (Memory(reservation=-1), ["memory.low=max"]),
        (Memory(kernel=-1, kernel_tcp=0, disable_oom_killer=False, use_hierarchy=True, check_before_update=True), []),
    ],
)
def test_memory_is_converted(memory: Memory, expected: list[str]) -> None:
    assert writes(Resources(memory=memory)) == expected


def test_swap_that_nothing_counts_needs_no_limit() -> None:
    for swap in (100, -1):
        assert compile_unified(Resources(memory=Memory(limit=100, swap=swap)))[1].may_lack
    assert not compile_unified(Resources(memory=Memory(limit=100, swap=150)))[1].may_lack


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        (Memory(swap=100), "memory.swap is 100, but memory.limit is None"),
        (Memory(limit=-1, swap=100), "memory.swap is 100, but memory.limit is -1"),
        (Memory(limit=200, swap=100), "memory.swap is 100, which is less than memory.limit, 200"),
    ],
)
def test_a_sum_of_memory_and_swap_has_to_leave_something_for_swap(memory: Memory, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"linux.resources.{says}"):
        compile_unified(Resources(memory=memory))


def test_the_rest_is_converted() -> None:
    resources = Resources(
        devices=(DeviceRule(False),),
        pids=Pids(-1),
        block_io=BlockIo(
            weight=10,
            weight_device=(DeviceWeight(8, 0, 1000), DeviceWeight(8, 16)),
            throttle_read_bps_device=(DeviceRate(8, 0, 1 << 20),),
            throttle_write_bps_device=(DeviceRate(8, 0, 0),),
            throttle_read_iops_device=(DeviceRate(8, 1, 100),),
            throttle_write_iops_device=(DeviceRate(253, 7, 9),),
        ),
        hugepage_limits=(HugepageLimit("2MB", 1 << 22),),
        rdma=(RdmaLimit("mlx5_1", 3, None),),
        unified=(("memory.high", "1000"), ("io.max", "8:0 rbps=1\n8:16 rbps=2"), ("cgroup.max.depth", "3")),
    )
    assert writes(resources) == [
        "pids.max=max",
        "io.bfq.weight=10",
        "io.bfq.weight=8:0 1000",
        f"io.max=8:0 rbps={1 << 20}",
        "io.max=8:0 wbps=max",
        "io.max=8:1 riops=100",
        "io.max=253:7 wiops=9",
        f"hugetlb.2MB.max={1 << 22}",
        f"hugetlb.2MB.rsvd.max={1 << 22}",
        "rdma.max=mlx5_1 hca_handle=3 hca_object=max",
        "memory.high=1000",
        "io.max=8:0 rbps=1",
        "io.max=8:16 rbps=2",
        "cgroup.max.depth=3",
    ]
    instead = [setting.instead for setting in compile_unified(resources) if setting.instead]
    assert instead == [("io.weight", "1"), ("io.weight", "8:0 10000")]
    assert [setting.controller for setting in compile_unified(resources)][-4:] == ["memory", "io", "io", "cgroup"]


@pytest.mark.parametrize(
    "name",
    ["", "memory", "memory.", ".high", "../memory.high", "/sys/fs/cgroup/memory.high", "a/memory.high", "cgroup.procs",
     "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type", "cgroup.subtree_control"],
)  # fmt: skip
def test_a_name_that_is_not_that_of_a_limit_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux.resources.unified\['.*'\] is '1', but its name is not that"):
        compile_unified(Resources(unified=((name, "1"),)))


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (Resources(cpu=Cpu(realtime_runtime=5)), "cpu.realtimeRuntime is 5, but"),
        (Resources(cpu=Cpu(realtime_period=5)), "cpu.realtimePeriod is 5, but"),
        (Resources(memory=Memory(kernel=5)), "memory.kernel is 5, .*: memory.limit counts that memory too"),
        (Resources(memory=Memory(kernel_tcp=5)), "memory.kernelTCP is 5, but"),
        (Resources(memory=Memory(swappiness=0)), "memory.swappiness is 0, but"),
        (Resources(memory=Memory(disable_oom_killer=True)), "memory.disableOOMKiller is True, but"),
        (Resources(memory=Memory(use_hierarchy=False)), "memory.useHierarchy is False, but"),
        (Resources(block_io=BlockIo(leaf_weight=10)), "blockIO.leafWeight is 10, but"),
        (
            Resources(block_io=BlockIo(weight_device=(DeviceWeight(8, 0, None, 7),))),
            r"blockIO.weightDevice\[0\].leafWeight is 7, but",
        ),
        (Resources(network=Network(class_id=1)), "network is .*class_id=1.*, but"),
    ],
)
def test_what_version_2_does_not_have_is_refused_by_name(resources: Resources, says: str) -> None:
    with pytest.raises(FailedPreconditionError, match=f"linux.resources.{says}"):
        compile_unified(resources)


def test_equal_limits_are_compiled_once() -> None:
    first = compile_unified(Resources(cpu=Cpu(shares=77)))
    assert compile_unified(Resources(cpu=Cpu(shares=77))) is first
