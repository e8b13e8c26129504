"""Pausing and resuming a container while its shim's loop goes on: the freezer waits for every process, in a child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ..errors import FailedPreconditionError, ShimError
from ..linux.cgroup import Cgroup
from ..shim.reaper import Reaper
from .worker import run_in_child

__all__ = ["Freezing"]

_MARGIN: Final = 20.0  # seconds, more than the freezer's own ten: what it finds then is the better error


class Freezing:
    """What one container's freezer is doing. At most one pause or resume is under way."""

    def __init__(self, id: str, cgroup: Cgroup, reaper: Reaper) -> None:  # noqa: A002
        self._id = id
        self._cgroup = cgroup
        self._reaper = reaper
        self._work: asyncio.Future[None] | None = None
        self._is_killed = False

    async def pause(self) -> None:
        """Freeze every process, or none. Raises: ShimError; FailedPreconditionError for what has been killed."""
        if self._is_killed:
            raise self._killed()
        self._work = asyncio.ensure_future(self._run(self._cgroup.freeze, f"pausing container {self._id!r}"))
        try:
            await asyncio.wait({self._work})
            if self._work.cancelled():
                raise self._killed()
            if (error := self._work.exception()) is not None:
                if not self._is_killed:  # the freezer undoes what it cannot finish, unless its process was killed
                    with suppress(ShimError):
                        await self.resume()
                raise error
        finally:
            self._work = None

    async def resume(self) -> None:
        """Let every process go on. Raises: ShimError."""
        await self._run(self._cgroup.thaw, f"resuming container {self._id!r}")

    async def give_way(self) -> None:
        """End a pause that is under way, and refuse later ones: what is about to be killed must not be frozen again."""
        self._is_killed = True
        if self._work is not None and self._work.cancel():
            await asyncio.wait({self._work})

    async def _run(self, work: Callable[[], None], what: str) -> None:
        await run_in_child(work, self._reaper, what=what, timeout=_MARGIN)

    def _killed(self) -> ShimError:
        return FailedPreconditionError(f"container {self._id!r} cannot be paused: it has been killed")
