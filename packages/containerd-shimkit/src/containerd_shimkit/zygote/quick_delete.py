"""`delete` for a container that its shim has removed already: seen by descriptors, without opening a caller's path.

containerd runs `delete` after every task, and nearly always nothing is left to do. The shim says so by a file in the
bundle. Everything that could hang or needs work is left to a child.
"""

from __future__ import annotations

import errno
import os
import socket
from datetime import datetime, timezone
from functools import lru_cache
from typing import Final

from ..container.state import REMOVED_FILE
from ..shim.address import DEFAULT_SOCKET_DIR
from ..shim.messages import encode_delete_response

__all__ = ["delete_response"]

_KILLED: Final = 137
_LOCAL: Final = frozenset(("tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "ramfs"))
_MAX_ADDRESS: Final = 128


def delete_response(bundle: str, directory: int) -> bytes | None:
    """The answer of `delete` when the bundle, whose descriptor is *directory*, holds nothing to remove; else None."""
    if bundle and os.readlink(f"/proc/self/fd/{directory}") != bundle:
        return None  # run from elsewhere, by hand: its path would have to be opened
    if not _is_local(directory) or not _is_removed(directory) or _has_dead_socket(directory):
        return None
    return encode_delete_response(0, _KILLED, datetime.now(timezone.utc))


def _is_local(directory: int) -> bool:
    """Whether the descriptor is of a file system that always answers."""
    with open(f"/proc/self/fdinfo/{directory}", "rb", buffering=0) as file:
        lines = file.read().splitlines()
    mount = next((line.split()[1] for line in lines if line.startswith(b"mnt_id:")), b"")
    return _is_local_mount(mount)


@lru_cache(maxsize=64)
def _is_local_mount(mount_id: bytes) -> bool:
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            if line.startswith(mount_id + b" "):
                return line.partition(b" - ")[2].split()[0].decode() in _LOCAL
    return False


def _is_removed(directory: int) -> bool:
    return os.access(REMOVED_FILE, os.F_OK, dir_fd=directory, follow_symlinks=False)


def _has_dead_socket(directory: int) -> bool:
    """Whether the group's socket is there without anybody behind it, or may be: a shim that was killed leaves it."""
    try:
        descriptor = os.open("address", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return True
    try:
        path = os.read(descriptor, _MAX_ADDRESS).decode("ascii", errors="replace").removeprefix("unix://")
    finally:
        os.close(descriptor)
    if os.path.dirname(path) != DEFAULT_SOCKET_DIR:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        # a listener of streams refuses datagrams by its type, and does not even wake up; a dead one refuses as dead
        return probe.connect_ex(path) not in (errno.EPROTOTYPE, errno.ENOENT)
