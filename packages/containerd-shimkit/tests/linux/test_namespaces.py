from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.linux import namespaces
from containerd_shimkit.linux.namespaces import (
    NAMESPACE_FLAGS,
    bring_loopback_up,
    enter_new_time_namespace,
    open_namespace,
    open_namespaces_of,
    set_domainname,
    set_hostname,
    setns,
    unshare,
)
from containerd_shimkit.linux.pidfd import identify

FILES = {"mount": "mnt", "network": "net"}


@pytest.mark.parametrize("kind", sorted(NAMESPACE_FLAGS))
def test_a_namespace_is_opened_by_its_kind_and_by_no_other(kind: str) -> None:
    path = f"/proc/self/ns/{FILES.get(kind, kind)}"
    descriptor = open_namespace(path, kind)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    other = "uts" if kind != "uts" else "ipc"
    with pytest.raises(InvalidArgumentError, match=f"'{path}' is a namespace of kind {kind}; .* of kind {other} there"):
        open_namespace(path, other)


def test_what_is_no_namespace_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "file"), str(tmp_path / "fifo"), str(tmp_path), "/dev/null"):
        with pytest.raises(InvalidArgumentError, match=f"'{path}' is not a namespace; .* wants one of kind pid"):
            open_namespace(path, "pid")


def test_a_namespace_that_is_gone_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgumentError, match="the network namespace at '/proc/0/ns/net' cannot be opened: No such"
    ):
        open_namespace("/proc/0/ns/net", "network")


def test_a_failed_call_names_what_was_asked_for() -> None:
    with pytest.raises(OSError, match="unshare: Invalid argument: '0x1'"):
        unshare(1)
    with pytest.raises(OSError, match="setns: Bad file descriptor: 'pid'"):
        setns(-1, namespaces.CLONE_NEWPID)


@pytest.mark.root
def test_a_process_moves_into_a_time_namespace_of_its_own(in_child: Callable[[Callable[[], object]], None]) -> None:
    if os.geteuid():
        pytest.skip("making namespaces takes CAP_SYS_ADMIN")

    def work() -> None:
        before, inode = time.clock_gettime(time.CLOCK_BOOTTIME), os.stat("/proc/self/ns/time").st_ino
        enter_new_time_namespace("monotonic 1000 0\nboottime 864000 5\n")
        assert os.stat("/proc/self/ns/time").st_ino != inode
        assert os.path.samefile("/proc/self/ns/time", "/proc/self/ns/time_for_children")
        assert 864000 <= time.clock_gettime(time.CLOCK_BOOTTIME) - before < 864060
        with pytest.raises(OSError, match="out of range"):
            enter_new_time_namespace("boottime -9000000000 0\n")

    in_child(work)


@pytest.mark.root
def test_names_belong_to_the_namespace_and_are_checked(in_namespaces: Callable[[Callable[[], object]], None]) -> None:
    before = os.uname().nodename

    def work() -> None:
        set_hostname("inside")
        set_domainname("domain")
        assert os.uname().nodename == "inside"
        assert Path("/proc/sys/kernel/domainname").read_text() == "domain\n"
        for set_name in (set_hostname, set_domainname):
            with pytest.raises(OSError, match=f"Invalid argument: '{'x' * 65}'"):
                set_name("x" * 65)
            with pytest.raises(OSError, match="NUL"):
                set_name("a\0b")

    in_namespaces(work)
    assert os.uname().nodename == before


@pytest.mark.root
def test_a_new_network_has_a_loopback_that_works(in_namespaces: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        with socket.socket() as server, socket.socket() as client:
            server.bind(("0.0.0.0", 0))
            server.listen()
            with pytest.raises(OSError, match="unreachable"):
                client.connect(("127.0.0.1", server.getsockname()[1]))
            bring_loopback_up()
            client.connect(("127.0.0.1", server.getsockname()[1]))
            request = fcntl.ioctl(server, 0x8913, struct.pack("16sh22x", b"lo", 0))
            assert struct.unpack("16sh22x", request)[1] & 0x9 == 0x9, "up, and a loopback still"

    in_namespaces(work)


@pytest.mark.root
def test_a_namespace_is_entered_by_its_descriptor(in_child: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        first = open_namespace("/proc/self/ns/uts", "uts")
        unshare(NAMESPACE_FLAGS["uts"])
        assert os.stat("/proc/self/ns/uts").st_ino != os.fstat(first).st_ino
        setns(first, NAMESPACE_FLAGS["uts"])
        assert os.stat("/proc/self/ns/uts").st_ino == os.fstat(first).st_ino
        with pytest.raises(OSError, match="setns: Invalid argument: 'network'"):
            setns(first, NAMESPACE_FLAGS["network"])

    in_child(work)


def test_of_another_process_those_namespaces_are_opened_that_are_not_the_own() -> None:
    assert open_namespaces_of(identify(os.getpid())) == {}


@pytest.mark.root
def test_namespaces_of_a_process_that_has_gone_are_nobodys(
    in_namespaces: Callable[[Callable[[], object]], None],
) -> None:
    def child() -> None:
        unshare(namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWNET)
        ours = identify(os.getpid())
        pid = os.fork()
        if pid == 0:
            found = open_namespaces_of(ours)
            os._exit(0 if found == {} else 1)
        assert os.waitpid(pid, 0)[1] == 0
        ours_to_read, theirs_to_write = os.pipe()
        theirs_to_read, ours_to_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            unshare(namespaces.CLONE_NEWUTS)
            os.write(theirs_to_write, b"x")
            os.read(theirs_to_read, 1)
            os._exit(0)
        os.read(ours_to_read, 1)
        them = identify(pid)
        found = open_namespaces_of(them)
        assert list(found) == ["uts"]
        assert os.readlink(f"/proc/self/fd/{found['uts']}") == os.readlink(f"/proc/{pid}/ns/uts")
        os.close(found["uts"])
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ProcessLookupError):
            open_namespaces_of(replace(them, start_time=them.start_time + 1))
        os.write(ours_to_write, b"x")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            open_namespaces_of(them)  # a zombie
        os.waitpid(pid, 0)
        with pytest.raises(ProcessLookupError):
            open_namespaces_of(them)
        assert len(os.listdir("/proc/self/fd")) == before

    in_namespaces(child)
