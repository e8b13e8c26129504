from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux import process
from containerd_shimkit.linux.libc import syscall

InChild = Callable[[Callable[[], object]], None]


def open_descriptors() -> set[int]:
    found = set()
    for descriptor in range(3, 300):
        try:
            os.fstat(descriptor)
            found.add(descriptor)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("keep", [set[int](), {40}, {40, 41, 50}, {299}, {0, 1, 2, 40}, {40, 260}])
def test_all_descriptors_are_closed_but_those_kept(in_child: InChild, keep: set[int]) -> None:
    def work() -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        report = os.dup(2)
        for descriptor in (*range(38, 60), 260, 299):
            os.dup2(null, descriptor)
        os.dup2(report, 2)
        process.close_descriptors({fd for fd in keep if fd > 2 or fd < 3})
        assert open_descriptors() == {fd for fd in keep if fd > 2}
        os.fstat(0)

    in_child(lambda: _with_reports(work))


def _with_reports(work: Callable[[], None]) -> None:
    # the pipe that tells the test of a failure is closed with the rest, so the status has to do
    try:
        work()
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(9)
    os._exit(0)


def test_closing_begins_where_it_is_told_to(in_child: InChild) -> None:
    def work() -> None:
        for descriptor in (100, 101, 102):
            os.dup2(0, descriptor)
        process.close_descriptors({5, 101}, from_fd=100)
        assert {fd for fd in open_descriptors() if fd >= 100} == {101}

    in_child(work)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("short", "short"),
        ("fifteen-bytes-x-cut", "fifteen-bytes-x"),
        ("häuser-straßen-x", "häuser-straße"),
        ("a\0b", "ab"),
    ],
)
def test_the_name_is_cut_between_characters(in_child: InChild, name: str, shown: str) -> None:
    def work() -> None:
        process.set_name(name)
        assert Path("/proc/self/comm").read_text() == f"{shown}\n"

    in_child(work)


def test_what_a_process_says_of_itself_is_seen(in_child: InChild) -> None:
    def work() -> None:
        process.set_no_new_privs()
        assert "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()
        process.set_dumpable(False)
        if os.geteuid() != 0:
            with pytest.raises(PermissionError):
                os.listdir("/proc/self/fd")
        process.set_dumpable(True)
        with pytest.raises(OSError, match=r"prctl\(PR_SET_PDEATHSIG\): Invalid argument: '9999'"):
            process.set_parent_death_signal(9999)

    in_child(work)


def test_orphans_come_to_a_subreaper(in_child: InChild) -> None:
    def work() -> None:
        process.set_child_subreaper()
        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                while os.getppid() != reaper:
                    time.sleep(0.001)
                os.write(writer, b"x")
            os._exit(0)
        assert os.read(reader, 1) == b"x"
        os.wait()
        os.wait()
        process.set_child_subreaper(False)

    reaper = -1

    def with_pid() -> None:
        nonlocal reaper
        reaper = os.getpid()
        work()

    in_child(with_pid)


def test_a_child_dies_with_its_parent_when_it_wants_to(in_child: InChild) -> None:
    def work() -> None:
        process.set_child_subreaper()
        ready, is_ready = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                process.set_parent_death_signal(signal.SIGKILL)
                os.write(is_ready, b"x")
                time.sleep(30)
            os.read(ready, 1)
            os._exit(0)
        os.wait()
        _pid, status = os.wait()
        assert os.WTERMSIG(status) == signal.SIGKILL

    in_child(work)


def test_a_new_session_keyring_is_not_the_parents(in_child: InChild) -> None:
    def work() -> None:
        session, get_id = (1 << 64) - 3, 0  # KEY_SPEC_SESSION_KEYRING, KEYCTL_GET_KEYRING_ID
        before = syscall("keyctl", get_id, session, 1)
        process.join_new_session_keyring()
        assert syscall("keyctl", get_id, session, 1) != before

    in_child(work)


def test_an_environment_that_is_hidden_is_still_this_processs_own() -> None:
    code = """
import os, subprocess
from containerd_shimkit.linux.process import hide_environment
before = open("/proc/self/environ", "rb").read()
hide_environment()
print(b"SECRET=hushed" in before, open("/proc/self/environ", "rb").read().strip(b"\\0"))
print(os.environ["SECRET"], os.environ["PATH"], flush=True)
if os.fork() == 0:
    os.execv("/bin/sh", ["sh", "-c", "echo $SECRET"])
os.wait()
"""
    environment = {"SECRET": "hushed", "PATH": "/bin", "EMPTY": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True b''", "hushed /bin", "hushed"]
