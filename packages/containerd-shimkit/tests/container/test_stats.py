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
from containerd_shimkit.linux.cgroup_mounts import find_hierarchies
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.mounts import read_mountinfo
from containerd_shimkit.oci.resources import Memory, Pids, Resources
from containerd_shimkit.proto import cgroups_v1_pb2 as v1

FILES = {
    "pids/pids.max": "max\n",
    "pids/pids.current": "3\n",
    "cpu/cpu.stat": "nr_periods 10\nnr_throttled 2\nthrottled_time 300\nnr_bursts 0\nburst_time 0\n",
    "cpuacct/cpuacct.usage": "1934982264288\n",
    "cpuacct/cpuacct.stat": "user 155\nsystem 38\n",
    "cpuacct/cpuacct.usage_percpu": "719571602137 1215410662151 \n",
    "memory/memory.stat": "cache 1\nrss 2\npgpgin 3\npgmajfault 4\nhierarchical_memory_limit 9223372036854771712\n"
    "hierarchical_memsw_limit 7\ntotal_rss 8\ntotal_inactive_file 9\ntotal_pgfault 10\ntotal_pgmajfault 11\nodd x\n",
    "memory/memory.usage_in_bytes": "100\n",
    "memory/memory.limit_in_bytes": "200\n",
    "memory/memory.max_usage_in_bytes": "150\n",
    "memory/memory.failcnt": "5\n",
    "memory/memory.oom_control": "oom_kill_disable 1\nunder_oom 0\noom_kill 6\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 0\n253:16 Read 7\nTotal 4103\n",
    "blkio/blkio.throttle.io_serviced_recursive": "Total 0\n",
    "hugetlb/hugetlb.2MB.limit_in_bytes": "1\n",
    "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes": "1\n",
    "hugetlb/hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "hugetlb/hugetlb.2MB.failcnt": "9\n",
    "rdma/rdma.current": "mlx4_0 hca_handle=2 hca_object=2000\n",
    "rdma/rdma.max": "mlx4_0 hca_handle=3 hca_object=max\n",
}


@pytest.fixture
def figures(tmp_path: Path) -> CgroupV1:
    """A group whose files say the above."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return CgroupV1({path.name: str(path) for path in tmp_path.iterdir()})


def metrics_of(group: CgroupV1) -> v1.Metrics:
    encoded = read_stats(group)
    assert encoded.type_url == "io.containerd.cgroups.v1.Metrics"
    return v1.Metrics.FromString(encoded.value)


def test_every_figure_comes_where_its_reader_looks(figures: CgroupV1) -> None:
    found = metrics_of(figures)
    assert (found.pids.current, found.pids.limit) == (3, 0)
    usage, throttling = found.cpu.usage, found.cpu.throttling
    assert (usage.total, usage.user, usage.kernel) == (1934982264288, 1550000000, 380000000)
    assert list(usage.per_cpu) == [719571602137, 1215410662151]
    assert (throttling.periods, throttling.throttled_periods, throttling.throttled_time) == (10, 2, 300)
    memory = found.memory
    assert (memory.cache, memory.rss, memory.pg_pg_in, memory.pg_maj_fault) == (1, 2, 3, 4)
    assert (memory.hierarchical_memory_limit, memory.hierarchical_swap_limit) == (9223372036854771712, 7)
    assert (memory.total_rss, memory.total_inactive_file) == (8, 9)
    assert (memory.total_pg_fault, memory.total_pg_maj_fault) == (10, 11)
    assert memory.usage == v1.MemoryEntry(usage=100, limit=200, max=150, failcnt=5)
    assert found.memory_oom_control == v1.MemoryOomControl(oom_kill_disable=1, oom_kill=6)
    entries = found.blkio.io_service_bytes_recursive
    assert [(each.op, each.major, each.minor, each.value) for each in entries] == [
        ("Read", 8, 0, 4096),
        ("Write", 8, 0, 0),
        ("Read", 253, 16, 7),
    ]
    assert list(found.hugetlb) == [v1.HugetlbStat(pagesize="2MB", usage=2097152, max=4194304, failcnt=9)]
    assert list(found.rdma.current) == [v1.RdmaEntry(device="mlx4_0", hca_handles=2, hca_objects=2000)]
    assert list(found.rdma.limit) == [v1.RdmaEntry(device="mlx4_0", hca_handles=3, hca_objects=(1 << 32) - 1)]


def test_what_callers_read_through_is_there_whatever_the_host_lacks(figures: CgroupV1) -> None:
    only_cpu = metrics_of(CgroupV1({"cpu": figures.paths["cpu"]}))
    assert only_cpu.cpu.HasField("usage")
    assert only_cpu.cpu.HasField("throttling")
    assert not only_cpu.HasField("memory")
    only_memory = metrics_of(CgroupV1({"memory": figures.paths["memory"]}))
    assert all(only_memory.memory.HasField(entry) for entry in ("usage", "swap", "kernel", "kernel_tcp"))


def test_a_figure_that_the_kernel_does_not_keep_is_left_out(figures: CgroupV1) -> None:
    for path in figures.paths.values():
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
    found = metrics_of(figures)
    assert found.cpu.HasField("usage")
    assert found.memory.usage == v1.MemoryEntry()
    assert (list(found.hugetlb), list(found.rdma.limit), list(found.blkio.io_serviced_recursive)) == ([], [], [])


def test_the_schedulers_own_figures_stand_in_for_what_throttling_does_not_count(figures: CgroupV1) -> None:
    blkio = Path(figures.paths["blkio"])
    (blkio / "blkio.bfq.io_serviced_recursive").write_text("8:0 Read 3\nTotal 3\n")
    (blkio / "blkio.bfq.time_recursive").write_text("8:0 77\n")
    (blkio / "blkio.io_queued_recursive").write_text("8:0 Sync 2\nTotal 2\n")
    (blkio / "blkio.sectors_recursive").write_text("7:999999 5\n")
    found = metrics_of(figures).blkio
    assert [(each.op, each.value) for each in found.io_serviced_recursive] == [("Read", 3)]
    assert [(each.op, each.value) for each in found.io_time_recursive] == [("", 77)]
    assert [(each.op, each.value) for each in found.io_queued_recursive] == [("Sync", 2)]
    assert list(found.sectors_recursive) == [v1.BlkIOEntry(major=7, minor=999999, value=5)], "a device that has gone"


def test_a_block_device_is_named(figures: CgroupV1) -> None:
    numbers = os.listdir("/sys/dev/block")
    if not numbers:
        pytest.skip("this machine has no block devices")
    name = os.path.basename(os.readlink(f"/sys/dev/block/{numbers[0]}"))
    Path(figures.paths["blkio"], "blkio.throttle.io_serviced_recursive").write_text(f"{numbers[0]} Read 1\n")
    (found,) = metrics_of(figures).blkio.io_serviced_recursive
    assert found.device == f"/dev/{name}"


def test_a_group_that_is_gone_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=f"the container's cgroup is gone: {tmp_path}/none"):
        read_stats(CgroupV1({"pids": f"{tmp_path}/none", "cpu": f"{tmp_path}/none"}))


@pytest.mark.parametrize(("number", "kind"), [(errno.ENODEV, NotFoundError), (errno.EACCES, PermissionError)])
def test_only_a_removal_counts_as_gone(
    figures: CgroupV1, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fails(figures: Figures, name: str) -> str:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(Figures, "text", fails)
    with pytest.raises(kind):
        read_stats(figures)


@pytest.fixture
def group() -> Iterator[CgroupV1]:
    if not find_hierarchies(read_mountinfo()).v1:
        pytest.skip("this host has no cgroup version 1 hierarchies")
    made = CgroupV1.for_path(f"/shimkit-test-stats-{os.getpid()}")
    made.create()
    yield made
    made.kill_all()
    made.remove()


@pytest.mark.root
def test_the_kernels_own_figures_are_read(group: CgroupV1) -> None:
    group.apply(Resources(memory=Memory(limit=1 << 26), pids=Pids(9)))
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
    found = metrics_of(group)
    assert (found.pids.current, found.pids.limit) == (1, 9)
    assert found.memory.usage.limit == 1 << 26
    assert 1 << 22 <= found.memory.usage.usage < 1 << 26
    assert found.memory.total_rss >= 1 << 21
    assert found.cpu.usage.total > 10_000_000
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    group.remove()
    with pytest.raises(NotFoundError):
        read_stats(group)
