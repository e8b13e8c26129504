"""What a process may say of itself. Source: prctl(2), close_range(2)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from typing import Final

from .libc import last_error, libc

__all__ = ["close_descriptors", "set_child_subreaper", "set_dumpable", "set_name", "set_no_new_privs"]

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_MOST: Final = 1 << 30


def _prctl(name: str, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) < 0:
        raise last_error(f"prctl({name})")


def set_child_subreaper() -> None:
    """Become the parent of orphaned descendants. Raises: OSError."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def set_no_new_privs() -> None:
    """Let no execve(2) gain privileges from here on. Raises: OSError."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:
    """Whether unprivileged processes of this user may trace this one and look into it. Raises: OSError."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(dumpable))


def set_name(name: str) -> None:
    """The thread's name as `ps` shows it: its first 15 bytes. Raises: OSError."""
    buffer = ctypes.create_string_buffer(os.fsencode(name)[:15])
    _prctl("PR_SET_NAME", _PR_SET_NAME, ctypes.addressof(buffer))


def close_descriptors(keep: Collection[int], from_fd: int = 3) -> None:
    """Close every descriptor from *from_fd* on but those in *keep*; closed ones do not matter."""
    start = from_fd
    for descriptor in sorted({each for each in keep if each >= from_fd}):
        os.closerange(start, descriptor)  # close_range(2) where the kernel has it
        start = descriptor + 1
    os.closerange(start, _MOST)
