"""Running one of the host's programs where nothing may be imported or threaded: a fork and an execve, by hand."""

from __future__ import annotations

import os
import select
import signal
from typing import Final

from ..errors import DeadlineExceededError
from .pidfd import pidfd_open, pidfd_send_signal

__all__ = ["run_program"]

_SHOWN: Final = 2000  # bytes of what it said
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, and so by its children
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_program(words: list[str], what: str, timeout: float) -> tuple[int, str]:
    """Run *words*, the first of them looked up on PATH, to its end: its exit status, and what it said.

    Of the environment it gets PATH alone. *what* it is, is for messages. Blocks: not for a process with a loop.
    Raises: OSError when it cannot be run; DeadlineExceededError after *timeout* seconds, with it killed.
    """
    # not a pipe: a daemon that it leaves behind keeps its standard error open, so the end would never come
    output = os.memfd_create(words[0])
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        environment = {"PATH": os.environ.get("PATH", _DEFAULT_PATH)}
        pid = os.posix_spawnp(words[0], words, environment, file_actions=actions, setsigmask=(), setsigdef=_IGNORED)
        status = _wait(pid, f"{what} {words[0]}", timeout)
        return status, os.pread(output, _SHOWN, 0).decode(errors="replace").strip()
    finally:
        os.close(output)


def _wait(pid: int, name: str, timeout: float) -> int:
    descriptor = pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        in_time = poll.poll(timeout * 1000)
        if not in_time:
            pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
    _pid, status = os.waitpid(pid, 0)
    if not in_time:
        raise DeadlineExceededError(f"{name} did not end within {timeout:g} s and was killed")
    return os.waitstatus_to_exitcode(status)
