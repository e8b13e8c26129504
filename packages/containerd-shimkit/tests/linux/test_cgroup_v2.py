"""Version 2 in three ways: over a tree of plain files, in whatever version 2 tree this host has (a hybrid host's has no
controllers, but freezes, kills and guards devices), and, on a host that uses version 2, with every controller.
"""

from __future__ import annotations

import errno
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
    PermissionDeniedError,
    UnimplementedError,
)
from containerd_shimkit.linux import cgroup_v2
from containerd_shimkit.linux.cgroup import FreezerState
from containerd_shimkit.linux.cgroup_mounts import find_hierarchies, read_hierarchies
from containerd_shimkit.linux.cgroup_v2 import CgroupV2
from containerd_shimkit.linux.mounts import parse_mountinfo
from containerd_shimkit.oci.resources import (
    BlockIo,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Memory,
    Pids,
    Resources,
)

InChild = Callable[[Callable[[], object]], None]
Host = Callable[..., None]

UNIFIED = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
NULL_ONLY = (DeviceRule(False, access="rwm"), DeviceRule(True, "c", 1, 3, "rw"))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Pretends a host's table of mounts, and what group this process is in."""

    def pretend(mountinfo: str, own: str = "/") -> None:
        monkeypatch.setattr(cgroup_v2, "read_hierarchies", lambda: find_hierarchies(parse_mountinfo(mountinfo)))
        monkeypatch.setattr(cgroup_v2, "own_groups", lambda: {"": own})

    return pretend


def test_an_absolute_path_counts_from_the_mount(host: Host) -> None:
    host(UNIFIED)
    group = CgroupV2.for_path("/default//c1/")
    assert group.paths == {"unified": "/sys/fs/cgroup/default/c1"}
    assert CgroupV2.from_paths(group.paths).directory == group.directory


def test_a_relative_path_counts_from_the_group_above_our_own(host: Host) -> None:
    host(UNIFIED, "/system.slice/containerd.service")
    assert CgroupV2.for_path("c1").directory == "/sys/fs/cgroup/system.slice/c1"
    assert CgroupV2.for_path("", id="c1").directory == "/sys/fs/cgroup/system.slice/c1"
    host(UNIFIED, "/")
    assert CgroupV2.for_path("c1").directory == "/sys/fs/cgroup/c1"
    host("41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/docker/abc/shim")
    assert CgroupV2.for_path("c1").directory == "/sys/fs/cgroup/c1"


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("", InvalidArgumentError, "linux.cgroupsPath is ''; it must name a group"),
        ("/a/../..", InvalidArgumentError, "without `..`"),
        ("kubepods-pod1.slice:cri-containerd:c1", UnimplementedError, "systemd cgroup driver"),
    ],
)
def test_a_path_of_no_group_of_its_own_is_refused(host: Host, path: str, kind: type[Exception], says: str) -> None:
    host(UNIFIED)
    with pytest.raises(kind, match=says):
        CgroupV2.for_path(path)


def test_a_host_without_version_2_is_told_so(host: Host) -> None:
    host("")
    with pytest.raises(
        FailedPreconditionError, match=r"linux.cgroupsPath is '/c1', but cgroup version 2 is not mounted"
    ):
        CgroupV2.for_path("/c1")


@pytest.mark.parametrize("path", ["", "relative/x", "/", "/sys", "/sys/fs/../.."])
def test_what_cannot_be_a_groups_directory_is_not_taken_from_a_file(path: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be the directory of a container's cgroup"):
        CgroupV2.from_paths({"unified": path})


# From here on over plain files.


@pytest.fixture
def tree(tmp_path: Path) -> CgroupV2:
    """A group in a group. A plain file keeps what is behind the value that is written to it."""
    for directory, enabled in ((tmp_path, "cpu"), (tmp_path / "pod", ""), (tmp_path / "pod/c1", "")):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (directory / "cgroup.subtree_control").write_text(f"{enabled}\n")
    files = {
        "cpu.max": "20000 50000\n",
        "memory.max": "max\n",
        "memory.current": "8192\n",
        "cpu.weight": "",
        "cpu.max.burst": "",
        "memory.swap.max": "",
        "memory.low": "",
        "pids.max": "",
        "io.weight": "",
        "io.max": "",
        "memory.high": "",
    }
    for name, text in files.items():
        (tmp_path / "pod/c1" / name).write_text(text)
    return CgroupV2({"unified": f"{tmp_path}/pod/c1"}, str(tmp_path))


def content(group: CgroupV2, file: str) -> str:
    return Path(group.directory, file).read_text().strip()


def test_controllers_are_enabled_in_each_group_above(tree: CgroupV2, tmp_path: Path) -> None:
    tree.create()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpuset +io +memory +pids"
    assert (tmp_path / "pod/cgroup.subtree_control").read_text() == "+cpuset +cpu +io +memory +pids"
    assert content(tree, "cgroup.subtree_control") == "", "not in the group itself, which is to have processes"


def test_a_controller_that_cannot_be_enabled_does_not_keep_the_others_from_it(
    tree: CgroupV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def kernel(path: str, value: str) -> None:
        if "+cpu" in value.split():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        written.append(value)

    monkeypatch.setattr(cgroup_v2, "write", kernel)
    tree.create()
    assert written == ["+cpuset +io +memory +pids", "+cpuset", "+io", "+memory", "+pids"]
    Path(tree.directory, "cgroup.controllers").write_text("memory pids io cpuset\n")
    Path(tree.directory, "cpu.weight").unlink()
    with pytest.raises(FailedPreconditionError) as caught:
        tree.apply(Resources(cpu=Cpu(shares=512)))
    above = os.path.dirname(tree.directory)
    assert f"cpu.shares is '59', but {above} cannot hand on its cpu controller: Invalid argument" in str(caught.value)


def test_limits_go_to_their_files(tree: CgroupV2) -> None:
    tree.apply(
        Resources(
            cpu=Cpu(shares=1024, quota=30000, burst=5000),
            memory=Memory(limit=1000, swap=1500, reservation=700),
            pids=Pids(5),
            block_io=BlockIo(weight=500),
            unified=(("memory.high", "900"),),
        )
    )
    found = {name: content(tree, name) for name in os.listdir(tree.directory) if not name.startswith("cgroup.")}
    assert (found["cpu.weight"], found["cpu.max"], found["cpu.max.burst"]) == ("100", "30000 100000", "5000")
    assert (found["memory.max"], found["memory.swap.max"]) == ("1000", "500")
    assert (found["memory.low"], found["memory.high"]) == ("700", "900")
    assert (found["pids.max"], found["io.weight"]) == ("5", str(1 + 490 * 9999 // 990))


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (Cpu(period=100000), "20000 100000"),
        (Cpu(quota=10000), "10000 50000"),
        (Cpu(quota=-1), "max 50000"),
        (Cpu(quota=-1, period=70000), "max 70000"),
    ],
)
def test_an_update_keeps_what_it_does_not_name(tree: CgroupV2, cpu: Cpu, expected: str) -> None:
    tree.update(Resources(cpu=cpu))
    assert content(tree, "cpu.max").startswith(expected)


def test_an_update_of_the_sum_with_swap_counts_from_the_present_limit(tree: CgroupV2) -> None:
    with pytest.raises(InvalidArgumentError, match=r"memory.swap is 3000, but memory.limit is None"):
        tree.update(Resources(memory=Memory(swap=3000)))
    Path(tree.directory, "memory.max").write_text("1000\n")
    tree.update(Resources(memory=Memory(swap=3000)))
    assert content(tree, "memory.swap.max") == "2000"


def test_an_update_of_what_no_controller_is_enabled_for_is_refused_for_that(tree: CgroupV2) -> None:
    for name in ("cpu.max", "memory.current", "memory.max"):
        Path(tree.directory, name).unlink()
    Path(tree.directory, "cgroup.controllers").write_text("pids\n")
    for resources in (Resources(cpu=Cpu(quota=5000)), Resources(memory=Memory(limit=4096, check_before_update=True))):
        with pytest.raises(
            FailedPreconditionError, match=r"but this host's cgroup version 2 has no (cpu|memory) contr"
        ):
            tree.update(resources)


def test_a_limit_below_the_present_use_is_refused_if_that_is_to_be_checked(tree: CgroupV2) -> None:
    with pytest.raises(FailedPreconditionError, match=r"memory.limit is 4096, but the container uses 8192 bytes now"):
        tree.update(Resources(memory=Memory(limit=4096, check_before_update=True)))
    assert content(tree, "memory.max") == "max"


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (
            Resources(hugepage_limits=(HugepageLimit("2MB", 1),)),
            "hugepageLimits[0] is '1', but this host's cgroup vers",
        ),
        (
            Resources(unified=(("misc.max", "x 1"),)),
            "unified['misc.max'] is 'x 1', but this host's cgroup version 2 has",
        ),
    ],
)
def test_a_missing_controller_is_named_before_anything_is_made(tree: CgroupV2, resources: Resources, says: str) -> None:
    for act in (tree.check, tree.update, tree.apply):
        with pytest.raises(FailedPreconditionError) as caught:
            act(resources)
        assert f"linux.resources.{says}" in str(caught.value)


def test_a_missing_file_is_named(tree: CgroupV2) -> None:
    tree.check(Resources(unified=(("memory.nosuch", "1"), ("cgroup.max.depth", "1"))))
    with pytest.raises(FailedPreconditionError, match=r"unified\['memory.nosuch'\] is '1', but this kernel has no mem"):
        tree.apply(Resources(unified=(("memory.nosuch", "1"),)))
    tree.apply(Resources(cpu=Cpu(idle=0)))


def test_swap_without_a_file_for_it_is_no_error_where_none_is_wanted(tree: CgroupV2) -> None:
    Path(tree.directory, "memory.swap.max").unlink()
    tree.apply(Resources(memory=Memory(limit=1000, swap=1000)))
    tree.apply(Resources(memory=Memory(limit=-1)))
    with pytest.raises(FailedPreconditionError, match=r"memory.swap is '500', but this kernel has no memory.swap.max"):
        tree.apply(Resources(memory=Memory(limit=1000, swap=1500)))


def test_what_the_kernel_refuses_is_named_with_what_has_been_changed_before(
    tree: CgroupV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def kernel(descriptor: int, data: bytes) -> int:
        if data == b"5":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", kernel)
    with pytest.raises(InvalidArgumentError) as caught:
        tree.update(Resources(cpu=Cpu(shares=1024), pids=Pids(5)))
    assert f"pids.limit is '5', which the kernel refuses: Invalid argument ({tree.directory}/pids" in str(caught.value)
    assert str(caught.value).endswith("; this has been changed before: cpu.shares")


@pytest.mark.parametrize(
    ("number", "says"), [(errno.EOPNOTSUPP, "a group above is a threaded one"), (errno.EBUSY, "hands controllers on")]
)
def test_a_group_that_cannot_have_processes_says_why(
    tree: CgroupV2, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def kernel(path: str, value: str) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(cgroup_v2, "write", kernel)
    with pytest.raises(OSError, match=says) as caught:
        tree.join()
    assert (caught.value.errno, caught.value.filename) == (number, tree.directory)


def test_a_device_program_that_the_kernel_refuses_changes_nothing(
    tree: CgroupV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernel(program: bytes) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(cgroup_v2, "load_device_program", kernel)
    with pytest.raises(
        PermissionDeniedError, match=r"linux.resources.devices cannot be put in force: .* CAP_SYS_ADMIN"
    ):
        tree.update(Resources(devices=NULL_ONLY, pids=Pids(5)))
    assert content(tree, "pids.max") == ""


# From here on for real, in a group of our own.


@pytest.fixture
def group() -> Iterator[CgroupV2]:
    hierarchy = read_hierarchies().v2
    if hierarchy is None:
        pytest.skip("this host has no cgroup version 2 hierarchy")
    parent = f"/shimkit-test-{os.getpid()}"
    control = Path(hierarchy.mount_point, "cgroup.subtree_control")
    enabled = control.read_text().split()
    made = CgroupV2.for_path(f"{parent}/{time.monotonic_ns()}")
    yield made
    made.kill_all()
    made.remove()
    CgroupV2.for_path(parent).remove()
    for controller in set(control.read_text().split()) - set(enabled):
        try:
            control.write_text(f"-{controller}")
        except OSError:  # another test's group has it
            pass


@pytest.fixture
def limited(group: CgroupV2) -> CgroupV2:
    """The same, where the controllers are: on a host that uses version 2."""
    if not read_hierarchies().is_unified:
        pytest.skip("this host uses cgroup version 1: its version 2 tree has no controllers")
    group.create()
    return group


def process(group: CgroupV2, work: Callable[[], object] = signal.pause) -> int:
    """A process in the group that does *work*, or nothing until it is killed."""
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            group.join()
            os.write(is_ready, b"x")
            work()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(is_ready)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


def spin() -> None:
    while True:
        pass


def stands_still(pid: int) -> bool:
    def taken() -> list[bytes]:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11:13]

    before = taken()
    time.sleep(0.15)
    return taken() == before


@pytest.mark.root
def test_a_group_is_made_entered_emptied_and_removed(group: CgroupV2) -> None:
    assert (group.pids(), group.has_processes()) == ([], False)
    group.create()
    group.create()
    assert not group.has_processes()
    pids = sorted(process(group) for _ in range(3))
    assert (group.pids(), group.has_processes()) == (pids, True)
    assert Path(f"/proc/{pids[0]}/cgroup").read_text().splitlines()[-1].endswith(group.directory.rpartition("/")[2])
    assert not group.try_remove()
    group.kill_all()
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert group.pids() == []
    group.remove()
    group.remove()
    assert not os.path.exists(group.directory)
    assert os.path.isdir(os.path.dirname(group.directory)), "the parents stay"
    group.kill_all()


@pytest.mark.root
def test_a_kernel_without_kill_gets_signals(group: CgroupV2, monkeypatch: pytest.MonkeyPatch) -> None:
    group.create()
    monkeypatch.setattr(cgroup_v2, "write_if_there", lambda _path, _value: False)
    pid = process(group)
    group.kill_all()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.root
def test_another_signal_is_sent_once(group: CgroupV2) -> None:
    group.create()
    pid = process(group)
    group.kill_all(0)
    assert group.signal_all(signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM


@pytest.mark.root
def test_processes_that_do_not_end_are_named(group: CgroupV2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_v2, "_KILL_SECONDS", 0.02)
    monkeypatch.setattr(cgroup_v2, "write_if_there", lambda _path, _value: True)
    group.create()
    pid = process(group)
    with pytest.raises(OSError, match=rf"process {pid} did not end within 0.02 s of SIGKILL"):
        group.kill_all()
    monkeypatch.undo()
    group.kill_all()
    os.waitpid(pid, 0)


@pytest.mark.root
def test_nested_groups_are_seen_killed_and_removed(group: CgroupV2) -> None:
    group.create()
    nested = CgroupV2({"unified": f"{group.directory}/a/b"}, group._top)
    for path in (os.path.dirname(nested.directory), nested.directory):
        os.mkdir(path)
    pid = process(nested)
    assert (group.pids(), group.has_processes()) == ([pid], True)
    group.freeze()
    group.kill_all()
    os.waitpid(pid, 0)
    group.remove()
    assert not os.path.exists(group.directory)


@pytest.mark.root
def test_a_threaded_group_below_is_no_trouble(group: CgroupV2) -> None:
    group.create()
    os.mkdir(f"{group.directory}/threads")
    Path(group.directory, "threads/cgroup.type").write_text("threaded")
    pid = process(group)
    Path(group.directory, "threads/cgroup.threads").write_text(str(pid))
    assert group.pids() == [pid]
    os.mkdir(f"{group.directory}/beside")
    with pytest.raises(OSError, match="a group above is a threaded one"):
        CgroupV2({"unified": f"{group.directory}/beside"}).join()
    group.kill_all()
    os.waitpid(pid, 0)
    group.remove()


@pytest.mark.root
def test_a_frozen_group_stands_still_until_it_is_thawed(group: CgroupV2) -> None:
    group.create()
    pid = process(group, spin)
    assert group.freezer_state() is FreezerState.THAWED
    group.freeze()
    group.freeze()
    assert group.freezer_state() is FreezerState.FROZEN
    assert stands_still(pid)
    group.thaw()
    group.thaw()
    assert group.freezer_state() is FreezerState.THAWED
    assert not stands_still(pid)
    group.freeze()
    os.kill(pid, signal.SIGKILL)
    group.let_killed_end()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.mark.root
def test_a_group_that_does_not_freeze_in_time_goes_on(group: CgroupV2, monkeypatch: pytest.MonkeyPatch) -> None:
    group.create()
    written: list[str] = []

    def kernel(path: str, value: str) -> bool:
        written.append(value)
        return True

    monkeypatch.setattr(cgroup_v2, "write_if_there", kernel)
    with pytest.raises(DeadlineExceededError, match=r"the processes of /.* did not all stop within 0.02 s; they go on"):
        group.freeze(timeout=0.02)
    assert written == ["1", "0"]


@pytest.mark.root
def test_a_group_below_a_frozen_one_cannot_be_thawed(group: CgroupV2) -> None:
    group.create()
    nested = CgroupV2({"unified": f"{group.directory}/a"}, group._top)
    nested.create()
    pid = process(nested)
    group.freeze()
    assert nested.freezer_state() is FreezerState.FROZEN
    with pytest.raises(FailedPreconditionError, match="stays frozen: a group above is"):
        nested.thaw(timeout=0.01)
    group.thaw()
    assert nested.freezer_state() is FreezerState.THAWED
    group.kill_all()
    os.waitpid(pid, 0)


@pytest.mark.root
def test_what_is_done_to_a_group_that_is_gone_says_so(group: CgroupV2) -> None:
    for act in (group.freeze, group.thaw, group.freezer_state, group.watch_oom):
        with pytest.raises(NotFoundError, match=r"the container's cgroup /.* is gone"):
            act()
    with pytest.raises(NotFoundError, match="is gone"):
        group.update(Resources(unified=(("cgroup.max.depth", "1"),)))
    with pytest.raises(NotFoundError, match="is gone"):
        group.apply(Resources(devices=NULL_ONLY))


@pytest.mark.root
def test_devices_are_replaced_only_when_an_update_has_some(group: CgroupV2, in_child: InChild) -> None:
    group.create()
    group.apply(Resources(devices=NULL_ONLY))

    def works(path: str) -> bool:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            return False
        return True

    def check(*, null: bool, zero: bool) -> None:
        def work() -> None:
            group.join()
            assert (works("/dev/null"), works("/dev/zero")) == (null, zero)

        in_child(work)

    check(null=True, zero=False)
    group.update(Resources(unified=(("cgroup.max.depth", "3"),)))
    check(null=True, zero=False)
    assert content(group, "cgroup.max.depth") == "3"
    group.update(Resources(devices=(DeviceRule(True, "c", 1, 5, "r"),)))
    check(null=False, zero=True)


@pytest.mark.root
def test_without_controllers_limits_and_the_watch_say_why(group: CgroupV2) -> None:
    if read_hierarchies().is_unified:
        pytest.skip("this host's version 2 tree has the controllers")
    group.create()
    with pytest.raises(
        FailedPreconditionError, match=r"memory.limit is '4096', but this host's cgroup version 2 has no"
    ):
        group.check(Resources(memory=Memory(limit=4096)))
    with pytest.raises(FailedPreconditionError, match="the memory controller, which would tell of OOM kills, is not"):
        group.watch_oom()


@pytest.mark.root
def test_a_controller_that_version_1_has_not_taken_is_handed_on(group: CgroupV2) -> None:
    assert group._top
    if "hugetlb" not in Path(group._top, "cgroup.controllers").read_text().split():
        pytest.skip("this host's version 2 tree has no hugetlb controller")
    group.create()
    assert "hugetlb" in Path(os.path.dirname(group.directory), "cgroup.subtree_control").read_text().split()
    sizes = [name.split(".")[1] for name in os.listdir(group.directory) if name.endswith(".rsvd.max")]
    for size in sizes:
        group.apply(Resources(hugepage_limits=(HugepageLimit(size, 1 << 30),)))
        assert content(group, f"hugetlb.{size}.max") == content(group, f"hugetlb.{size}.rsvd.max") == str(1 << 30)
    with pytest.raises(
        FailedPreconditionError, match=r"hugepageLimits\[0\] is '1', but this kernel has no hugetlb.3MB"
    ):
        group.apply(Resources(hugepage_limits=(HugepageLimit("3MB", 1),)))


# From here on with every controller: on a host that uses version 2.


@pytest.mark.root
def test_limits_are_the_kernels_own_afterwards(limited: CgroupV2) -> None:
    limited.apply(
        Resources(
            cpu=Cpu(shares=2048, quota=20000, period=50000, burst=1000, cpus="0", mems="0"),
            memory=Memory(limit=1 << 26, reservation=1 << 25, swap=1 << 26),
            pids=Pids(17),
            unified=(("memory.high", str(1 << 25)),),
        )
    )
    assert content(limited, "cpu.weight") == "174"
    assert (content(limited, "cpu.max"), content(limited, "cpu.max.burst")) == ("20000 50000", "1000")
    assert (content(limited, "cpuset.cpus"), content(limited, "cpuset.mems")) == ("0", "0")
    assert (content(limited, "memory.max"), content(limited, "memory.low")) == (str(1 << 26), str(1 << 25))
    assert (content(limited, "memory.high"), content(limited, "pids.max")) == (str(1 << 25), "17")
    limited.update(Resources(cpu=Cpu(quota=40000), memory=Memory(limit=1 << 27), pids=Pids(-1)))
    assert (content(limited, "cpu.max"), content(limited, "cpu.max.burst")) == ("40000 50000", "1000")
    assert (content(limited, "memory.max"), content(limited, "pids.max")) == (str(1 << 27), "max")


@pytest.mark.root
def test_a_burst_goes_below_a_new_quota_whatever_their_order(limited: CgroupV2) -> None:
    limited.apply(Resources(cpu=Cpu(quota=90000, burst=80000)))
    limited.update(Resources(cpu=Cpu(quota=30000, burst=1000)))
    limited.update(Resources(cpu=Cpu(quota=95000, burst=90000)))
    assert (content(limited, "cpu.max"), content(limited, "cpu.max.burst")) == ("95000 100000", "90000")


@pytest.mark.root
def test_an_idle_group_is_made_and_unmade(limited: CgroupV2) -> None:
    limited.apply(Resources(cpu=Cpu(idle=1, shares=1024)))
    assert content(limited, "cpu.idle") == "1"
    limited.update(Resources(cpu=Cpu(idle=0, shares=1024)))
    assert (content(limited, "cpu.idle"), content(limited, "cpu.weight")) == ("0", "100")


@pytest.mark.root
@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (Resources(cpu=Cpu(cpus="7000-9000")), "linux.resources.cpu.cpus is '7000-9000', which the kernel refuses: "),
        (Resources(cpu=Cpu(quota=1)), "linux.resources.cpu.quota is '1 100000', which the kernel refuses: Invalid"),
        (Resources(unified=(("memory.high", "lots"),)), "linux.resources.unified['memory.high'] is 'lots', which the"),
    ],
)
def test_what_the_kernel_refuses_is_named_with_its_value(limited: CgroupV2, resources: Resources, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        limited.apply(resources)
    assert says in str(caught.value)


@pytest.mark.root
def test_a_kill_for_memory_is_told_of_once(limited: CgroupV2) -> None:
    def eat() -> None:
        kept = bytearray(1 << 25)
        for place in range(0, len(kept), 4096):
            kept[place] = 1

    limited.apply(Resources(memory=Memory(limit=1 << 23, swap=1 << 23)))
    with limited.watch_oom() as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        assert not watch.was_killed()
        pid = process(limited, eat)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        assert poll.poll(1000)
        assert watch.was_killed()
        assert not poll.poll(0)
        assert not watch.was_killed()
        limited.kill_all()
        limited.remove()
        assert not watch.was_killed()


@pytest.mark.root
def test_controllers_reach_a_group_far_below(limited: CgroupV2) -> None:
    deep = CgroupV2({"unified": f"{limited.directory}/a/b/c"}, limited._top)
    deep.create()
    deep.apply(Resources(pids=Pids(5), memory=Memory(limit=1 << 26)))
    assert content(deep, "pids.max") == "5"


@pytest.mark.root
def test_below_a_group_with_processes_limits_are_refused_with_the_reason(limited: CgroupV2) -> None:
    pid = process(limited)
    below = CgroupV2({"unified": f"{limited.directory}/below"}, limited._top)
    below.create()
    with pytest.raises(FailedPreconditionError) as caught:
        below.apply(Resources(memory=Memory(limit=1 << 26)))
    assert f"but {limited.directory} cannot hand on its memory controller: " in str(caught.value)
    limited.kill_all()
    os.waitpid(pid, 0)
