"""What a process can say of itself: prctl(2), and which descriptors it keeps."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection
from typing import Final

from .libc import last_error, libc, syscall
from .procfs import open_to_write

__all__ = [
    "close_descriptors",
    "detach",
    "hide_environment",
    "join_new_session_keyring",
    "set_child_subreaper",
    "set_command_line",
    "set_dumpable",
    "set_name",
    "set_no_new_privs",
    "set_oom_score_adj",
    "set_parent_death_signal",
    "set_personality",
]

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

_KEYCTL_JOIN_SESSION_KEYRING: Final = 1  # include/uapi/linux/keyctl.h
_DOMAINS: Final = {"LINUX": 0, "LINUX32": 8}  # include/uapi/linux/personality.h
_ARGUMENTS: Final = 48  # fields of /proc/PID/stat, counted from 1
_ENVIRONMENT: Final = 50
_LAST_DESCRIPTOR: Final = (1 << 32) - 1


def set_child_subreaper(enabled: bool = True) -> None:
    """Whether orphans among this process's descendants become its children. Raises: OSError. Source: prctl(2)."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, int(enabled))


def set_no_new_privs() -> None:
    """Let no execve(2) of this process, or of its children, ever gain privileges. Raises: OSError. Source: prctl(2)."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def set_oom_score_adj(value: int) -> None:
    """How readily the out-of-memory killer picks this process, -1000 to 1000.

    Raises: OSError (EACCES: it is lowered with CAP_SYS_RESOURCE only). Source: proc_pid_oom_score_adj(5).
    """
    descriptor = open_to_write("/proc/self/oom_score_adj")
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def set_dumpable(enabled: bool) -> None:
    """Whether others of the same user may trace this process and open its /proc files. Raises: OSError."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(enabled))


def set_parent_death_signal(signal: int) -> None:
    """Have *signal* sent to this process when the thread that forked it ends; 0: none. Raises: OSError."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal)


def set_personality(domain: str) -> None:
    """Show this process, and what it executes, the kernel as one of *domain*: LINUX or LINUX32. Raises: OSError.

    Source: personality(2).
    """
    syscall("personality", _DOMAINS[domain])


def join_new_session_keyring() -> None:
    """Leave the session keyring of this process's parent for a new, empty one. A kernel without keyrings, or a user
    with too many, is no error. Raises: OSError. Source: keyctl(2).
    """
    try:
        syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


def set_name(name: str) -> None:
    """Set the thread's name, as ps(1) shows it: 15 bytes of it, cut between characters. Raises: OSError."""
    cut = os.fsencode(name)[:15].decode(errors="ignore").encode().replace(b"\0", b"")
    syscall("prctl", _PR_SET_NAME, cut, 0, 0, 0)


def set_command_line(text: str) -> None:
    """Show *text* as this process's command line, as ps(1) prints it, as far as what it was executed with has room.

    The kernel shows the memory that the arguments were put into; what cannot be found or written is left as it is.
    Source: proc_pid_cmdline(5), fields 48 and 49 of proc_pid_stat(5).
    """
    start, end = _memory_of(_ARGUMENTS)
    if not 0 < start < end:
        return
    # the last byte must not be 0: that is how the kernel knows that a program has written its own
    content = os.fsencode(text).replace(b"\0", b" ")[: end - start - 2].ljust(end - start - 1, b"\0") + b" "
    ctypes.memmove(start, content, len(content))


def hide_environment() -> None:
    """Let /proc/PID/environ of this process, and of those that it forks, show nothing of what it was executed with.

    Whoever may look into an init that has not become its program yet would see the environment of its maker, and of a
    guest that runs in this program it stays to be seen. `os.environ` and getenv(3) have it as before.
    Source: proc_pid_environ(5), fields 50 and 51 of proc_pid_stat(5).
    """
    for name, value in os.environb.items():
        os.putenv(name, value)  # into memory of the C library's own
    start, end = _memory_of(_ENVIRONMENT)
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)


def _memory_of(field: int) -> tuple[int, int]:
    """Where what the fields *field* and the next of /proc/self/stat tell begins and ends.

    Nowhere (0) for those who may not trace this process.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # from the third one on
    return int(fields[field - 3]), int(fields[field - 2])


def detach(keep: Collection[int]) -> None:
    """Let go of whoever started this process: a session of its own, /dev/null for 0 to 2, no descriptors but *keep*.

    Raises: OSError.
    """
    try:
        os.setsid()
    except PermissionError:
        pass  # it leads one already
    close_descriptors(keep)  # first: there may be none left for what follows
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def close_descriptors(keep: Collection[int], from_fd: int = 3) -> None:
    """Close every descriptor from *from_fd* on but those in *keep*. Raises: OSError. Source: close_range(2)."""
    start = from_fd
    for descriptor in sorted({fd for fd in keep if fd >= from_fd}):
        if descriptor > start:
            syscall("close_range", start, descriptor - 1, 0)
        start = descriptor + 1
    syscall("close_range", start, _LAST_DESCRIPTOR, 0)


def _prctl(name: str, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) < 0:
        raise last_error(f"prctl({name})", str(value))
