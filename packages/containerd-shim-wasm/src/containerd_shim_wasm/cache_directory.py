"""The directory of the compile cache: whose it is, and whose the files in it are, looked at each time they are used."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, NoReturn

__all__ = ["BadEntryError", "CacheDirectory", "CacheError", "default_directory", "open_own"]

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def default_directory() -> str:
    """The cache of root's shims, or this user's own; a shim that has no home keeps nothing, and says so."""
    if os.geteuid() == 0:
        return "/var/cache/containerd-shimkit/modules"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    return f"{cache}/containerd-shimkit/modules"


class CacheError(Exception):
    """The cache cannot be used, now or for this entry; never a reason not to run a program."""


class BadEntryError(CacheError):
    """An entry that must not be loaded: it is to be discarded, and made anew."""


class CacheDirectory:
    """A directory with mode 0700 of this process's user, in a place that nobody else can change."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._trusted: tuple[int, int] | None = None

    @contextmanager
    def opened(self, *, make: bool = True) -> Generator[int, None, None]:
        """The directory, opened and looked at, for the block; made if need be and wanted. Raises: CacheError."""
        if not os.path.isabs(self.path):
            self._refuse("has no absolute path")
        try:
            try:
                descriptor = os.open(self.path, _OPEN | os.O_DIRECTORY)
            except FileNotFoundError:
                if not make:
                    raise
                os.makedirs(os.path.dirname(self.path), mode=0o755, exist_ok=True)
                os.makedirs(self.path, mode=0o700, exist_ok=True)
                descriptor = os.open(self.path, _OPEN | os.O_DIRECTORY)
        except OSError as error:
            # ENOTDIR is what a symbolic link is to O_DIRECTORY and O_NOFOLLOW
            self._refuse(f"cannot be opened: {error.strerror}")
        try:
            self._check(os.fstat(descriptor), descriptor)
            yield descriptor
        except OSError as error:
            raise CacheError(f"the compile cache {self.path}: {error}") from error
        finally:
            os.close(descriptor)

    def _check(self, status: os.stat_result, descriptor: int) -> None:
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            self._refuse(f"belongs to user {status.st_uid} and has mode {stat.S_IMODE(status.st_mode):04o}")
        if self._trusted == (status.st_dev, status.st_ino):
            return
        if os.fstatvfs(descriptor).f_flag & os.ST_NOEXEC:
            self._refuse("is on a file system mounted noexec, from where no code can be mapped")
        parent: str = os.path.dirname(os.path.realpath(self.path))
        while True:
            above = os.stat(parent)
            if above.st_uid not in (0, os.geteuid()) or (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX):
                self._refuse(f"lies below {parent}, which others than root can write to")
            if parent == "/":
                break
            parent = os.path.dirname(parent)
        self._trusted = (status.st_dev, status.st_ino)

    def _refuse(self, why: str) -> NoReturn:
        raise CacheError(
            f"the compile cache {self.path} {why}; it must be a directory of user {os.geteuid()} with mode 0700, "
            "no link, where code may be mapped: make it so, or name another by the runtime option "
            "compile_cache_directory"
        )


def open_own(name: str, directory: int, where: str) -> int | None:
    """Open the file *name*, which this user alone can have made, in the open *directory*, known to people as *where*.

    None when it is not there. Raises: BadEntryError for a file of another kind or of another user, and for a link.
    """
    try:
        descriptor = os.open(name, _OPEN, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadEntryError(f"{where}/{name} cannot be opened, or is a link: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        problem = "is not a regular file with one name"
    elif status.st_uid != os.geteuid() or status.st_mode & 0o022:
        problem = f"belongs to user {status.st_uid} and has mode {stat.S_IMODE(status.st_mode):04o}"
    else:
        return descriptor
    os.close(descriptor)
    raise BadEntryError(f"{where}/{name} {problem}: no shim has made it")
