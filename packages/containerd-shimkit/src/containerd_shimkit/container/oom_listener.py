"""Hears that the kernel has killed a process of a container for its memory limit, and tells of it before the exit.

To listen costs a start more than most containers need, so that it begins a moment after; until then, and at the end,
what the kernel has counted is looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ..errors import ShimError
from ..linux.cgroup import Cgroup
from ..linux.oom import OomWatch

__all__ = ["OomListener"]

_log = logging.getLogger(__name__)

_DELAY: Final = 0.05  # seconds from the start; a container that ends sooner is looked at once, when it does


class OomListener:
    """Listens to one container's control group. *tell* is called for each time that it finds new kills."""

    def __init__(self, id: str, cgroup: Cgroup, tell: Callable[[], None]) -> None:  # noqa: A002
        self._id = id
        self._cgroup = cgroup
        self._tell = tell
        self._watch: OomWatch | None = None
        self._beginning: asyncio.TimerHandle | None = None

    def begin_soon(self) -> None:
        """Listen from shortly after now, to what has been before as well."""
        self._beginning = asyncio.get_running_loop().call_later(_DELAY, self._begin)

    def finish(self) -> None:
        """Look for the last time, now that the init has ended: whatever the kernel killed has been counted."""
        watch = self._watch
        try:
            was_killed = watch.was_killed() if watch is not None else self._cgroup.oom_kills() > 0
        except OSError as error:
            self._warn(error)
        else:
            if was_killed:
                self._tell()
        self.close()

    def close(self) -> None:
        """Listen no longer. May be called twice."""
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _begin(self) -> None:
        self._beginning = None
        if not self._cgroup.paths:
            return  # there is no group, and so no limit
        try:
            watch = self._cgroup.watch_oom()
        except (ShimError, OSError) as error:  # no memory controller, say, or too many that listen already
            self._warn(error)
            return
        self._watch = watch
        asyncio.get_running_loop().add_reader(watch.fileno(), self._hear)
        if watch.earlier:
            self._tell()

    def _hear(self) -> None:
        assert self._watch is not None
        try:
            if self._watch.was_killed():
                self._tell()
        except OSError as error:
            self._warn(error)
            self.close()

    def _warn(self, error: Exception) -> None:
        _log.warning("kills for memory in container %s are told at its end at best: %s", self._id, error)
