"""The files and directories that control groups of both versions are made of.

A guest may make groups in its own, as deep as it likes: what is below one is gone through by descriptors, so that
neither a path's length nor the depth of calls limits it. Source: cgroups(7).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from .cgroup_settings import Setting

__all__ = [
    "GONE",
    "OpenFiles",
    "make_directory",
    "pids_below",
    "read",
    "read_table",
    "remove_directory",
    "remove_tree",
    "steps",
    "write",
    "write_if_there",
]

GONE: Final = (errno.ENOENT, errno.ENODEV)
"""What a removed group's files answer: before they are opened, and after."""

_FIRST_STEP: Final = 0.001
_LONGEST_STEP: Final = 0.02
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OpenFiles:
    """The files of a group, each opened once: dozens of device rules go through one descriptor, one write each."""

    def __init__(self, directory_of: Callable[[str], str | None]) -> None:
        """*directory_of* gives a controller's directory, or None when the host does not have it."""
        self._directory_of = directory_of
        self._open: dict[str, int] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def write(self, setting: Setting) -> None:
        """Write the setting. Raises: OSError."""
        descriptor, value = self._open.get(setting.file), setting.value
        if descriptor is None:
            try:
                descriptor = self._opened(setting.controller, setting.file)
            except FileNotFoundError:
                if setting.instead is None:
                    if setting.may_lack:
                        return
                    raise
                file, value = setting.instead
                descriptor = self._open.get(file) or self._opened(setting.controller, file)
        os.write(descriptor, value.encode())

    def _opened(self, controller: str, file: str) -> int:
        directory = self._directory_of(controller)
        if directory is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        descriptor = self._open[file] = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        return descriptor


def make_directory(path: str) -> None:
    """Make a directory, and those that it is in, where they are missing. Raises: OSError."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
        make_directory(path)


def pids_below(directories: Iterable[str]) -> set[int]:
    """The processes of the groups and of those below them; none for one that is gone. Raises: OSError."""
    found: set[int] = set()
    for directory in directories:
        if _has_nested(directory):
            for descriptor in _walk(directory):
                found.update(_read_pids(descriptor))
        else:
            found.update(_read_pids(directory))
    return found


def _has_nested(directory: str) -> bool:
    """Whether there are groups in this one: a directory's link count tells, and it seldom has any."""
    try:
        return os.stat(directory).st_nlink > 2
    except OSError as error:
        if error.errno in GONE:
            return False
        raise


def _walk(directory: str) -> Iterator[int]:
    """Give a descriptor of each group below and, last, of *directory* itself; it is valid until the next is asked for.

    What is removed meanwhile is left out.
    """
    try:
        current = os.open(directory, _DIRECTORY)
    except OSError as error:
        if error.errno in GONE:
            return
        raise
    try:
        left = [_nested(current)]
        while True:
            if left[-1]:
                try:
                    below = os.open(left[-1].pop(), _DIRECTORY, dir_fd=current)
                except OSError as error:
                    if error.errno in GONE:
                        continue
                    raise
                os.close(current)
                current = below
                left.append(_nested(current))
                continue
            yield current
            left.pop()
            if not left:
                return
            above = os.open("..", _DIRECTORY, dir_fd=current)
            os.close(current)
            current = above
    finally:
        os.close(current)


def _nested(descriptor: int) -> list[str]:
    try:
        with os.scandir(descriptor) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def _read_pids(directory: str | int) -> list[int]:
    try:
        if isinstance(directory, int):
            with open(os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
                return [int(word) for word in file.read().split()]
        return [int(word) for word in read(f"{directory}/cgroup.procs").split()]
    except OSError as error:
        # a threaded group has no processes of its own: those whose threads are in it are listed above
        if error.errno in (*GONE, errno.EOPNOTSUPP):
            return []
        raise


def remove_directory(path: str) -> bool:
    """Remove one group; True when it is gone. Raises: OSError but for one in use."""
    return _remove(path, None)


def remove_tree(path: str) -> bool:
    """Remove the group and those below it, as far as they are not in use; True when it is gone. Raises: OSError."""
    if _has_nested(path):
        for descriptor in _walk(path):
            for name in _nested(descriptor):  # which are empty by now, or in use
                _remove(name, descriptor)
    return remove_directory(path)


def _remove(name: str, dir_fd: int | None) -> bool:
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno != errno.ENOENT:
            raise
    return True


def steps(seconds: float) -> Iterator[None]:
    """Give the moments of trying again: soon at first, then less often, until *seconds* are over."""
    give_up, step = time.monotonic() + seconds, _FIRST_STEP
    while time.monotonic() < give_up:
        time.sleep(step)
        step = min(step * 2, _LONGEST_STEP)
        yield


def read(path: str) -> str:
    """The whole of a file. Raises: OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read().decode("ascii")


def read_table(path: str) -> dict[str, int]:
    """A file of lines of a name and a number; what is no number is left out. Raises: OSError."""
    pairs = (line.split(" ", 1) for line in read(path).splitlines() if " " in line)
    return {key: int(value) for key, value in pairs if value.strip().isdigit()}


def write(path: str, value: str) -> None:
    """Write *value* at once. Raises: OSError that names the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def write_if_there(path: str, value: str) -> bool:
    """As `write`; False when the file, or its group, is not there."""
    try:
        write(path, value)
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    return True
