"""The hooks that see a container from outside: run by whoever makes it, in a forked child, while its loop goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final

from ..errors import ShimError
from ..oci.hooks import Hook, state_document
from ..shim.reaper import Reaper
from .hooks import MOST_SECONDS, name_of, run_hook
from .worker import run_in_child

__all__ = ["RuntimeHooks"]

_log = logging.getLogger(__name__)

_MARGIN: Final = 30.0  # seconds for what is not a hook's own time


class RuntimeHooks:
    """The hooks of one container."""

    def __init__(
        self,
        id: str,  # noqa: A002
        bundle: str,
        annotations: Mapping[str, str],
        hooks: Mapping[str, tuple[Hook, ...]],
        reaper: Reaper,
    ) -> None:
        self._id = id
        self._bundle = bundle
        self._annotations = annotations
        self._hooks = hooks
        self._reaper = reaper

    def add_annotations(self, annotations: Mapping[str, str]) -> None:
        """Tell hooks from now on of *annotations* too, which replace those of the same names."""
        self._annotations = {**self._annotations, **annotations}

    async def run(self, status: str, pid: int, *kinds: str) -> None:
        """Run the hooks of *kinds* until one fails; *status* is the state that they are told.

        Raises: ShimError, which names the hook.
        """
        for kind in kinds:
            for index, hook in enumerate(self._hooks.get(kind, ())):
                await self._run(name_of(kind, index, hook), hook, status, pid)

    async def try_run(self, status: str, pid: int, kind: str) -> None:
        """Run every hook of *kind*. Those that fail are logged: they come too late to change anything."""
        for index, hook in enumerate(self._hooks.get(kind, ())):
            try:
                await self._run(name_of(kind, index, hook), hook, status, pid)
            except ShimError as error:
                _log.warning("%s", error, extra={"instance": self._id})

    async def _run(self, name: str, hook: Hook, status: str, pid: int) -> None:
        state = state_document(self._id, status, pid, self._bundle, self._annotations)

        def work() -> None:
            os.chdir(self._bundle)
            run_hook(name, hook, state)

        timeout = (hook.timeout or MOST_SECONDS) + _MARGIN
        await run_in_child(work, self._reaper, what=name, timeout=timeout)
