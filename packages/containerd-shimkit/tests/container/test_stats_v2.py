from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_shimkit.container.figures import Figures
from containerd_shimkit.container.stats import read_stats
from containerd_shimkit.errors import NotFoundError
from containerd_shimkit.linux.cgroup_files import make_directory
from containerd_shimkit.linux.cgroup_mounts import read_hierarchies
from containerd_shimkit.linux.cgroup_v2 import CgroupV2
from containerd_shimkit.oci.resources import Memory, Pids, Resources
from containerd_shimkit.proto import cgroups_v2_pb2 as v2

MOST = (1 << 64) - 1
PRESSURE = "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.12 total=7\n"
FILES = {
    "pids.current": "3\n",
    "pids.max": "max\n",
    "cpu.stat": "usage_usec 100\nuser_usec 60\nsystem_usec 40\ncore_sched.force_idle_usec 0\nnr_periods 5\n"
    "nr_throttled 2\nthrottled_usec 30\nnr_bursts 1\nburst_usec 9\n",
    "cpu.pressure": PRESSURE,
    "memory.stat": "anon 11\nfile 12\nkernel 1\nslab 13\nworkingset_refault_anon 14\npgmajfault 15\n"
    "thp_fault_alloc 16\n",
    "memory.current": "1000\n",
    "memory.max": "max\n",
    "memory.peak": "2000\n",
    "memory.swap.current": "5\n",
    "memory.swap.max": "4096\n",
    "memory.events": "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
    "memory.pressure": PRESSURE,
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n253:16 \n(unknown) rbytes=1\n",
    "io.pressure": PRESSURE,
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.max": "max\n",
    "hugetlb.2MB.rsvd.max": "0\n",
    "rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma.max": "mlx4_0 hca_handle=3 hca_object=max\n",
}


@pytest.fixture
def figures(tmp_path: Path) -> CgroupV2:
    """A group whose files say the above."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return CgroupV2({"unified": str(tmp_path)})


def metrics_of(group: CgroupV2) -> v2.Metrics:
    encoded = read_stats(group)
    assert encoded.type_url == "io.containerd.cgroups.v2.Metrics"
    return v2.Metrics.FromString(encoded.value)


def test_every_figure_comes_where_its_reader_looks(figures: CgroupV2) -> None:
    found = metrics_of(figures)
    some = v2.PSIData(avg10=1.5, avg60=0.25, total=42)
    pressure = v2.PSIStats(some=some, full=v2.PSIData(avg300=0.12, total=7))
    assert found.pids == v2.PidsStat(current=3, limit=MOST)
    assert found.cpu == v2.CPUStat(
        usage_usec=100, user_usec=60, system_usec=40, nr_periods=5, nr_throttled=2, throttled_usec=30, nr_bursts=1,
        burst_usec=9, psi=pressure,
    )  # fmt: skip
    assert found.memory == v2.MemoryStat(
        anon=11, file=12, slab=13, workingset_refault_anon=14, pgmajfault=15, thp_fault_alloc=16, usage=1000,
        usage_limit=MOST, max_usage=2000, swap_usage=5, swap_limit=4096, psi=pressure,
    )  # fmt: skip
    assert found.memory_events == v2.MemoryEvents(low=1, high=2, max=3, oom=4, oom_kill=5, oom_group_kill=6)
    assert found.io == v2.IOStat(
        usage=[v2.IOEntry(major=8, rbytes=10, wbytes=20, rios=1, wios=2), v2.IOEntry(major=253, minor=16)], psi=pressure
    )
    assert list(found.hugetlb) == [v2.HugeTlbStat(pagesize="2MB", current=2097152, max=MOST)]
    assert list(found.rdma.current) == [v2.RdmaEntry(device="mlx4_0", hca_handles=2, hca_objects=2000)]
    assert list(found.rdma.limit) == [v2.RdmaEntry(device="mlx4_0", hca_handles=3, hca_objects=(1 << 32) - 1)]


def test_a_controller_that_is_not_enabled_is_left_out(figures: CgroupV2) -> None:
    for name in FILES:
        os.unlink(f"{figures.directory}/{name}")
    assert metrics_of(figures) == v2.Metrics()


@pytest.mark.parametrize("name", sorted(set(FILES) - {"pids.current", "memory.current"}))
def test_a_figure_that_the_kernel_does_not_keep_is_left_out(figures: CgroupV2, name: str) -> None:
    os.unlink(f"{figures.directory}/{name}")
    found = metrics_of(figures)
    assert (found.pids.current, found.memory.usage) == (3, 1000)


def test_a_group_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"the container's cgroup is gone: {tmp_path}/none"):
        read_stats(CgroupV2({"unified": f"{tmp_path}/none"}))


@pytest.mark.parametrize(("number", "kind"), [(errno.ENODEV, NotFoundError), (errno.EACCES, PermissionError)])
def test_only_a_removal_counts_as_gone(
    figures: CgroupV2, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fails(figures: Figures, name: str) -> str:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(Figures, "text", fails)
    with pytest.raises(kind):
        read_stats(figures)


@pytest.fixture
def group() -> Iterator[CgroupV2]:
    if read_hierarchies().v2 is None:
        pytest.skip("this host has no cgroup version 2 hierarchy")
    made = CgroupV2.for_path(f"/shimkit-test-stats-{os.getpid()}")
    make_directory(made.directory)
    yield made
    made.kill_all()
    made.remove()


def run_busily(group: CgroupV2) -> int:
    """A process in the group that has used 30 ms and 4 MiB, and waits."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            group.join()
            kept = bytearray(os.urandom(1 << 22))
            until = time.process_time() + 0.03
            while time.process_time() < until:
                pass
            os.write(is_ready, b"x")
            signal.pause()
            del kept
        finally:
            os._exit(1)
    os.close(is_ready)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


@pytest.mark.root
def test_the_kernels_own_figures_are_read(group: CgroupV2) -> None:
    has_controllers = read_hierarchies().is_unified
    if has_controllers:
        group.create()
        group.apply(Resources(memory=Memory(limit=1 << 26, swap=1 << 26), pids=Pids(9)))
    pid = run_busily(group)
    found = metrics_of(group)
    assert found.cpu.usage_usec > 10_000  # which is counted without a controller
    assert found.HasField("memory") == found.HasField("pids") == has_controllers
    if has_controllers:
        assert (found.pids.current, found.pids.limit) == (1, 9)
        assert (found.memory.usage_limit, found.memory.swap_limit) == (1 << 26, 0)
        assert 1 << 22 <= found.memory.usage < 1 << 26
        assert found.memory.anon >= 1 << 21
        assert found.memory.pgfault > 0
        assert found.memory_events.oom_kill == 0
    group.kill_all()
    os.waitpid(pid, 0)
    group.remove()
    with pytest.raises(NotFoundError):
        read_stats(group)
