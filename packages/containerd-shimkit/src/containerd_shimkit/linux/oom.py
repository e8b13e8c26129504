"""Learning that the kernel has killed a process for its group's memory limit.

Source: kernel, admin-guide/cgroup-v1/memory (oom_control), admin-guide/cgroup-v2 (memory.events); eventfd(2),
inotify(7).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Final

from .cgroup_files import GONE, read_table, write
from .libc import encode, last_error, libc

__all__ = ["OomWatch", "OomWatchV1", "OomWatchV2", "read_oom_kills"]

_IN_MODIFY: Final = 0x00000002  # include/uapi/linux/inotify.h
_EVENTS: Final = 4096


class OomWatch(ABC):
    """A descriptor that becomes readable when there may be news, and a method that reads them."""

    def __init__(self, descriptor: int, file: str) -> None:
        """Own *descriptor*; *file* has a line `oom_kill` with the number of killed processes."""
        self._descriptor = descriptor
        self._file = file
        self._first = 0  # the number when the watch began
        self._told = 0  # how many of those since then have been told of

    def fileno(self) -> int:
        """The descriptor, for an event loop: readable, until `was_killed` is called."""
        return self._descriptor

    @property
    def earlier(self) -> int:
        """How many processes of the group had been killed when the watch began."""
        return self._first

    @abstractmethod
    def was_killed(self) -> bool:
        """Whether a process has been killed since the watch began, or since the last call; never blocks.

        False for a group that is gone.
        """

    def close(self) -> None:
        """Stop watching; further calls do nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _table(self) -> dict[str, int]:
        return _table_of(self._file)

    def _begin(self) -> None:
        self._first = read_table(self._file).get("oom_kill", 0)

    def _has_grown(self, count: int) -> bool:
        told, self._told = self._told, max(self._told, count)
        return self._told > told


class OomWatchV1(OomWatch):
    """By an eventfd that the memory controller counts up. It does so right before it kills, and on the group's end."""

    def __init__(self, directory: str) -> None:
        """Watch the group of that directory of the memory hierarchy. Raises: OSError."""
        self._happened = 0
        super().__init__(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), f"{directory}/memory.oom_control")
        try:
            control = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                write(f"{directory}/cgroup.event_control", f"{self._descriptor} {control}")
            finally:
                os.close(control)
            self._begin()
        except BaseException:
            self.close()
            raise

    def was_killed(self) -> bool:
        try:
            happened = os.eventfd_read(self._descriptor)
        except BlockingIOError:
            happened = 0
        table = self._table()
        if table.get("oom_kill_disable") == 0:  # with the killer off, the processes wait instead
            self._happened += happened
        # each is announced before it is counted, and those of groups below are announced only
        return self._has_grown(max(self._happened, table.get("oom_kill", 0) - self._first))


class OomWatchV2(OomWatch):
    """By inotify on `memory.events`, which counts the groups below as well."""

    def __init__(self, directory: str) -> None:
        """Watch the group of that directory. Raises: OSError."""
        descriptor = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if descriptor < 0:
            raise last_error("inotify_init1")
        super().__init__(descriptor, f"{directory}/memory.events")
        try:
            if libc.inotify_add_watch(descriptor, encode(self._file), _IN_MODIFY) < 0:
                raise last_error("inotify_add_watch", self._file)
            self._begin()
        except BaseException:
            self.close()
            raise

    def was_killed(self) -> bool:
        try:
            while len(os.read(self._descriptor, _EVENTS)) == _EVENTS:
                pass
        except BlockingIOError:
            pass
        return self._has_grown(self._table().get("oom_kill", 0) - self._first)


def read_oom_kills(file: str) -> int:
    """The number of killed processes that *file* counts: 0 when it is gone, or a kernel does not. Raises: OSError."""
    return _table_of(file).get("oom_kill", 0)


def _table_of(file: str) -> dict[str, int]:
    try:
        return read_table(file)
    except OSError as error:
        if error.errno in GONE:
            return {}
        raise
