"""One task's life: what containerd asks of it, what its instance finds out, and the events of both in their order.

No lock is held anywhere. A request moves the state before it awaits anything, so of two that exclude each other the
second is refused by the table; and whatever belongs together (a record and its event) happens between two awaits.

One watcher awaits the instance's end. It records the end, for State, Wait and Delete to see, and then publishes
TaskExit. While a start is under way it holds back, so that TaskStart always comes first. An end that no instance
reports (a start that failed, a delete before the start) is recorded all the same, as a kill, or Wait would hang.
TaskExit tells of every end that was reported, and of every process that containerd knew the pid of.

The init's exit is the last of the task's: from the moment that it is known no exec starts any more, and it is recorded
when those that run have ended too, for which the instance sees to their being killed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Final

from ..errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, ShimError
from ..instance import Encoded, ExitStatus, Instance, InstanceConfig, ProcessInfo
from .events import (
    EventSink,
    TaskCreate,
    TaskDelete,
    TaskEvent,
    TaskExit,
    TaskOom,
    TaskPaused,
    TaskResumed,
    TaskStart,
)
from .exec import Exec
from .state import Action, TaskState, next_state

__all__ = ["END_GRACE", "KILLED_STATUS", "UNKNOWN_STATUS", "Task"]

END_GRACE: Final = 2.0  # for the instance to report an end that has to come; containerd's own budgets begin at 5 s
KILLED_STATUS: Final = 137  # 128 + SIGKILL
UNKNOWN_STATUS: Final = 255  # as containerd has it for an exit that nobody saw
_EXECS_GRACE: Final = 10.0  # for what has been sent SIGKILL with its container
_MAY_EXEC: Final = (TaskState.CREATED, TaskState.STARTING, TaskState.RUNNING)
_SIGKILL: Final = 9  # the number that Linux gives it: signal has no such name on Windows

_logger = logging.getLogger(__name__)


class Task:
    """An instance, its state, and the record of its end."""

    def __init__(self, id: str, instance: Instance, events: EventSink) -> None:  # noqa: A002  (containerd's word)
        self.id = id
        self.instance = instance
        self.state = TaskState.CREATING
        self.pid = 0
        self.end: ExitStatus | None = None
        self._events = events
        self._ended = asyncio.Event()
        self._start_settled = asyncio.Event()
        self._start_settled.set()
        self._watcher: asyncio.Task[None] | None = None
        self._is_ending = False
        self._execs: dict[str, Exec] = {}
        self._owes_oom = False
        instance.on_oom = self._tell_oom

    @property
    def execs(self) -> Mapping[str, Exec]:
        """The further processes that are registered, by id."""
        return self._execs

    async def create(self) -> int:
        """Make the instance; the pid of its waiting process, or 0."""
        try:
            self.pid = await self.instance.create()
        except BaseException:
            self._move(Action.FAIL_CREATE)
            self._ended.set()  # who waits already must not wait for ever
            raise
        self._move(Action.FINISH_CREATE)
        self._publish(self._creation())
        self._watcher = asyncio.ensure_future(self._watch())
        return self.pid

    async def start(self) -> int:
        """Let the program run; its pid. A start that fails ends the task, which can then be deleted."""
        self._move(Action.START)
        self._start_settled.clear()
        try:
            self.pid = await self.instance.start() or self.pid
        except BaseException:
            await self._end_failed_start()
            raise
        self._move(Action.FINISH_START)
        self._publish(TaskStart(self.id, self.pid))
        self._start_settled.set()
        self._pay_oom()
        return self.pid

    async def kill(self, signal: int, all: bool) -> None:  # noqa: A002  (containerd's word)
        """Send *signal* to the init, or to *all* processes.

        Raises: NotFoundError once the end is recorded, and not before: clients then rely on Wait to return.
        """
        if self.end is not None:
            raise NotFoundError(f"task {self.id!r} has ended with status {self.end.status}")
        next_state(self.state, Action.KILL)
        try:
            await self.instance.kill(signal, None, all)
        except NotFoundError as error:
            await self._await_end(END_GRACE)
            if self.end is None:
                raise FailedPreconditionError(f"task {self.id!r} has no process to signal: {error}") from error
            raise

    async def pause(self) -> None:
        """Freeze every process, or none. Raises: FailedPreconditionError for what does not run, or ended meanwhile."""
        self._move(Action.PAUSE)
        try:
            await self.instance.pause()
        except BaseException:
            if self.state is TaskState.PAUSING:
                self._move(Action.FAIL_PAUSE)
            raise
        self._move(Action.FINISH_PAUSE)
        self._publish(TaskPaused(self.id))

    async def resume(self) -> None:
        """Let a paused task go on; it stays paused if that fails. Raises: FailedPreconditionError for any other."""
        next_state(self.state, Action.RESUME)
        await self.instance.resume()
        self._move(Action.RESUME)
        self._publish(TaskResumed(self.id))

    async def update(self, resources: Encoded, annotations: Mapping[str, str]) -> None:
        """Change limits, as `Instance.update` does. Raises: FailedPreconditionError for what does not live."""
        next_state(self.state, Action.UPDATE)
        await self.instance.update(resources, annotations)

    async def wait(self) -> ExitStatus:
        """Wait for the end to be recorded. Raises: NotFoundError when the task's creation fails."""
        await self._ended.wait()
        if self.end is None:
            raise NotFoundError(f"task {self.id!r} was not created: its Create failed")
        return self.end

    async def delete(self) -> ExitStatus:
        """Free everything; how the task ended. After a failure it is STOPPED, and may be deleted again."""
        self._move(Action.DELETE)
        try:
            await self.instance.delete()
        except BaseException:
            await self._settle_end()
            self._move(Action.FAIL_DELETE)
            raise
        end = await self._settle_end()
        if self._watcher is not None:
            self._watcher.cancel()
        for each in self._execs.values():
            each.abandon()
        self._move(Action.FINISH_DELETE)
        self._publish(TaskDelete(self.id, self.pid, end.status, end.exited_at))
        return end

    async def exec(self, id: str, spec: Encoded, config: InstanceConfig) -> None:  # noqa: A002  (containerd's word)
        """Register a further process, as `Instance.exec` takes it, to be started by its own `start`."""
        if id in self._execs:
            raise AlreadyExistsError(f"task {self.id!r} has a process {id!r} already")
        if self._why_no_exec():
            raise FailedPreconditionError(f"cannot add a process to a task that is {self.state.value}")
        added = self._execs[id] = Exec(self.id, id, self.instance, config, self._events, self._why_no_exec)
        try:
            await self.instance.exec(id, spec, config)
        except BaseException:
            del self._execs[id]
            raise
        added.tell_added()

    async def delete_exec(self, id: str) -> ExitStatus:  # noqa: A002
        """Forget the further process *id*; how it ended. Raises: NotFoundError, FailedPreconditionError."""
        if (found := self._execs.get(id)) is None:
            raise NotFoundError(f"task {self.id!r} has no process {id!r}")
        end = await found.delete()
        self._execs.pop(id, None)
        return end

    def _why_no_exec(self) -> str:
        """Why no process may be added or started; empty when one may."""
        if self._is_ending or self.end is not None:
            return "does not run (any more)"
        return "" if self.state in _MAY_EXEC else f"is {self.state.value}"

    async def pids(self) -> Sequence[ProcessInfo]:
        """The processes, the init among them until the task is deleted: containerd takes an empty list for a leak."""
        if self.state is TaskState.CREATING:
            raise FailedPreconditionError(f"cannot list the processes of a task that is {self.state.value}")
        try:
            processes = tuple(await self.instance.pids())
        except (ShimError, OSError) as error:  # a cgroup that is gone, or an instance that keeps no list
            _logger.debug("task %s: listing its init alone: %s", self.id, error)
            processes = ()
        if any(each.pid == self.pid for each in processes):
            return processes
        return (ProcessInfo(self.pid), *processes)

    async def stats(self) -> Encoded:
        """What the task uses. Raises: NotFoundError, which containerd skips quietly, while there is nothing to see."""
        if self.state in (TaskState.CREATING, TaskState.DELETING):
            raise NotFoundError(f"task {self.id!r} has no statistics while it is {self.state.value}")
        return await self.instance.stats()

    async def close_io(self) -> None:
        """Let standard input end; nothing to do when there is none, or nobody left to read it."""
        if self.instance.config.stdin and self.end is None and self.state is not TaskState.DELETING:
            await self.instance.close_io()

    async def resize(self, width: int, height: int) -> None:
        """Tell the init's terminal its size; nothing when it has none, or has ended."""
        if self.instance.config.terminal and self.end is None and self.state is not TaskState.CREATING:
            await self.instance.resize_pty(width, height)

    def _move(self, action: Action) -> None:
        self.state = next_state(self.state, action)

    def _publish(self, event: TaskEvent) -> None:
        self._events.publish(event.topic, event.encode())

    def _creation(self) -> TaskCreate:
        config = self.instance.config
        streams = (config.stdin, config.stdout, config.stderr)
        return TaskCreate(self.id, config.bundle, config.rootfs, *streams, config.terminal, self.pid)

    async def _watch(self) -> None:
        end = await self._reported_end()
        self._is_ending = True
        # an exit can be seen before start() has returned: TaskStart comes first
        await self._start_settled.wait()
        await self._end_execs()
        if self.end is None:
            self._record_end(end, is_told=True)

    async def _end_execs(self) -> None:
        """Have the ends of all further processes recorded: the instance has killed them."""
        running = [each for each in self._execs.values() if each.is_running]
        if running:
            await asyncio.gather(*(each.settle(_EXECS_GRACE) for each in running))
            for each in running:
                each.give_up()

    async def _reported_end(self) -> ExitStatus:
        try:
            end = await self.instance.wait_timeout(None)
        except Exception:
            _logger.exception("task %s: its instance cannot tell how it ended", self.id)
        else:
            if end is not None:
                return end
            _logger.error("task %s: its instance stopped waiting before the end", self.id)
        return ExitStatus(UNKNOWN_STATUS, _now())

    def _tell_oom(self) -> None:
        """Publish that the kernel killed for memory: not before TaskStart, nor behind TaskExit."""
        if self.state not in (TaskState.CREATING, TaskState.DELETED) and self.end is None:
            self._owes_oom = True
            if self.pid and self._start_settled.is_set():
                self._pay_oom()

    def _pay_oom(self) -> None:
        if self._owes_oom:
            self._owes_oom = False
            self._publish(TaskOom(self.id))

    def _record_end(self, end: ExitStatus, *, is_told: bool) -> None:
        self._move(Action.END)
        self.end = end
        self._ended.set()
        if is_told:
            self._pay_oom()
            self._publish(TaskExit(self.id, self.id, self.pid, end.status, end.exited_at))

    async def _await_end(self, timeout: float) -> None:
        waiting = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({waiting}, timeout=timeout)
        finally:
            waiting.cancel()

    async def _settle_end(self) -> ExitStatus:
        """Have an end recorded: the one that the instance reports soon, or else that of a kill."""
        if self.end is None and self.pid:
            await self._await_end(END_GRACE)
        if self.end is None:
            self._record_end(ExitStatus(KILLED_STATUS, _now()), is_told=self.pid != 0)
        assert self.end is not None
        return self.end

    async def _end_failed_start(self) -> None:
        """End what waits for a start that will not come."""
        try:
            await self.instance.kill(_SIGKILL, None, True)
        except NotFoundError:
            pass  # ended already: the usual reason of a start that fails
        except Exception as error:
            _logger.warning("task %s: its start failed, and it cannot be killed: %s", self.id, error)
        self._start_settled.set()
        await self._settle_end()


def _now() -> datetime:
    return datetime.now(timezone.utc)
