"""Mounts that stand nowhere yet, and attributes of a mount with all that is mounted below it.

Source: open_tree(2), move_mount(2), mount_setattr(2).
"""

from __future__ import annotations

import os
import struct
from typing import Final

from .libc import encode, syscall

__all__ = ["copy_mount", "move_mount", "set_attributes"]

_AT_FDCWD: Final = (1 << 64) - 100  # -100, as the register has it
_AT_EMPTY_PATH: Final = 0x1000  # include/uapi/linux/fcntl.h
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1  # include/uapi/linux/mount.h
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
_MOUNT_ATTR: Final = struct.Struct("=QQQQ")  # to set, to clear, propagation, the user namespace's descriptor


def copy_mount(source: str, *, recursive: bool) -> int:
    """Make a bind mount of *source* that stands nowhere, with what is mounted below it if *recursive*; a descriptor.

    It is gone with its descriptor, unless `move_mount` puts it somewhere. Raises: OSError that names the source.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    try:
        return syscall("open_tree", _AT_FDCWD, encode(source), flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, source) from None


def move_mount(mount: int, target: int) -> None:
    """Put the mount of `copy_mount` on what the descriptor *target* is of. Raises: OSError."""
    syscall("move_mount", mount, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def set_attributes(
    mount: int,
    chosen: int,
    cleared: int = 0,
    *,
    recursive: bool = False,
    user_namespace: int = 0,
    propagation: int = 0,
) -> None:
    """Change the mount whose root the descriptor *mount* is of, all at once or not at all.

    *chosen* and *cleared* are MOUNT_ATTR_ bits; MOUNT_ATTR_IDMAP takes the mapping of *user_namespace*, a descriptor;
    *propagation* is one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE. Raises: OSError.
    Source: mount_setattr(2); the kernel has it from 5.12 on.
    """
    attributes = _MOUNT_ATTR.pack(chosen, cleared, propagation, user_namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", mount, b"", flags, attributes, len(attributes))
