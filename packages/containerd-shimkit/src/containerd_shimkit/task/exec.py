"""One exec's life: a further process of a task, with the same states, and the events of it in their order.

As with a task, a request moves the state before it awaits anything, and one watcher records the end, then tells of it.
TaskExecStarted comes before the exit. What of this happens when the task itself ends is the task's to see to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final

from ..errors import FailedPreconditionError, NotFoundError
from ..instance import ExitStatus, Instance, InstanceConfig
from .events import EventSink, TaskExecAdded, TaskExecStarted, TaskExit
from .state import Action, TaskState, next_state

__all__ = ["Exec"]

_UNKNOWN_STATUS: Final = 255
_KILLED_STATUS: Final = 137
_END_GRACE: Final = 2.0
_WHAT: Final = "a process"

_logger = logging.getLogger(__name__)


class Exec:
    """A process that Exec has registered, its state, and the record of its end."""

    def __init__(
        self,
        task_id: str,
        id: str,  # noqa: A002  (containerd's word)
        instance: Instance,
        config: InstanceConfig,
        events: EventSink,
        why_not: Callable[[], str],
    ) -> None:
        self.task_id = task_id
        self.id = id
        self.config = config
        self.state = TaskState.CREATED
        self.pid = 0
        self.end: ExitStatus | None = None
        self._instance = instance
        self._events = events
        self._why_not = why_not
        self._ended = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its end is still to be told."""
        return self.state in (TaskState.STARTING, TaskState.RUNNING)

    def tell_added(self) -> None:
        """Publish that it was registered."""
        event = TaskExecAdded(self.task_id, self.id)
        self._events.publish(event.topic, event.encode())

    async def start(self) -> int:
        """Run it; its pid. A start that fails ends it, which can then be deleted."""
        if reason := self._why_not():
            raise FailedPreconditionError(f"process {self.id!r} cannot be started: task {self.task_id!r} {reason}")
        self._move(Action.START)
        try:
            self.pid = await self._instance.start_exec(self.id)
        except BaseException:
            self._record_end(ExitStatus(_KILLED_STATUS, datetime.now(timezone.utc)), is_told=False)
            raise
        self._move(Action.FINISH_START)
        event = TaskExecStarted(self.task_id, self.id, self.pid)
        self._events.publish(event.topic, event.encode())
        self._watcher = asyncio.ensure_future(self._watch())
        return self.pid

    async def kill(self, signal: int) -> None:
        """Send *signal* to it alone. Raises: NotFoundError once its end is recorded, FailedPreconditionError before
        its start.
        """
        if self.end is not None:
            raise NotFoundError(f"process {self.id!r} of task {self.task_id!r} has ended with {self.end.status}")
        if self.state is not TaskState.RUNNING:
            raise FailedPreconditionError(f"cannot kill process {self.id!r}, which is {self.state.value}")
        try:
            await self._instance.kill(signal, self.id, False)
        except NotFoundError:
            await self.settle(_END_GRACE)  # clients rely on Wait to return then
            raise

    async def wait(self) -> ExitStatus:
        """Wait for the end to be recorded, also before its start. Raises: NotFoundError when it is deleted first."""
        await self._ended.wait()
        if self.end is None:
            raise NotFoundError(f"process {self.id!r} of task {self.task_id!r} was deleted before it was started")
        return self.end

    async def settle(self, timeout: float) -> None:
        """Wait until the end is recorded, or *timeout* seconds."""
        waiting = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({waiting}, timeout=timeout)
        finally:
            waiting.cancel()

    def give_up(self) -> None:
        """Record an end that nobody reports: the task's own cannot wait any longer."""
        if self.is_running:
            self._record_end(ExitStatus(_KILLED_STATUS, datetime.now(timezone.utc)), is_told=self.pid != 0)

    def abandon(self) -> None:
        """Let nobody wait any longer: it is gone with its task."""
        self.give_up()
        self._ended.set()

    async def delete(self) -> ExitStatus:
        """Forget it; how it ended, as a kill if it never ran. Raises: FailedPreconditionError while it runs."""
        self._move(Action.DELETE)
        try:
            await self._instance.delete_exec(self.id)
        except BaseException:
            self._move(Action.FAIL_DELETE)
            raise
        self._move(Action.FINISH_DELETE)
        self._ended.set()
        return self.end or ExitStatus(_KILLED_STATUS, datetime.now(timezone.utc))

    async def close_io(self) -> None:
        """Let its standard input end; nothing to do when there is none, or nobody left to read it."""
        if self.config.stdin and self.end is None:
            await self._instance.close_io(self.id)

    async def resize(self, width: int, height: int) -> None:
        """Tell its terminal its size; nothing when it has none, or has ended."""
        if self.config.terminal and self.end is None:
            await self._instance.resize_pty(width, height, self.id)

    def _move(self, action: Action) -> None:
        self.state = next_state(self.state, action, _WHAT)

    async def _watch(self) -> None:
        try:
            end = await self._instance.wait_exec(self.id)
        except Exception:
            _logger.exception("task %s: its instance cannot tell how process %s ended", self.task_id, self.id)
            end = ExitStatus(_UNKNOWN_STATUS, datetime.now(timezone.utc))
        if self.end is None:
            self._record_end(end, is_told=True)

    def _record_end(self, end: ExitStatus, *, is_told: bool) -> None:
        self._move(Action.END)
        self.end = end
        self._ended.set()
        if is_told:
            event = TaskExit(self.task_id, self.id, self.pid, end.status, end.exited_at)
            self._events.publish(event.topic, event.encode())
