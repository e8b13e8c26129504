"""The counter of what is left behind sees each kind of it: none of these tests can pass when it is blind."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from harness.leftovers import Leftovers, Scope, assert_clean
from harness.mounts import parse_mountinfo, read_mounts, unmount
from harness.processes import parse_stat

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
root = pytest.mark.root


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    """A scope whose marker nothing on this machine carries yet, with socket and bundle directories of its own."""
    marker = f"left-{secrets.token_hex(6)}"
    (tmp_path / "s").mkdir()
    return Scope((marker,), bundle_parents=(str(tmp_path / "tasks"),), socket_directory=str(tmp_path / "s"))


@pytest.fixture
def marked_directory(scope: Scope) -> Iterator[Path]:
    """A directory whose name is the scope's marker."""
    with tempfile.TemporaryDirectory(prefix=scope.markers[0]) as directory:
        yield Path(directory)


@pytest.fixture
def needs_root() -> None:
    if os.geteuid():
        pytest.skip(f"mounts and cgroups need root, this is uid {os.geteuid()}")


def assert_left(before: Leftovers, *texts: str) -> None:
    with pytest.raises(AssertionError, match=r"left behind after 0\.3 s:") as raised:
        assert_clean(before, timeout=0.3)
    for text in texts:
        assert text in str(raised.value)


@contextmanager
def running(*arguments: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
    process = start([*SLEEP, *arguments], **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_nothing_left_is_clean_at_once(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    began = time.monotonic()
    assert_clean(before, timeout=30)
    assert time.monotonic() - began < 10


def test_a_process_is_known_by_its_command_line(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    with running(f"--state=/x/{scope.markers[0]}/y") as process:
        assert_left(before, f"process: pid {process.pid}, parent {os.getpid()}", scope.markers[0])
    assert_clean(before)


def test_a_process_is_known_by_its_environment(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    with running(env={"BUNDLE": scope.markers[0]}) as process:
        assert_left(before, f"process: pid {process.pid}")
    assert_clean(before)


def test_a_process_is_known_by_its_working_directory(scope: Scope, marked_directory: Path) -> None:
    before = Leftovers.snapshot(scope)
    with running(cwd=marked_directory) as process:
        assert_left(before, f"process: pid {process.pid}")
    assert_clean(before)


def test_a_process_is_known_by_an_open_file(scope: Scope, marked_directory: Path) -> None:
    before = Leftovers.snapshot(scope)
    with (marked_directory / "log").open("wb") as log, running(stdout=log) as process:
        assert_left(before, f"process: pid {process.pid}")
    assert_clean(before)


@root
@pytest.mark.usefixtures("needs_root")
def test_a_process_is_known_by_the_mounts_of_its_own_namespace(scope: Scope, marked_directory: Path) -> None:
    before = Leftovers.snapshot(scope)
    script = 'mount -t tmpfs hidden "$(cat)" && cd / && exec sleep 1000'  # the path comes by stdin: in no argument
    command = ["unshare", "--mount", "sh", "-c", script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert process.stdin
        process.stdin.write(bytes(marked_directory))
        process.stdin.close()
        deadline = time.monotonic() + 5
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(mount.mentions(scope.markers[0]) for mount in read_mounts())
        assert_left(before, f"process: pid {process.pid}")
    finally:
        process.kill()
        process.wait()
    assert_clean(before)


def test_what_a_process_of_ours_starts_is_ours(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    script = "import subprocess, sys; subprocess.run(['sleep', '1000'], env={})"
    parent = subprocess.Popen([sys.executable, "-S", "-c", script, scope.markers[0]])
    try:
        deadline = time.monotonic() + 5
        while not (children := _children(parent.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert_left(before, f"pid {parent.pid}, ", f"pid {children[0]}, parent {parent.pid}")
    finally:
        scope.clear_by_force()
        parent.wait()
    assert_clean(before)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_spared_process_is_not_counted(scope: Scope) -> None:
    spared: set[int] = set()
    before = Leftovers.snapshot(replace(scope, spared=lambda: spared))
    with running(scope.markers[0]) as process:
        assert_left(before, f"pid {process.pid}")
        spared.add(process.pid)
        assert_clean(before, timeout=0)


def test_a_later_process_with_the_same_marker_is_new(scope: Scope) -> None:
    with running(scope.markers[0]):
        before = Leftovers.snapshot(scope)
        assert_clean(before, timeout=0)
        with running(scope.markers[0]) as second:
            assert_left(before, f"pid {second.pid}")


def test_a_zombie_is_seen_until_it_is_reaped(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert_left(before, f"zombie: pid {pid}, parent {os.getpid()}, state Z")
    os.waitpid(pid, 0)
    assert_clean(before)


@root
@pytest.mark.usefixtures("needs_root")
def test_a_mount_is_seen_by_its_target(scope: Scope, marked_directory: Path) -> None:
    before = Leftovers.snapshot(scope)
    subprocess.run(["mount", "-t", "tmpfs", "left", marked_directory], check=True)
    try:
        assert_left(before, f"mount: {marked_directory} (tmpfs")
    finally:
        unmount(str(marked_directory))
    assert_clean(before)


@root
@pytest.mark.usefixtures("needs_root")
def test_a_bind_mount_is_seen_by_its_source(scope: Scope, marked_directory: Path, tmp_path: Path) -> None:
    before = Leftovers.snapshot(scope)
    subprocess.run(["mount", "--bind", marked_directory, tmp_path], check=True)
    try:
        assert_left(before, f"mount: {tmp_path} (", str(marked_directory))
    finally:
        unmount(str(tmp_path))
    assert_clean(before)


@root
@pytest.mark.usefixtures("needs_root")
def test_a_mount_in_a_wrong_place_is_seen_without_a_marker(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    with tempfile.TemporaryDirectory(dir="/run") as elsewhere:
        subprocess.run(["mount", "-t", "tmpfs", "left", elsewhere], check=True)
        try:
            assert_left(before, f"mount: {elsewhere} (tmpfs")
        finally:
            unmount(elsewhere)
    assert_clean(before)


@contextmanager
def cgroup(name: str) -> Iterator[Path]:
    tops = [Path(mount.target) for mount in read_mounts() if mount.kind in ("cgroup", "cgroup2")]
    path = max(tops, key=lambda top: "pids" in top.name) / name
    path.mkdir()
    try:
        yield path
    finally:
        if path.exists():
            path.rmdir()


@root
@pytest.mark.usefixtures("needs_root")
def test_a_cgroup_is_seen_with_a_marker_and_without(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    with cgroup(scope.markers[0]) as marked, cgroup(f"other-{secrets.token_hex(6)}") as unmarked:
        assert_left(before, f"cgroup: {marked} (processes: none)", f"cgroup: {unmarked} (processes: none)")
    assert_clean(before)


@root
@pytest.mark.usefixtures("needs_root")
def test_a_cgroup_that_others_live_in_is_theirs(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    with cgroup(f"other-{secrets.token_hex(6)}") as path, running() as process:
        (path / "cgroup.procs").write_text(str(process.pid))
        assert_clean(before, timeout=0)
        process.kill()
        process.wait()
        assert_left(before, f"cgroup: {path} (processes: none)")
    assert_clean(before)


@root
@pytest.mark.usefixtures("needs_root")
def test_a_parent_cgroup_may_be_spared(scope: Scope) -> None:
    before = Leftovers.snapshot(replace(scope, spared_cgroups=frozenset({scope.markers[0]})))
    with cgroup(scope.markers[0]) as parent:
        assert_clean(before, timeout=0)
        (parent / "container").mkdir()
        assert_left(before, f"cgroup: {parent / 'container'}")
        (parent / "container").rmdir()


def test_a_stale_socket_is_seen(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    path = os.path.join(scope.socket_directory, "stale")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
    assert_left(before, f"socket: {path} (listening: nobody)")
    os.unlink(path)
    assert_clean(before)


def test_a_socket_that_another_listens_on_is_theirs(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    path = os.path.join(scope.socket_directory, "theirs")
    with socket.socket(socket.AF_UNIX) as listener:  # held by this process, which is none of the scope's
        listener.bind(path)
        listener.listen()
        assert_clean(before, timeout=0)


def test_a_lock_is_whose_socket_is_beside_it(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    path = os.path.join(scope.socket_directory, "theirs")
    lock = Path(f"{path}.lock")
    lock.touch()
    assert_left(before, f"socket: {lock} (listening: nobody)")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert_clean(before, timeout=0.2)
    os.unlink(path)
    lock.unlink()


def test_a_socket_that_our_process_listens_on_is_seen_as_ours(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    path = os.path.join(scope.socket_directory, "ours")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen([*SLEEP, scope.markers[0]], pass_fds=[listener.fileno()])
    assert_left(before, f"socket: {path} (listening: [{process.pid}])", f"process: pid {process.pid}")
    scope.clear_by_force()
    assert process.wait() == -9
    assert_clean(before, timeout=0)


def test_a_bundle_is_seen(scope: Scope, tmp_path: Path) -> None:
    before = Leftovers.snapshot(scope)
    bundle = tmp_path / "tasks" / "k8s.io" / "one"
    bundle.mkdir(parents=True)
    assert_left(before, f"bundle: {bundle}")
    bundle.rmdir()
    assert_clean(before)


def test_what_goes_away_in_time_is_not_left(scope: Scope) -> None:
    before = Leftovers.snapshot(scope)
    process = subprocess.Popen(["sh", "-c", "sleep 0.7", scope.markers[0]])
    with pytest.raises(AssertionError, match="left behind after 0 s"):
        assert_clean(before, timeout=0)
    process.wait()
    assert_clean(before, timeout=5)


@root
@pytest.mark.usefixtures("needs_root")
def test_clearing_by_force_removes_every_kind(scope: Scope, marked_directory: Path) -> None:
    before = Leftovers.snapshot(scope)
    with cgroup(scope.markers[0]) as group, running(scope.markers[0]) as process:
        (group / "inner").mkdir()
        (group / "inner" / "cgroup.procs").write_text(str(process.pid))
        subprocess.run(["mount", "-t", "tmpfs", "left", marked_directory], check=True)
        scope.clear_by_force()
        assert process.wait() == -9
        assert not group.exists()
    assert not any(mount.mentions(scope.markers[0]) for mount in read_mounts())
    assert_clean(before, timeout=0)


def test_stat_lines_are_read_whatever_the_name_holds() -> None:
    numbers = " ".join(str(number) for number in range(2, 52))
    entry = parse_stat(f"17 (a b) (c) S {numbers}\n")
    assert (entry.pid, entry.name, entry.state, entry.parent, entry.start_time) == (17, "a b) (c", "S", 2, 20)


def test_mountinfo_lines_are_read_with_their_escapes() -> None:
    text = r"36 35 98:0 /a\040b /mnt\134c rw,noatime master:1 - ext4 /dev/root rw,errors=continue"
    (mount,) = parse_mountinfo(text)
    assert (mount.id, mount.root, mount.target, mount.kind) == (36, "/a b", "/mnt\\c", "ext4")
    assert mount.mentions("errors=continue")
