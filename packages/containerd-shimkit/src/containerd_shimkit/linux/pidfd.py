"""Processes that are not our children, by an identity that a reused pid does not have.

Source: pidfd_open(2), pidfd_send_signal(2), proc_pid_stat(5).
"""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Final

from .libc import SYS_PIDFD_SEND_SIGNAL, last_error, libc

__all__ = ["ProcessIdentity", "identify", "kill_process", "pidfd_open", "pidfd_send_signal"]

_START_TIME: Final = 19  # field 22 of /proc/PID/stat, counted from the third, which follows the name


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process by pid, start time (clock ticks since boot) and the boot's id: no other ever has all three."""

    pid: int
    start_time: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process exists (a zombie does)."""
        return self.boot_id == _boot_id() and _start_time(self.pid) == self.start_time


def identify(pid: int) -> ProcessIdentity:
    """The identity of the process that has *pid* now. Raises: ProcessLookupError."""
    start_time = _start_time(pid)
    if start_time is None:
        raise ProcessLookupError(3, "no such process", str(pid))
    return ProcessIdentity(pid, start_time, _boot_id())


def pidfd_open(pid: int) -> int:
    """A descriptor of the process that has *pid* now, close-on-exec. Raises: OSError."""
    return os.pidfd_open(pid)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Send *signal* to the process of *pidfd*. Raises: ProcessLookupError when it has ended; OSError."""
    if libc.syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, ctypes.c_void_p(None), 0) < 0:
        raise last_error("pidfd_send_signal")


def kill_process(identity: ProcessIdentity, signal: int) -> bool:
    """Send *signal* to exactly that process; False when it is gone, also when its pid is another's now."""
    try:
        descriptor = pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # first the descriptor, then the look: from here on the pid cannot change hands unseen
        if not identity.is_alive():
            return False
        pidfd_send_signal(descriptor, signal)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


@functools.cache
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _start_time(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the name, in parentheses, may hold anything: count from the last one
            return int(file.read().rpartition(b")")[2].split()[_START_TIME])
    except (FileNotFoundError, ProcessLookupError):
        return None
