"""What a zygote does without a child, seen by descriptors and without opening a caller's path.

containerd runs `start` for every container, and `delete` after every task, when nearly always nothing is left to do.
Both take a few system calls that cannot hang, and that cost less here: a child would copy what it writes to first. A
child is needed only to be a group's new shim, and for everything that could hang or is not as usual.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from typing import Final

from ..container.state import REMOVED_FILE
from ..errors import ShimError
from ..shim.actions import Outcome, Service, Shim, group_socket, start_answer, write_address
from ..shim.address import DEFAULT_SOCKET_DIR
from ..shim.args import ShimArgs
from ..shim.group import GroupLock, is_alive, listen
from ..shim.messages import encode_delete_response, parse_start_input
from .messages import Reply

__all__ = ["delete_response", "input_at_hand", "start_outcome"]

_KILLED: Final = 137
_LOCAL: Final = frozenset(("tmpfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "ramfs"))
_MAX_ADDRESS: Final = 128
_MAX_CONFIG: Final = 1 << 20
_PIPE: Final = 1 << 16  # what a pipe holds: no more can be there without its writer


def input_at_hand(stdin: int, commit: Callable[[], object]) -> bytes | None:
    """All that there ever will be on standard input, if that is known without waiting; else None.

    *commit* is called before anything is read, for nobody can read it again.
    """
    status = os.fstat(stdin)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3):
        return b""  # /dev/null
    if not stat.S_ISFIFO(status.st_mode):
        return None
    poll = select.poll()
    poll.register(stdin, select.POLLIN)
    events = dict(poll.poll(0)).get(stdin, 0)
    if not events & select.POLLHUP:
        return None  # somebody may still write to it
    if not events & select.POLLIN:
        return b""
    commit()
    return os.read(stdin, _PIPE)


def start_outcome(shim: Shim, args: ShimArgs, directory: int, data: bytes) -> Outcome | None:
    """What `start` comes to in the bundle *directory*: the address of the group's shim, or of one to be served.

    *data* is what stood on standard input. None for what has to be done by a child: anything that is not as usual.
    """
    try:
        if not _is_local(directory):
            return None
        request = parse_start_input(data, args.id, args.namespace)
        path = group_socket(shim, args, _read(directory, "config.json", _MAX_CONFIG), "config.json", request)
        if os.path.dirname(path) != DEFAULT_SOCKET_DIR or not os.path.isdir(DEFAULT_SOCKET_DIR):
            return None
        bundle = os.readlink(f"/proc/self/fd/{directory}")
        lock = GroupLock(path)
        if not lock.acquire(blocking=False):
            return None
        listener = None
        try:
            if not is_alive(path):
                lock.forget_all()
                listener = listen(path)
            lock.announce(args.id)
            write_address(f"unix://{path}", directory)
        except BaseException:
            if listener is not None:
                listener.close()
                os.unlink(path)
            raise
        finally:
            lock.release(remove=not os.path.lexists(path))
    except (ShimError, OSError):
        return None  # a child will meet the same, and say it with names
    service = None if listener is None else Service(args, listener, bundle, request)
    return Outcome(Reply(0, start_answer(request, f"unix://{path}")), service)


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


def _read(directory: int, name: str, limit: int) -> bytes:
    """The regular file *name*, which is no link and has fewer than *limit* bytes. Raises: OSError."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name} is no regular file")
        data = os.read(descriptor, limit)
    finally:
        os.close(descriptor)
    if len(data) == limit:
        raise OSError(f"{name} is too long")
    return data


def _is_removed(directory: int) -> bool:
    return os.access(REMOVED_FILE, os.F_OK, dir_fd=directory, follow_symlinks=False)


def _has_dead_socket(directory: int) -> bool:
    """Whether the group's socket is there without anybody behind it, or may be: a shim that was killed leaves it."""
    try:
        path = _read(directory, "address", _MAX_ADDRESS).decode("ascii", errors="replace").removeprefix("unix://")
    except OSError:
        return True
    return os.path.dirname(path) != DEFAULT_SOCKET_DIR or (os.path.lexists(path) and not is_alive(path))
