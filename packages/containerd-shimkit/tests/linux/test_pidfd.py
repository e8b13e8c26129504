from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from containerd_shimkit.linux import pidfd
from containerd_shimkit.linux.pidfd import (
    ProcessIdentity,
    identify,
    kill_process,
    pidfd_open,
    pidfd_send_signal,
    take_descriptor,
)


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_process_is_identified_and_killed(child: int) -> None:
    identity = identify(child)
    assert identity.is_alive()
    assert kill_process(identity, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    assert not identity.is_alive()
    assert not kill_process(identity, signal.SIGKILL)
    with pytest.raises(ProcessLookupError, match=f"No such process.*process {child}"):
        identify(child)
    with pytest.raises(ProcessLookupError, match=f"pidfd_open: No such process .process {child}"):
        pidfd_open(child)


def test_another_process_of_the_same_pid_is_never_hit(child: int) -> None:
    identity = identify(child)
    for stranger in (replace(identity, start_time=identity.start_time - 1), replace(identity, boot_id="another boot")):
        assert not stranger.is_alive()
        assert not kill_process(stranger, signal.SIGKILL)
    assert identify(child) == identity
    assert os.waitpid(child, os.WNOHANG) == (0, 0)


def test_an_identity_survives_being_written_down(child: int) -> None:
    identity = identify(child)
    assert ProcessIdentity(**json.loads(json.dumps(asdict(identity)))) == identity


def test_a_descriptor_tells_the_end_and_stays_with_its_process(child: int) -> None:
    descriptor = pidfd_open(child)
    assert not os.get_inheritable(descriptor)
    pidfd_send_signal(descriptor, signal.SIGKILL)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(5000)
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError, match="pidfd_send_signal"):
        pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)


def test_a_name_full_of_parentheses_is_no_trap() -> None:
    ready, is_ready = os.pipe()
    plain = identify(os.getpid()).start_time
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/comm", "w") as file:
            file.write("a) S 1 1 (b) R ")
        os.write(is_ready, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        assert plain <= identify(pid).start_time < plain + 10_000_000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(is_ready)


def test_a_process_that_ends_between_look_and_signal_is_gone(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(descriptor: int, number: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(pidfd, "pidfd_send_signal", too_late)
    assert not kill_process(identify(child), signal.SIGKILL)


@pytest.mark.root
def test_a_descriptor_is_taken_of_that_process_alone(child: int) -> None:
    identity = identify(child)
    number = os.dup(0)  # of the same number in none but this process
    try:
        with pytest.raises(OSError, match="pidfd_getfd: Bad file descriptor"):
            take_descriptor(identity, number)
    finally:
        os.close(number)
    taken = take_descriptor(identity, 1)
    assert os.fstat(taken) == os.fstat(1)
    assert not os.get_inheritable(taken)
    os.close(taken)
    with pytest.raises(ProcessLookupError, match=f"No such process .process {child}"):
        take_descriptor(replace(identity, start_time=1), 1)
