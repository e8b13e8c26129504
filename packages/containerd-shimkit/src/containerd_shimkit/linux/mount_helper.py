"""Mounting by a program, as mount(8) would: file systems in user space are known to nothing else.

Source: mount(8), mount.fuse3(8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..errors import FailedPreconditionError

__all__ = ["is_helper_type", "mount_by_helper"]

_FAMILIES: Final = ("fuse", "fuse3")
_TIMEOUT: Final = 60.0


def is_helper_type(fstype: str) -> bool:
    """Whether file systems of this type are mounted by a program: `fuse.X` and `fuse3.X`."""
    family, dot, kind = fstype.partition(".")
    return bool(family in _FAMILIES and dot and kind)


def mount_by_helper(source: str, target: str, fstype: str, options: Sequence[str]) -> None:
    """Mount by the program `mount.fuse3` (or `mount.fuse`), which gets *options* as they are.

    Raises: FailedPreconditionError when it is not installed or fails, with what it said; DeadlineExceededError.
    """
    family, _, kind = fstype.partition(".")
    from .programs import run_program  # few have a use for it

    words = [f"mount.{family}", source, target, *(("-o", ",".join(options)) if options else ()), "-t", kind]
    try:
        status, said = run_program(words, "the mount helper", _TIMEOUT)
    except OSError as error:
        raise FailedPreconditionError(
            f"the mount helper {words[0]} cannot be run: {error.strerror}; install it on the host, "
            "or choose another snapshotter"
        ) from error
    if status != 0:
        raise FailedPreconditionError(f"{words[0]} could not mount {source!r} ({fstype}): status {status}: {said}")
