"""Paths inside a root that is not trusted: resolved by the kernel, in that root, and never by its magic links.

A container's image may hold any link anywhere; so nothing in it is ever named by a path of the host. What these
functions give is a descriptor, which stays what it is whatever becomes of the path.
Source: openat2(2).
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from .libc import encode, syscall

__all__ = [
    "RESOLVE_BENEATH",
    "RESOLVE_IN_ROOT",
    "RESOLVE_NO_MAGICLINKS",
    "RESOLVE_NO_SYMLINKS",
    "RESOLVE_NO_XDEV",
    "make_directory_in_root",
    "make_file_in_root",
    "open_in_root",
    "openat2",
]

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_MAX_TRIES: Final = 128  # of a lookup that a rename elsewhere on the machine disturbs
_MAX_LINKS: Final = 40  # the kernel's own limit
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_HOW: Final = struct.Struct("=QQQ")  # flags, mode, resolve


def openat2(dir_fd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open *path* relative to *dir_fd*, as the RESOLVE_ bits allow; a descriptor. Raises: OSError."""
    how = _OPEN_HOW.pack(flags, mode, resolve)
    try:
        return syscall("openat2", dir_fd, encode(path), how, len(how))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open *path* as a process would whose `/` is *root_fd*: absolute links and `..` stay inside.

    Raises: OSError; ELOOP for a magic link (such as those in /proc/self/fd) on the way.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    for tries_left in reversed(range(_MAX_TRIES)):
        try:
            return openat2(root_fd, path or ".", flags | os.O_CLOEXEC, mode, resolve)
        except BlockingIOError:
            # the kernel cannot promise that a `..` stayed inside while something was renamed: look again
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def make_directory_in_root(root_fd: int, path: str, mode: int = 0o755) -> int:
    """Open the directory *path* in the root (O_PATH), having made what is missing of it, parents included.

    A link that leads to nothing is followed, in the root, and what it leads to is made. The umask applies to *mode*.
    Raises: OSError.
    """
    try:
        return open_in_root(root_fd, path, _DIRECTORY)
    except FileNotFoundError:
        pass
    wanted = path
    for _ in range(_MAX_LINKS):
        made = _make_directories(root_fd, _parts(wanted), mode, path)
        if isinstance(made, int):
            return made
        wanted = made
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def make_file_in_root(root_fd: int, path: str) -> int:
    """Open the file *path* in the root (O_PATH), having made an empty one where there is nothing, with its parents.

    Raises: OSError; IsADirectoryError for a directory.
    """
    wanted = path
    for _ in range(_MAX_LINKS):
        try:
            return _open_file(root_fd, wanted)
        except FileNotFoundError:
            pass
        *parents, name = _parts(wanted) or [""]
        if name in ("", ".."):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        directory = make_directory_in_root(root_fd, "/".join(parents))
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o644, dir_fd=directory))
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileExistsError:
            wanted = _target_of_link(directory, name, parents)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(directory)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _open_file(root_fd: int, path: str) -> int:
    try:
        os.close(open_in_root(root_fd, path, _DIRECTORY))
    except NotADirectoryError:
        return open_in_root(root_fd, path, os.O_PATH)
    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _make_directories(root_fd: int, parts: list[str], mode: int, path: str) -> int | str:
    """Make the missing ones of *parts*; their descriptor, or the path to go on with when a dead link is in the way."""
    there, descriptor = _open_deepest(root_fd, parts)
    try:
        for index in range(there, len(parts)):
            name = parts[index]
            if name == "..":  # of a directory that was not there, so it cannot have been meant
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            try:
                os.mkdir(name, mode, dir_fd=descriptor)
            except FileExistsError:
                target = _target_of_link(descriptor, name, parts[:index])
                return "/".join([target, *parts[index + 1 :]])
            below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        found, descriptor = descriptor, -1
        return found
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _open_deepest(root_fd: int, parts: list[str]) -> tuple[int, int]:
    """How many of *parts* exist, counted from the front, and a descriptor of the directory that they lead to."""
    for length in range(len(parts), 0, -1):
        try:
            return length, open_in_root(root_fd, "/".join(parts[:length]), _DIRECTORY)
        except FileNotFoundError:
            continue
    return 0, open_in_root(root_fd, ".", _DIRECTORY)


def _target_of_link(directory: int, name: str, parents: list[str]) -> str:
    """Where the link *name* leads, as a path from the root. Raises: OSError (EINVAL) when it is no link."""
    target = os.readlink(name, dir_fd=directory)
    return target if target.startswith("/") else "/".join([*parents, target])
