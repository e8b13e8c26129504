from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containerd_shimkit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnimplementedError,
)
from containerd_shimkit.linux import cgroup, cgroup_v1, mounts
from containerd_shimkit.linux.cgroup import FreezerState
from containerd_shimkit.linux.cgroup_mounts import find_hierarchies
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.mounts import parse_mountinfo, read_mountinfo
from containerd_shimkit.oci.resources import (
    BlockIo,
    Cpu,
    DeviceRate,
    DeviceRule,
    HugepageLimit,
    Memory,
    Network,
    Pids,
    RdmaLimit,
    Resources,
)

InChild = Callable[[Callable[[], object]], None]

HYBRID = """\
32 31 0:29 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd,release_agent=/x
38 31 0:36 /docker/abc /cg/pids rw - cgroup cgroup rw,pids,clone_children
41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw
42 31 0:39 / /tmp rw - tmpfs cpu rw
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Pretends a host's table of mounts, and what groups this process is in."""

    def pretend(mountinfo: str, own: str = "") -> None:
        groups = dict(line.split(":", 1) for line in own.split())
        monkeypatch.setattr(cgroup_v1, "read_hierarchies", lambda: find_hierarchies(parse_mountinfo(mountinfo)))
        monkeypatch.setattr(cgroup_v1, "own_groups", lambda: groups)

    return pretend


def test_an_absolute_path_counts_from_each_mount(host: Callable[[str], None]) -> None:
    host(HYBRID)
    group = CgroupV1.for_path("/default//c1/")
    assert group.paths == {
        "cpu": "/cg/cpu,cpuacct/default/c1",
        "cpuacct": "/cg/cpu,cpuacct/default/c1",
        "name=systemd": "/cg/systemd/default/c1",
        "pids": "/cg/pids/default/c1",
    }
    assert CgroupV1.from_paths(json.loads(json.dumps(group.paths))).paths == group.paths


def test_a_relative_or_empty_path_counts_from_our_own_group(host: Callable[[str, str], None]) -> None:
    host(HYBRID, "cpu:/a/b cpuacct:/a/b pids:/docker/abc/sub name=systemd:/")
    expected = {
        "cpu": "/cg/cpu,cpuacct/a/b/c1",
        "cpuacct": "/cg/cpu,cpuacct/a/b/c1",
        "name=systemd": "/cg/systemd/c1",
        "pids": "/cg/pids/sub/c1",
    }
    assert CgroupV1.for_path("c1").paths == expected
    assert CgroupV1.for_path("", id="c1").paths == expected


def test_our_own_group_may_be_outside_of_what_is_mounted(host: Callable[[str, str], None]) -> None:
    host(HYBRID, "pids:/elsewhere")
    assert CgroupV1.for_path("c1").paths["pids"] == "/cg/pids/c1"


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("", InvalidArgumentError, "linux.cgroupsPath is ''; it must name a group"),
        ("/", InvalidArgumentError, "linux.cgroupsPath is '/'"),
        ("/./", InvalidArgumentError, "linux.cgroupsPath is '/./'"),
        ("/a/../..", InvalidArgumentError, "without `..`"),
        ("../x", InvalidArgumentError, "without `..`"),
        ("/a\0b", InvalidArgumentError, "linux.cgroupsPath"),
        (
            "kubepods-pod1.slice:cri-containerd:c1",
            UnimplementedError,
            "'kubepods-pod1.slice:cri-containerd:c1', which is",
        ),
        (":cri:c1", UnimplementedError, "systemd cgroup driver"),
    ],
)
def test_a_path_of_no_group_of_its_own_is_refused(
    host: Callable[[str], None], path: str, kind: type[Exception], says: str
) -> None:
    host(HYBRID)
    with pytest.raises(kind, match=says):
        CgroupV1.for_path(path)


def test_a_host_without_control_groups_is_told_so(host: Callable[[str], None]) -> None:
    host("42 31 0:39 / /tmp rw - tmpfs cpu rw\n")
    with pytest.raises(
        FailedPreconditionError, match=r"linux.cgroupsPath is '/default/c1', but no cgroup hierarchy is"
    ):
        CgroupV1.for_path("/default/c1")


@pytest.mark.parametrize("path", ["", "relative/x", "/", "/sys", "/sys/fs/../.."])
def test_what_cannot_be_a_groups_directory_is_not_taken_from_a_file(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be the directory of a container's pids cgroup"):
        CgroupV1.from_paths({"pids": path})


# From here on for real, in a group of our own.


@pytest.fixture
def group() -> Iterator[CgroupV1]:
    if not find_hierarchies(read_mountinfo()).v1:
        pytest.skip("this host has no cgroup version 1 hierarchies")
    parent = f"/shimkit-test-{os.getpid()}"
    made = CgroupV1.for_path(f"{parent}/{time.monotonic_ns()}")
    yield made
    made.kill_all()
    made.remove()
    CgroupV1.for_path(parent).remove()


def value(group: CgroupV1, controller: str, file: str) -> str:
    return Path(group.paths[controller], file).read_text().strip()


def sleeper(group: CgroupV1) -> int:
    """A process in the group that sleeps until it is killed."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            group.join()
            os.write(is_ready, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(is_ready)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


@pytest.mark.root
def test_a_group_is_made_entered_emptied_and_removed(group: CgroupV1) -> None:
    assert group.pids() == []
    group.create()
    group.create()
    assert all(os.path.isdir(path) for path in group.paths.values())
    pids = sorted(sleeper(group) for _ in range(3))
    assert group.pids() == pids
    own = dict(line.split(":")[1:] for line in Path(f"/proc/{pids[0]}/cgroup").read_text().splitlines())
    tail = "/".join(group.paths["pids"].split("/")[-2:])
    assert {name: path for name, path in own.items() if name} == dict.fromkeys(group.paths, f"/{tail}")
    group.kill_all()
    assert group.pids() == []
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    group.remove()
    group.remove()
    assert not any(os.path.exists(path) for path in group.paths.values())
    assert all(os.path.isdir(os.path.dirname(path)) for path in group.paths.values()), "the parents stay"
    group.kill_all()
    assert group.pids() == []


@pytest.mark.root
def test_nested_groups_are_seen_killed_and_removed(group: CgroupV1) -> None:
    group.create()
    nested = CgroupV1.from_paths({name: f"{path}/a/b" for name, path in group.paths.items()})
    nested.create()
    pid = sleeper(nested)
    assert group.pids() == [pid]
    group.kill_all()
    os.waitpid(pid, 0)
    group.remove()
    assert not any(os.path.exists(path) for path in group.paths.values())


@pytest.mark.root
def test_a_group_in_use_stays_and_is_named(group: CgroupV1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "_REMOVE_SECONDS", 0.05)
    group.create()
    pid = sleeper(group)
    with pytest.raises(OSError, match="in use by processes and cannot be removed") as caught:
        group.remove()
    assert (caught.value.errno, caught.value.filename in group.paths.values()) == (errno.EBUSY, True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    group.remove()


@pytest.mark.root
def test_a_cpuset_below_empty_ones_can_be_joined(group: CgroupV1) -> None:
    """As when another container has just made the parents and not come to fill them in."""
    os.makedirs(group.paths["cpuset"])
    for directory in (group.paths["cpuset"], os.path.dirname(group.paths["cpuset"])):
        Path(directory, "cgroup.clone_children").write_text("0")
    assert value(group, "cpuset", "cpuset.cpus") == ""
    group.create()
    root = find_hierarchies(read_mountinfo()).v1["cpuset"].mount_point
    assert value(group, "cpuset", "cpuset.cpus") == Path(root, "cpuset.cpus").read_text().strip()
    assert value(group, "cpuset", "cpuset.mems") == Path(root, "cpuset.mems").read_text().strip()
    assert Path(os.path.dirname(group.paths["cpuset"]), "cgroup.clone_children").read_text().strip() == "1"
    os.kill(sleeper(group), signal.SIGKILL)


@pytest.mark.root
def test_limits_are_the_kernels_own_afterwards(group: CgroupV1) -> None:
    group.create()
    group.apply(
        Resources(
            cpu=Cpu(shares=512, quota=20000, period=50000, cpus="0", mems="0"),
            memory=Memory(limit=1 << 26, reservation=1 << 25, swap=1 << 27, swappiness=10, disable_oom_killer=True),
            pids=Pids(17),
        )
    )
    found = {
        file: value(group, file.partition(".")[0], file)
        for file in (
            "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus", "memory.limit_in_bytes",
            "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness", "pids.max",
        )
    }  # fmt: skip
    assert list(found.values()) == ["512", "20000", "50000", "0", str(1 << 26), str(1 << 25), str(1 << 27), "10", "17"]
    assert "oom_kill_disable 1" in value(group, "memory", "memory.oom_control")


@pytest.mark.root
def test_a_memory_limit_can_be_raised_above_the_old_one_of_memory_and_swap(group: CgroupV1) -> None:
    group.create()
    for size in (1 << 25, 1 << 27, 1 << 24):
        group.apply(Resources(memory=Memory(limit=size, swap=size)))
        assert value(group, "memory", "memory.limit_in_bytes") == str(size)
        assert value(group, "memory", "memory.memsw.limit_in_bytes") == str(size)
    with pytest.raises(
        InvalidArgumentError, match=r"linux.resources.memory.(limit|swap) is .* kernel refuses: Invalid"
    ):
        group.apply(Resources(memory=Memory(limit=1 << 28, swap=1 << 20)))


@pytest.mark.root
def test_device_rules_are_in_force(group: CgroupV1, in_child: InChild) -> None:
    group.create()
    group.apply(
        Resources(
            devices=(
                DeviceRule(False, access="rwm"),
                DeviceRule(True, "c", 1, 3, "rw"),
                DeviceRule(True, "", 1, 5, "r"),
                DeviceRule(True, "c", None, None, "m"),
            )
        )
    )
    assert sorted(value(group, "devices", "devices.list").splitlines()) == [
        "b 1:5 r", "c *:* m", "c 1:3 rw", "c 1:5 r",
    ]  # fmt: skip

    def work() -> None:
        group.join()
        for path, flags, allowed in (
            ("/dev/null", os.O_RDWR, True),
            ("/dev/zero", os.O_RDONLY, True),
            ("/dev/zero", os.O_WRONLY, False),
            ("/dev/full", os.O_RDONLY, False),
        ):
            try:
                os.close(os.open(path, flags))
                assert allowed, path
            except PermissionError:
                assert not allowed, path

    in_child(work)


@pytest.mark.root
@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (Resources(cpu=Cpu(cpus="77-99")), "linux.resources.cpu.cpus is '77-99', which the kernel refuses: "),
        (Resources(cpu=Cpu(period=1)), "linux.resources.cpu.period is '1', which the kernel refuses: Invalid argument"),
        (Resources(memory=Memory(swappiness=1000)), "linux.resources.memory.swappiness is '1000', which the kernel"),
    ],
)
def test_what_the_kernel_refuses_is_named_with_its_value(group: CgroupV1, resources: Resources, says: str) -> None:
    group.create()
    with pytest.raises(InvalidArgumentError) as caught:
        group.apply(resources)
    assert says in str(caught.value)
    assert group.paths["cpu"].rpartition("/")[2] in str(caught.value)


@pytest.mark.root
def test_a_missing_controller_file_or_group_is_named(group: CgroupV1) -> None:
    limits = Resources(pids=Pids(5))
    with pytest.raises(NotFoundError, match=r"linux.resources.pids.limit is '5', but the cgroup /.* is gone"):
        group.apply(limits)
    group.create()
    with pytest.raises(FailedPreconditionError, match="this host has no pids cgroup controller"):
        CgroupV1({"cpu": group.paths["cpu"]}).apply(limits)
    with pytest.raises(FailedPreconditionError, match=r"this kernel has no pids.max: it is switched off"):
        CgroupV1({"pids": group.paths["cpu"]}).apply(limits)


@pytest.mark.root
def test_a_frozen_process_dies_too(group: CgroupV1) -> None:
    group.create()
    pid = sleeper(group)
    Path(group.paths["freezer"], "freezer.state").write_text("FROZEN")
    group.kill_all()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.root
def test_another_signal_is_sent_once(group: CgroupV1) -> None:
    group.create()
    assert not group.signal_all(signal.SIGTERM)
    pid = sleeper(group)
    group.kill_all(0)
    assert group.signal_all(signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM


@pytest.mark.root
def test_a_pid_that_left_the_group_before_the_signal_is_spared(
    group: CgroupV1, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.create()
    pid = sleeper(group)
    answers = [{os.getpid()}, {pid}]
    monkeypatch.setattr(cgroup, "pids_below", lambda _directories: answers.pop(0))
    assert group.signal_all(signal.SIGKILL)  # this very process was listed first, and would not be here any more
    monkeypatch.undo()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.root
def test_processes_that_do_not_end_are_named(group: CgroupV1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_v1, "_KILL_SECONDS", 0.02)
    monkeypatch.setattr(CgroupV1, "signal_all", lambda _self, _signal: True)
    group.create()
    pid = sleeper(group)
    with pytest.raises(OSError, match=f"process {pid} did not end within 0.02 s of SIGKILL"):
        group.kill_all()
    monkeypatch.undo()
    group.kill_all()
    os.waitpid(pid, 0)


def stopped(pid: int) -> bool:
    """Whether the process gets no processor: its time on one does not grow."""
    before, time_taken = _time_of(pid), 0.0
    while time_taken < 0.15:
        time.sleep(0.05)
        time_taken += 0.05
    return _time_of(pid) == before


def _time_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11:13]


def spinner(group: CgroupV1) -> int:
    """A process in the group that is busy until it is killed."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            group.join()
            os.write(is_ready, b"x")
            while True:
                pass
        finally:
            os._exit(1)
    os.close(is_ready)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


@pytest.mark.root
def test_a_frozen_group_stands_still_until_it_is_thawed(group: CgroupV1) -> None:
    group.create()
    pid = spinner(group)
    assert group.freezer_state() is FreezerState.THAWED
    group.freeze()
    group.freeze()
    assert group.freezer_state() is FreezerState.FROZEN
    assert stopped(pid)
    group.thaw()
    group.thaw()
    assert group.freezer_state() is FreezerState.THAWED
    assert not stopped(pid)
    group.freeze()
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    group.let_killed_end()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.root
def test_a_group_that_does_not_freeze_in_time_goes_on(group: CgroupV1, monkeypatch: pytest.MonkeyPatch) -> None:
    group.create()
    read = CgroupV1.freezer_state
    monkeypatch.setattr(CgroupV1, "freezer_state", lambda _self: FreezerState.FREEZING)
    with pytest.raises(DeadlineExceededError, match=r"the processes of /.* did not all stop within 0.02 s; they go on"):
        group.freeze(timeout=0.02)
    assert read(group) is FreezerState.THAWED


@pytest.mark.root
def test_a_group_below_a_frozen_one_cannot_be_thawed(group: CgroupV1) -> None:
    group.create()
    nested = CgroupV1({name: f"{path}/a" for name, path in group.paths.items()})
    nested.create()
    group.freeze()
    assert nested.freezer_state() is FreezerState.FROZEN
    with pytest.raises(FailedPreconditionError, match="stays frozen: a group above is"):
        nested.thaw(timeout=0.01)
    group.thaw()
    assert nested.freezer_state() is FreezerState.THAWED


@pytest.mark.root
def test_what_cannot_be_frozen_says_why(group: CgroupV1) -> None:
    for act in (group.freeze, group.thaw, group.freezer_state, group.watch_oom):
        with pytest.raises(NotFoundError, match=r"the container's cgroup /.* is gone"):
            act()
    without = CgroupV1({"pids": group.paths["pids"]})
    for act in (without.freeze, without.thaw, without.freezer_state):
        with pytest.raises(FailedPreconditionError, match="no freezer cgroup controller"):
            act()
    with pytest.raises(FailedPreconditionError, match="no memory cgroup controller"):
        without.watch_oom()


def hog(group: CgroupV1, size: int) -> int:
    """A process in the group that writes to *size* bytes of memory and ends; its status as waitpid gives it."""
    pid = os.fork()
    if pid == 0:
        try:
            group.join()
            kept = bytearray(size)
            for place in range(0, size, 4096):
                kept[place] = 1
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


@pytest.mark.root
def test_a_kill_for_memory_is_told_of_once(group: CgroupV1) -> None:
    group.create()
    group.apply(Resources(memory=Memory(limit=1 << 23, swap=1 << 23)))
    with group.watch_oom() as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        assert not poll.poll(0)
        assert not watch.was_killed()
        assert os.WTERMSIG(hog(group, 1 << 25)) == signal.SIGKILL
        assert poll.poll(1000)
        assert watch.was_killed()
        assert not poll.poll(0)
        assert not watch.was_killed()
        hog(group, 1 << 25)
        assert watch.was_killed()
        group.kill_all()
        group.remove()
        assert poll.poll(1000), "the group's end is an event, too"
        assert not watch.was_killed()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(watch.fileno() if watch.fileno() >= 0 else 1 << 20)
    watch.close()


@pytest.mark.root
def test_a_kill_in_a_group_below_is_told_of(group: CgroupV1) -> None:
    group.create()
    group.apply(Resources(memory=Memory(limit=1 << 23, swap=1 << 23)))
    nested = CgroupV1({name: f"{path}/a" for name, path in group.paths.items()})
    nested.create()
    with group.watch_oom() as watch:
        hog(nested, 1 << 25)
        assert watch.was_killed()


@pytest.mark.root
def test_a_kill_before_the_watch_is_not_told_of(group: CgroupV1) -> None:
    group.create()
    group.apply(Resources(memory=Memory(limit=1 << 23, swap=1 << 23)))
    hog(group, 1 << 25)
    with group.watch_oom() as watch:
        assert not watch.was_killed()


@pytest.mark.root
def test_the_rest_of_the_limits_are_the_kernels_own_afterwards(group: CgroupV1) -> None:
    group.create()
    disk = next((number for number in os.listdir("/sys/dev/block") if not number.startswith("7:")), "")
    major, _, minor = disk.partition(":")
    rates = (DeviceRate(int(major), int(minor), 1 << 20),) if disk else ()
    group.apply(
        Resources(
            cpu=Cpu(quota=50000, burst=10000, idle=1, shares=700),
            block_io=BlockIo(throttle_read_bps_device=rates, throttle_write_iops_device=rates),
        )
    )
    assert (value(group, "cpu", "cpu.idle"), value(group, "cpu", "cpu.cfs_burst_us")) == ("1", "10000")
    for file in ("read_bps_device", "write_iops_device"):
        assert value(group, "blkio", f"blkio.throttle.{file}") == (f"{disk} {1 << 20}" if disk else "")
    group.update(Resources(cpu=Cpu(idle=0, shares=300)))
    assert (value(group, "cpu", "cpu.idle"), value(group, "cpu", "cpu.shares")) == ("0", "300")


@pytest.mark.root
def test_a_device_that_there_is_not_is_named(group: CgroupV1) -> None:
    group.create()
    with pytest.raises(
        InvalidArgumentError, match=r"Device\[0\] is '4095:9 1', which the kernel refuses: No such device"
    ):
        group.apply(Resources(block_io=BlockIo(throttle_read_bps_device=(DeviceRate(4095, 9, 1),))))


@pytest.mark.root
def test_the_weight_goes_to_the_scheduler_that_there_is(group: CgroupV1) -> None:
    group.create()
    there = [name for name in ("blkio.weight", "blkio.bfq.weight") if Path(group.paths["blkio"], name).exists()]
    weigh = Resources(block_io=BlockIo(weight=300))
    if not there:
        with pytest.raises(
            FailedPreconditionError, match=r"blockIO.weight is '300', but this kernel has no blkio.weig"
        ):
            group.apply(weigh)
        return
    group.apply(weigh)
    assert value(group, "blkio", there[0]).split()[-1] == "300"


@pytest.mark.root
@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (Resources(block_io=BlockIo(leaf_weight=20)), "blockIO.leafWeight is '20', but this kernel has no blkio.leaf"),
        (Resources(hugepage_limits=(HugepageLimit("3MB", 1),)), "hugepageLimits[0] is '1', but this "),
        (Resources(rdma=(RdmaLimit("mlx4_0", 1),)), "rdma['mlx4_0'] is 'mlx4_0 hca_handle=1 hca_object=max',"),
        (Resources(network=Network(priorities=(("nosuch0", 1),))), "network.priorities[0] is 'nosuch0 1', "),
        (Resources(unified=(("memory.high", "1"),)), "unified has 'memory.high', but this host uses cgroup vers"),
    ],
)  # fmt: skip
def test_what_this_host_does_not_have_is_named_with_its_value(group: CgroupV1, resources: Resources, says: str) -> None:
    group.create()
    with pytest.raises((FailedPreconditionError, InvalidArgumentError)) as caught:
        group.check(resources)
        group.apply(resources)
    assert f"linux.resources.{says}" in str(caught.value)


@pytest.mark.root
def test_a_limit_that_the_kernel_takes_and_forgets_is_said(group: CgroupV1, caplog: pytest.LogCaptureFixture) -> None:
    group.create()
    group.apply(Resources(memory=Memory(kernel=1 << 22)))
    if int(value(group, "memory", "memory.kmem.limit_in_bytes")) > 1 << 22:
        assert "memory.kernel is 4194304, which has no effect" in caplog.text


@pytest.mark.root
def test_a_missing_controller_is_named_before_anything_is_made(group: CgroupV1) -> None:
    only = CgroupV1({"pids": group.paths["pids"]})
    only.check(Resources(pids=Pids(5), cpu=Cpu(idle=0)))
    with pytest.raises(
        FailedPreconditionError, match=r"memory.limit is '4096', but this host has no memory cgroup con"
    ):
        only.check(Resources(memory=Memory(limit=4096)))
    assert not os.path.exists(only.directory)


@pytest.mark.root
def test_an_update_changes_what_it_names_and_leaves_the_rest(group: CgroupV1, in_child: InChild) -> None:
    group.create()
    null = (DeviceRule(False, access="rwm"), DeviceRule(True, "c", 1, 3, "rw"))
    group.apply(
        Resources(
            devices=null, memory=Memory(limit=1 << 26, swap=1 << 27), cpu=Cpu(shares=512, quota=20000), pids=Pids(17)
        )
    )
    group.update(Resources(memory=Memory(limit=1 << 28, swap=1 << 28), cpu=Cpu(quota=90000, burst=80000)))
    assert value(group, "memory", "memory.limit_in_bytes") == str(1 << 28)
    assert value(group, "cpu", "cpu.shares") == "512"
    assert value(group, "pids", "pids.max") == "17"
    assert value(group, "devices", "devices.list") == "c 1:3 rw"
    group.update(Resources(cpu=Cpu(quota=30000, burst=1000)))  # the quota can only go below the old burst after it
    assert (value(group, "cpu", "cpu.cfs_quota_us"), value(group, "cpu", "cpu.cfs_burst_us")) == ("30000", "1000")
    group.update(Resources(devices=(DeviceRule(True, "c", 1, 5, "r"),)))
    assert value(group, "devices", "devices.list") == "c 1:5 r"
    group.update(Resources(memory=Memory(limit=-1, swap=-1)))
    assert int(value(group, "memory", "memory.limit_in_bytes")) > 1 << 60


@pytest.mark.root
def test_an_update_that_is_refused_says_what_has_been_changed_before(group: CgroupV1) -> None:
    group.create()
    group.apply(Resources(cpu=Cpu(shares=512), pids=Pids(17)))
    with pytest.raises(InvalidArgumentError) as caught:
        group.update(Resources(cpu=Cpu(shares=1000), memory=Memory(swappiness=1000), pids=Pids(20)))
    assert "linux.resources.memory.swappiness is '1000', which the kernel refuses: Invalid" in str(caught.value)
    assert str(caught.value).endswith("; this has been changed before: cpu.shares, pids.limit")
    assert (value(group, "cpu", "cpu.shares"), value(group, "pids", "pids.max")) == ("1000", "20")
    with pytest.raises(NotFoundError, match="is gone"):
        CgroupV1({"pids": f"{group.paths['pids']}/none"}).update(Resources(pids=Pids(1)))


@pytest.mark.root
def test_a_limit_below_the_present_use_is_refused_if_that_is_to_be_checked(group: CgroupV1) -> None:
    group.create()
    group.apply(Resources(memory=Memory(limit=1 << 26)))
    pid = sleeper(group)
    with pytest.raises(FailedPreconditionError, match=r"memory.limit is 4096, but the container uses \d+ bytes now"):
        group.update(Resources(memory=Memory(limit=4096, check_before_update=True), pids=Pids(3)))
    assert value(group, "pids", "pids.max") == "max", "nothing is changed"
    group.update(Resources(memory=Memory(limit=1 << 25, check_before_update=True)))
    with pytest.raises(
        FailedPreconditionError, match=r"memory.limit is '4096', which the kernel refuses: Device or re"
    ):
        os.kill(pid, 0)
        group.update(Resources(memory=Memory(limit=4096)))
    group.kill_all()
    os.waitpid(pid, 0)


@pytest.mark.root
def test_groups_as_deep_as_a_guest_can_make_them_are_seen_killed_and_removed(group: CgroupV1) -> None:
    """Deeper than a path can say, and than Python calls itself."""
    only = CgroupV1({"pids": group.paths["pids"]})
    only.create()
    name, depth = "d" * 60, 1100
    descriptor = os.open(only.directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    pid = os.fork()
    if pid == 0:
        try:
            tasks = os.open("tasks", os.O_WRONLY, dir_fd=descriptor)
            os.write(tasks, b"0")
            signal.pause()
        finally:
            os._exit(1)
    os.close(descriptor)
    while only.pids() != [pid]:
        time.sleep(0.01)
    only.kill_all()
    os.waitpid(pid, 0)
    only.remove()
    assert not os.path.exists(only.directory)


def _hierarchy_of(controller: str) -> int:
    """The number of the version 1 hierarchy that has the controller; 0 for none."""
    for line in Path("/proc/cgroups").read_text().splitlines()[1:]:
        name, number, *_ = line.split()
        if name == controller:
            return int(number)
    pytest.skip(f"this kernel has no {controller} controller")


@pytest.fixture
def borrowed(tmp_path: Path, in_namespaces: InChild) -> Iterator[Callable[[str, Callable[[CgroupV1], None]], None]]:
    """Does something with a group of controllers that this host has in no version 1 hierarchy, and gives them back."""
    used: list[str] = []

    busy = tmp_path.with_name(f"{tmp_path.name}-busy")

    def mount(controllers: str, work: Callable[[], None]) -> None:
        def inside() -> None:
            try:
                mounts.mount("none", str(tmp_path), "cgroup", 0, controllers)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                busy.touch()  # a version 2 group has it, or had it a moment ago
                return
            try:
                work()
            finally:
                mounts.umount(str(tmp_path))

        in_namespaces(inside)

    def borrow(controllers: str, work: Callable[[CgroupV1], None]) -> None:
        if any(map(_hierarchy_of, controllers.split(","))):
            pytest.skip(f"this host uses {controllers} in a version 1 hierarchy")
        used.append(controllers)

        def with_group() -> None:
            group = CgroupV1(dict.fromkeys(controllers.split(","), f"{tmp_path}/group"))
            group.create()
            try:
                work(group)
            finally:
                group.remove()

        mount(controllers, with_group)
        if busy.exists():
            pytest.skip(f"{controllers} is in use by a version 2 group")

    yield borrow
    for controllers in used:
        # a hierarchy outlives its mount while a group of it does, for a moment; another mount ends it
        until = time.monotonic() + 10
        while any(map(_hierarchy_of, controllers.split(","))) and time.monotonic() < until:
            time.sleep(0.3)
            mount(controllers, lambda: None)
            time.sleep(0.3)


@pytest.mark.root
def test_classes_and_priorities_of_packets_are_the_kernels_own_afterwards(
    borrowed: Callable[[str, Callable[[CgroupV1], None]], None],
) -> None:
    def work(group: CgroupV1) -> None:
        group.apply(Resources(network=Network(0x100001, (("lo", 500),))))
        assert value(group, "net_cls", "net_cls.classid") == str(0x100001)
        assert "lo 500" in value(group, "net_prio", "net_prio.ifpriomap").splitlines()
        with pytest.raises(
            InvalidArgumentError, match=r"network.priorities\[0\] is 'nosuch0 1', which the kernel refuses"
        ):
            group.apply(Resources(network=Network(priorities=(("nosuch0", 1),))))

    borrowed("net_cls,net_prio", work)


@pytest.mark.root
def test_huge_pages_are_limited_used_and_reserved(
    borrowed: Callable[[str, Callable[[CgroupV1], None]], None],
) -> None:
    def work(group: CgroupV1) -> None:
        sizes = {name.split(".")[1] for name in os.listdir(group.directory) if name.endswith(".rsvd.limit_in_bytes")}
        assert sizes
        for size in sizes:
            group.apply(Resources(hugepage_limits=(HugepageLimit(size, 1 << 30),)))
            for kind in ("", "rsvd."):
                assert value(group, "hugetlb", f"hugetlb.{size}.{kind}limit_in_bytes") == str(1 << 30)
        with pytest.raises(
            FailedPreconditionError, match=r"hugepageLimits\[0\] is '1', but this kernel has no hugetlb.3M"
        ):
            group.apply(Resources(hugepage_limits=(HugepageLimit("3MB", 1),)))

    borrowed("hugetlb", work)
