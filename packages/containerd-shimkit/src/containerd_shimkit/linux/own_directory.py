"""Directories of this user's own, whose contents it believes."""

from __future__ import annotations

import os
import stat

__all__ = ["make_own_directory"]


def make_own_directory(path: str, closed: int) -> bool:
    """Make the directory *path*, with mode 0700; or see whether what is there already is one of this user's.

    Not so for a link, for somebody else's, and where any of the permission bits *closed* is set. Raises: OSError.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.stat(path, follow_symlinks=False)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & closed
    return True
