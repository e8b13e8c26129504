"""Files of the procfs that are written to: opened, and seen to be what their paths say.

What stands at /proc may be something else: a mount namespace that a container joins has whatever its makers have put
there. A setting or a label that goes into an ordinary file is not in force, and nobody would notice.
Source: statfs(2), openat2(2); include/uapi/linux/magic.h.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from . import paths
from .libc import syscall

__all__ = ["is_on_procfs", "open_setting", "open_to_write"]

_PROC_SUPER_MAGIC: Final = 0x9FA0
_STRICT: Final = paths.RESOLVE_NO_SYMLINKS
_STATFS_SIZE: Final = 256  # more than any architecture's struct statfs, which begins with the type


def open_to_write(path: str) -> int:
    """Open the file *path*, such as /proc/self/oom_score_adj; a descriptor. Raises: OSError, EXDEV in no procfs."""
    return _checked(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW), path)


def open_setting(name: str) -> int:
    """Open the setting *name*, a path below /proc/sys where no link is followed. Raises: as `open_to_write`."""
    path = f"/proc/sys/{name}"
    return _checked(paths.openat2(0, path, os.O_WRONLY | os.O_CLOEXEC, 0, _STRICT), path)


def is_on_procfs(descriptor: int) -> bool:
    """Whether the open file is one of a procfs. Raises: OSError."""
    status = bytearray(_STATFS_SIZE)
    syscall("fstatfs", descriptor, status)
    return bool(struct.unpack_from("=q", status)[0] == _PROC_SUPER_MAGIC)


def _checked(descriptor: int, path: str) -> int:
    if is_on_procfs(descriptor):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EXDEV, "it is in no procfs: nothing that is written there is in force", path)
