"""Removes a container's traces without making the shim's loop wait: at once where nothing can block, else elsewhere.

Unmounting an overlay may have to write its upper file system to disk first. With one container in the shim nobody else
waits for the loop, so that it is done there; with more it is done by a helper. Processes that are still there have to
be killed and waited for, which is a forked child's work.
"""

from __future__ import annotations

from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from ..errors import UnavailableError
from ..linux.cgroups import cgroup_from
from ..linux.mounts import try_unmount
from ..shim.reaper import Reaper
from . import cleanup
from .helper import Helper
from .state import ContainerState
from .worker import run_in_child

__all__ = ["Remover"]

_TIMEOUT: Final = 60.0  # seconds


class Remover:
    """Removes what the containers of one shim have left."""

    _of_reaper: ClassVar[WeakKeyDictionary[Reaper, Remover]] = WeakKeyDictionary()

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._helper: Helper | None = None

    @classmethod
    def of(cls, reaper: Reaper) -> Remover:
        """The one of the shim whose children *reaper* collects."""
        remover = cls._of_reaper.get(reaper)
        if remover is None:
            remover = cls._of_reaper[reaper] = cls(reaper)
        return remover

    async def remove(self, state: ContainerState, *, is_alone: bool) -> None:
        """End what is left of a container whose init has ended, unmount its root, remove its cgroup.

        Raises: OSError, ShimError for what does not go; a second call goes on from there.
        """
        if not await self._remove_cheaply(state, is_alone):
            await run_in_child(
                lambda: cleanup.remove_traces(state),
                self._reaper,
                what=f"removing container {state.id!r}",
                timeout=_TIMEOUT,
            )

    async def _remove_cheaply(self, state: ContainerState, is_alone: bool) -> bool:
        if state.cgroup_paths and not cgroup_from(state.cgroup_paths).try_remove():
            return False  # a process is left in it
        if not state.mounted_rootfs:
            return True
        if is_alone:
            return try_unmount(state.mounted_rootfs)
        helper = self._helper
        if helper is None or not helper.is_alive:
            helper = self._helper = Helper("shim-remover", _unmount, self._reaper)
        try:
            return bool(await helper.ask(state.mounted_rootfs))
        except UnavailableError:
            return False


def _unmount(path: str, descriptors: object) -> bool:
    del descriptors
    return try_unmount(path)
