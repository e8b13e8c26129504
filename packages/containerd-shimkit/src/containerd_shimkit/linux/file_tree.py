"""A copy of a tree of files that is not trusted: by descriptors only, and no link in it is followed.

Source: openat(2), mknodat(2), sendfile(2), xattr(7).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

__all__ = ["copy_tree"]

_CHUNK: Final = 1 << 24
_DEEPEST: Final = 128  # two descriptors are open for each directory on the way
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# what was a file a moment ago may be a FIFO by now, if others write there as well: it must not block
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int, depth: int = 0) -> None:
    """Copy all that is in the directory *source* into the empty directory *target*: descriptors, O_PATH will do.

    Contents, modes, owners, times of change, links as they are, devices and, where the target can have them, extended
    attributes; each name of a hard link becomes a file of its own, and sockets are left out. *depth* is how far below
    the top it is. Raises: OSError; ENAMETOOLONG for more than 128 directories in each other.
    """
    if depth > _DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"more than {_DEEPEST} directories in each other are not copied")
    readable = os.open(".", _DIRECTORY, dir_fd=source)
    try:
        for name in os.listdir(readable):
            _copy(name, os.stat(name, dir_fd=readable, follow_symlinks=False), readable, target, depth)
    finally:
        os.close(readable)


def _copy(name: str, status: os.stat_result, source: int, target: int, depth: int) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        _copy_directory(name, source, target, depth)
    elif kind == stat.S_IFREG:
        _copy_file(name, source, target)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    elif kind != stat.S_IFSOCK:
        os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)  # it was made here: it is no link


def _copy_directory(name: str, source: int, target: int, depth: int) -> None:
    below = os.open(name, _DIRECTORY, dir_fd=source)
    try:
        os.mkdir(name, 0o700, dir_fd=target)
        made = os.open(name, _DIRECTORY, dir_fd=target)
        try:
            copy_tree(below, made, depth + 1)
            _copy_attributes(below, made)
        finally:
            os.close(made)
    finally:
        os.close(below)


def _copy_file(name: str, source: int, target: int) -> None:
    original = os.open(name, _FILE, dir_fd=source)
    try:
        made = os.open(name, _NEW, 0o600, dir_fd=target)
        try:
            if stat.S_ISREG(os.fstat(original).st_mode):
                while os.sendfile(made, original, None, _CHUNK):
                    pass
            _copy_attributes(original, made)
        finally:
            os.close(made)
    finally:
        os.close(original)


def _copy_attributes(original: int, made: int) -> None:
    status = os.fstat(original)
    os.fchown(made, status.st_uid, status.st_gid)
    os.fchmod(made, stat.S_IMODE(status.st_mode))  # after the owner, whose change takes set-user-id off
    with suppress(OSError):  # the one or the other file system has none, or not these
        for attribute in os.listxattr(original):
            os.setxattr(made, attribute, os.getxattr(original, attribute))
    os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
