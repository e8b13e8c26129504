"""Makes a process's terminal out of the container's own devpts, and takes it into use."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from ..linux import mounts, paths, terminals
from ..linux.terminals import Terminal
from ..oci import mount_options as ms
from .channel import Channel
from .operations import MakeTerminal, Operation
from .site import Site

__all__ = ["WORK", "hand_over", "take_streams"]


def _make_terminal(site: Site, uid: int, size: tuple[int, int] | None, console: bool) -> None:
    """Make the terminal and note it in *site*; with *console*, mount it at /dev/console too. Raises: OSError."""
    made = site.terminal = terminals.open_terminal(site.root_fd)
    os.fchown(made.slave, uid, -1)  # the group is for the mount option `gid` of devpts to say
    if size is not None:
        terminals.set_size(made.slave, *size)
    if console:
        _mount_console(made.slave, site.root_fd)


def hand_over(terminal: Terminal, channel: Channel) -> None:
    """Give the terminal's master to the shim, and no other process of the container. Raises: OSError."""
    channel.send({"kind": "terminal", "name": terminal.name}, [terminal.master])
    os.close(terminal.master)


def take_streams(terminal: Terminal) -> None:
    """Make the slave the standard streams. Raises: OSError."""
    for target in (0, 1, 2):
        os.dup2(terminal.slave, target)
    os.close(terminal.slave)


def _mount_console(slave: int, root_fd: int) -> None:
    directory = paths.make_directory_in_root(root_fd, "/dev", 0o755)
    try:
        place = _open_console(directory)
    finally:
        os.close(directory)
    try:
        if stat.S_ISLNK(os.fstat(place).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link of the image stands where the terminal belongs", "/dev/console")
        mounts.mount(f"/proc/self/fd/{slave}", f"/proc/self/fd/{place}", "", ms.MS_BIND)
    finally:
        os.close(place)


def _open_console(directory: int) -> int:
    try:
        # O_PATH: an image's own /dev/console may be the host's, which opening would be felt at
        return os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open("console", flags, 0o600, dir_fd=directory)


WORK: Final[dict[type[Operation], Callable[..., None]]] = {MakeTerminal: _make_terminal}
