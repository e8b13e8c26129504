"""Opening and making files inside a root directory that somebody else has filled: no link leads out of it.

Source: openat2(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from .libc import SYS_OPENAT2, last_error, libc

__all__ = [
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "make_directory_in_root",
    "make_file_in_root",
    "open_in_root",
    "openat2",
]

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_IN_ROOT: Final = 0x10
_ATTEMPTS: Final = 64
_MAX_LINKS: Final = 40  # as many as the kernel follows


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dir_fd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); the descriptor is close-on-exec. Raises: OSError."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    result: int = libc.syscall(SYS_OPENAT2, ctypes.c_int(dir_fd), os.fsencode(path), ctypes.byref(how), size)
    if result < 0:
        raise last_error("openat2", path)
    return result


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open *path* as a process whose `/` is *root_fd* would, but through no magic link of /proc. Raises: OSError."""
    for attempt in range(_ATTEMPTS):
        try:
            return openat2(root_fd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            # the kernel cannot be sure of a ".." while anything on the system is being renamed or mounted
            if error.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def make_directory_in_root(root_fd: int, path: str, mode: int = 0o755) -> int:
    """Make the directory *path* and its parents where they are missing; an O_PATH descriptor of it.

    Links are followed inside the root. Raises: OSError, NotADirectoryError for what is something else.
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    return _walk(root_fd, [part for part in path.split("/") if part and part != "."], mode)


def make_file_in_root(root_fd: int, path: str) -> int:
    """Make the empty file *path*, and its parents, where they are missing; an O_PATH descriptor of what is there."""
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    directory, name = os.path.split(path.rstrip("/"))
    parent = make_directory_in_root(root_fd, directory or "/")
    try:
        # O_EXCL: a dangling link is not written through, wherever it points
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
        os.close(descriptor)
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)


def _walk(root_fd: int, parts: list[str], mode: int) -> int:
    """Go down *parts*, making what is missing. A dangling link's target is made, inside the root."""
    done = ""
    links = 0
    current = os.dup(root_fd)
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = os.path.dirname(done)
        else:
            target = _link_target(current, part)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    os.close(current)
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/".join([done, part, *parts]))
                done = "" if target.startswith("/") else done
                parts[:0] = [each for each in target.split("/") if each and each != "."]
            else:
                _make(current, part, mode)
                done = f"{done}/{part}"
        os.close(current)
        current = open_in_root(root_fd, done or "/", os.O_PATH | os.O_DIRECTORY)
    return current


def _link_target(dir_fd: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except OSError:
        return None


def _make(dir_fd: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, mode, dir_fd=dir_fd)
    except FileExistsError:
        pass
