"""Processes that are named so that no other can be meant: by descriptor, or by pid, start time and boot.

Pids are reused within minutes. A descriptor stays with its process, but dies with ours; the three numbers can be
written down. Source: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2), proc_pid_stat(5).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .libc import syscall

__all__ = ["ProcessIdentity", "identify", "kill_process", "pidfd_open", "pidfd_send_signal", "take_descriptor"]

_START_TIME: Final = 19  # field 22, counted from the third, which follows the name


def pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor of the process *pid*, readable when it has ended; it is closed by an execve.

    Raises: OSError; ProcessLookupError when there is none.
    """
    try:
        return syscall("pidfd_open", pid, flags)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (process {pid})") from None


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Send *signal* to the process of the descriptor. Raises: OSError; ProcessLookupError when it has been reaped."""
    syscall("pidfd_send_signal", pidfd, signal, 0, 0)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process among all that there ever were: its start is in clock ticks since the boot that `boot_id` names."""

    pid: int
    start_time: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process exists; a zombie does."""
        if self.boot_id != _boot_id():
            return False
        try:
            return _read_start_time(self.pid) == self.start_time
        except ProcessLookupError:
            return False

    def is_running(self) -> bool:
        """Whether it exists and has not ended: a zombie has."""
        if self.boot_id != _boot_id():
            return False
        try:
            fields = _read_fields(self.pid)
        except ProcessLookupError:
            return False
        return int(fields[_START_TIME]) == self.start_time and fields[0] not in (b"Z", b"X")


def identify(pid: int) -> ProcessIdentity:
    """The identity of the process that has *pid* now. Raises: ProcessLookupError when there is none."""
    return ProcessIdentity(pid, _read_start_time(pid), _boot_id())


def kill_process(identity: ProcessIdentity, signal: int) -> bool:
    """Send *signal* to that process and to no other; False when it has ended. Raises: OSError."""
    try:
        descriptor = pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # the descriptor came first: if the pid is still that process's now, the descriptor is of it
        if not identity.is_alive():
            return False
        pidfd_send_signal(descriptor, signal)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def take_descriptor(identity: ProcessIdentity, number: int) -> int:
    """A copy of what that process has open as *number*, closed by an execve. Needs CAP_SYS_PTRACE, Linux 5.6.

    Raises: OSError; ProcessLookupError when it has ended.
    """
    descriptor = pidfd_open(identity.pid)
    try:
        if not identity.is_alive():
            raise ProcessLookupError(errno.ESRCH, f"{os.strerror(errno.ESRCH)} (process {identity.pid})")
        return syscall("pidfd_getfd", descriptor, number, 0)
    finally:
        os.close(descriptor)


def _read_start_time(pid: int) -> int:
    return int(_read_fields(pid)[_START_TIME])


def _read_fields(pid: int) -> list[bytes]:
    """The fields of the process's stat file from its state on, which is the third."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(errno.ESRCH, f"{os.strerror(errno.ESRCH)} (process {pid})") from None
    # the name, in parentheses, may hold anything, parentheses too
    return content.rpartition(b")")[2].split()


@lru_cache(maxsize=1)
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
