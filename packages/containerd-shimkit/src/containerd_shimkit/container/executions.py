"""The further processes of one container, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import AlreadyExistsError, NotFoundError
from ..instance import InstanceConfig
from ..oci.spec import Process
from .execution import Execution, Home
from .executor import Executor
from .labels import check_labels

__all__ = ["Executions"]


class Executions:
    """Those that were added and have not been removed."""

    def __init__(self, id: str) -> None:  # noqa: A002
        self._id = id
        self._found: dict[str, Execution] = {}

    def add(self, id: str, home: Home, process: Process, config: InstanceConfig, executor: Executor) -> None:  # noqa: A002
        """Register *process*, to be started later. Of *config* its streams count, and whether it is a terminal.

        Raises: AlreadyExistsError; InvalidArgumentError, UnimplementedError by the field.
        """
        if id in self._found:
            raise AlreadyExistsError(f"container {self._id!r} has a process {id!r} already")
        process = replace(process, terminal=config.terminal)
        check_labels(replace(home.spec, process=process))
        self._found[id] = Execution(id, home, process, config, executor)

    def find(self, id: str) -> Execution:  # noqa: A002
        """The one that was added as *id*. Raises: NotFoundError."""
        if (found := self._found.get(id)) is None:
            raise NotFoundError(f"container {self._id!r} has no process {id!r}")
        return found

    async def remove(self, id: str) -> None:  # noqa: A002
        """End the one that was added as *id*, if it runs, and forget it. Raises: NotFoundError."""
        await self.find(id).close()
        self._found.pop(id, None)

    async def remove_all(self) -> None:
        """The same for each."""
        for id in tuple(self._found):  # noqa: A001
            await self.remove(id)

    def running(self) -> Sequence[Execution]:
        """Those that have been started and have not ended."""
        return [each for each in self._found.values() if each.is_running]

    def names(self) -> Mapping[int, str]:
        """The names of those that run, by pid."""
        return {each.pid: each.id for each in self.running()}
