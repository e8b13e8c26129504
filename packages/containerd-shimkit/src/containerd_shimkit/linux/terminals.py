"""Terminals: a pair made of a container's own devpts, its size, and the session that it controls.

Everything is by descriptor. A path such as /dev/ptmx of an image may lead anywhere, and it is root that opens it; so
the kernel has to say that it is a devpts, and the other end is asked of the first one.
Source: pty(7), ioctl_tty(2), statfs(2); kernel, filesystems/devpts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios
from dataclasses import dataclass
from typing import Final

from . import paths
from .libc import syscall

__all__ = ["Terminal", "make_controlling", "open_terminal", "set_size"]

_DEVPTS_MAGIC: Final = 0x1CD1  # include/uapi/linux/magic.h
# include/uapi/asm-generic/ioctls.h
_TIOCGPTN: Final = 0x80045430
_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTPEER: Final = 0x5441
_MULTIPLEXER: Final = os.makedev(5, 2)
_SAFE: Final = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
_STATFS_SIZE: Final = 120  # struct statfs of 64 bit systems, whose first word is the type
_INSIDE: Final = paths.RESOLVE_NO_XDEV | paths.RESOLVE_NO_SYMLINKS | paths.RESOLVE_BENEATH


@dataclass(frozen=True, slots=True)
class Terminal:
    """Both ends, which the caller closes, and the slave's name as the container sees it."""

    master: int
    slave: int
    name: str


def open_terminal(root_fd: int) -> Terminal:
    """Make a new terminal of the devpts at /dev/pts of the root. Raises: OSError."""
    directory = paths.open_in_root(root_fd, "/dev/pts", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _type_of_filesystem(directory) != _DEVPTS_MAGIC:
            raise OSError(errno.ENODEV, "a terminal needs a devpts mounted at", "/dev/pts")
        # without crossing a mount: somebody may have put another file over this one
        master = paths.openat2(directory, "ptmx", _SAFE, 0, _INSIDE)
    finally:
        os.close(directory)
    try:
        found = os.fstat(master)
        if not (stat.S_ISCHR(found.st_mode) and found.st_rdev == _MULTIPLEXER):
            raise OSError(errno.ENODEV, "not the multiplexer of terminals", "/dev/pts/ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        return Terminal(master, fcntl.ioctl(master, _TIOCGPTPEER, _SAFE), f"/dev/pts/{number}")
    except BaseException:
        os.close(master)
        raise


def set_size(descriptor: int, height: int, width: int) -> None:
    """Tell the terminal of either end its size in characters, 0 to 65535 each: more is cut. Raises: OSError."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", min(height, 0xFFFF), min(width, 0xFFFF), 0, 0))


def make_controlling(slave: int) -> None:
    """Make the terminal this process's own, which leads a session that has none. Raises: OSError."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def _type_of_filesystem(descriptor: int) -> int:
    found = bytearray(_STATFS_SIZE)
    syscall("fstatfs", descriptor, found)
    (kind,) = struct.unpack_from("l", found)
    return int(kind)
