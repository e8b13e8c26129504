"""A further process in a container, from the shim's side: registered, started once, ended. `exec_child` is the other.

No more is kept of the container than a description of it, so that this module knows nothing of how it was made.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Final

from ..errors import AbortedError, FailedPreconditionError, NotFoundError, ShimError
from ..instance import ExitStatus, InstanceConfig
from ..linux.cgroup import Cgroup, FreezerState
from ..linux.pidfd import ProcessIdentity, identify
from ..oci.hooks import state_of
from ..oci.spec import Process, Spec
from ..shim.reaper import Reaper
from .answers import Answer
from .channel import Channel, Message
from .exec_child import ExecTask, run_exec
from .executor import Executor
from .init import error_from
from .listener import hand_over
from .log_program import LogProgram
from .open_streams import open_streams
from .operations import Operation
from .plan_exec import ExecPlan, plan_exec
from .stdio import Streams
from .steps import Step, step_of
from .terminal import TerminalStreams
from .worker import fork_child

__all__ = ["Execution", "Home"]

_KILLED: Final = 137


@dataclass(frozen=True, slots=True)
class Home:
    """The container that something is executed in."""

    id: str
    spec: Spec
    cgroup: Cgroup
    init: ProcessIdentity
    exited: asyncio.Future[ExitStatus]  # when nothing may be started any more
    program: bytes  # the compiled filter of system calls, if it has one
    reaper: Reaper
    answer: Answer
    bundle: str


class Execution:
    """One such process. Methods are called one at a time; `exited` is of the process's end, with its output written."""

    def __init__(
        self,
        id: str,  # noqa: A002
        home: Home,
        process: Process,
        config: InstanceConfig,
        executor: Executor,
        *,
        streams: Streams | None = None,
        preserved: tuple[int, ...] = (),
    ) -> None:
        """Plan it, touching nothing yet. It has *streams* instead of the configuration's, and *preserved* descriptors.

        Raises: InvalidArgumentError, UnimplementedError by the field's name.
        """
        self.id = id
        self._home = home
        self._config = config
        self._plan: ExecPlan = plan_exec(process, home.spec, home.program)
        self._executor = executor
        self._given = streams
        self._preserved = preserved
        self._streams: Streams | None = None
        self._log_program: LogProgram | None = None
        self._channel: Channel | None = None
        self._joiner = 0
        self._joined: asyncio.Future[ExitStatus] | None = None
        self._ended: asyncio.Future[ExitStatus] | None = None
        self._after: asyncio.Task[None] | None = None
        self.pid = 0
        self.exited: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended yet."""
        return self._joiner != 0 and not self.exited.done()

    async def start(self) -> int:
        """Run the program; its pid. Raises: ShimError, with nothing left of it."""
        self._refuse_unless_living()
        try:
            streams = await self._open_streams()
            self._refuse_unless_living()  # it may have been waiting for a logging program
            self._fork(streams)
            with self._home.reaper.expecting():
                await self._accompany()
            assert self._joined is not None
            await asyncio.shield(self._joined)  # it is none of the container's processes, and in its cgroup until then
        except BaseException as error:
            await self._abandon()
            if self._home.exited.done() and not isinstance(error, asyncio.CancelledError):
                raise self._too_late() from error
            raise
        return self.pid

    def kill(self, signal: int) -> None:
        """Send *signal* to it. Raises: NotFoundError when it has ended, FailedPreconditionError before its start."""
        if not self.pid and not self.exited.done():
            raise FailedPreconditionError(f"process {self.id!r} has not been started")
        if not self._home.reaper.kill(self.pid, signal):
            raise NotFoundError(f"process {self.id!r} of container {self._home.id!r} has ended")

    def end(self) -> None:
        """Kill whatever there is of it, at whatever point of its life: the container ends."""
        for pid in (self._joiner, self.pid):
            if pid:
                self._home.reaper.kill(pid, signals.SIGKILL)

    def close_stdin(self) -> None:
        """Let the process's stdin end when its client has closed it."""
        if self._streams is not None:
            self._streams.close_stdin()

    def resize(self, width: int, height: int) -> None:
        """Tell the process's terminal, if it has one, its size in characters."""
        if isinstance(self._streams, TerminalStreams):
            self._streams.resize(width, height)

    async def close(self) -> None:
        """End it, and free all that is held for it. May be called twice."""
        self.end()
        if self.is_running:
            await asyncio.shield(self.exited)
        await self._close()

    def _refuse_unless_living(self) -> None:
        if self._home.exited.done() or not self._home.init.is_alive():
            raise self._too_late()
        try:
            state = self._home.cgroup.freezer_state()
        except ShimError:
            return  # no group, or none that freezes
        if state is not FreezerState.THAWED:
            raise FailedPreconditionError(
                f"container {self._home.id!r} is paused: process {self.id!r} cannot be started; resume it first"
            )

    def _too_late(self) -> ShimError:
        return FailedPreconditionError(f"container {self._home.id!r} has ended: process {self.id!r} cannot be started")

    async def _open_streams(self) -> Streams:
        if self._given is not None:
            self._streams = self._given
        else:
            config = replace(self._config, terminal=self._plan.process_spec.terminal)
            self._streams, self._log_program = await open_streams(config, self.id, self._home.reaper)
        return self._streams

    def _fork(self, streams: Streams) -> None:
        home, plan = self._home, self._plan
        self._channel, theirs = Channel.pair()
        try:
            task = ExecTask(
                id=home.id,
                init=home.init,
                user=plan.process_spec.user.uid,
                host=_steps(plan.host),
                labels=_steps(plan.labels),
                root=_steps(plan.root),
                outside=_steps(plan.outside),
                inside=_steps(plan.inside),
                annotations=home.spec.annotations,
                cgroup=home.cgroup,
                stdio=streams.child,
                channel=theirs,
                executor=self._executor,
                preserved=self._preserved,
            )
            self._joiner = fork_child()
            if self._joiner == 0:
                run_exec(task)
            self._joined = home.reaper.watch(self._joiner)
            self._joined.add_done_callback(self._notice_joiner)
        finally:
            theirs.close()
            streams.close_child()

    def _notice_joiner(self, ended: asyncio.Future[ExitStatus]) -> None:
        """When the first process has failed, a second one that nobody has heard of must not wait for ever."""
        if ended.result().status != 0 and self._channel is not None:
            self._channel.hang_up()

    async def _accompany(self) -> None:
        """Do what the processes ask for until the program runs."""
        channel = self._channel
        assert channel is not None
        while True:
            message, descriptors = await channel.receive_async()
            try:
                if message is None:
                    if not self.pid:
                        raise AbortedError(f"process {self.id!r} was killed while it entered its container")
                    channel.close()  # closed by execve
                    return
                if await self._do(message, descriptors, channel):
                    return
            except BrokenPipeError:
                raise AbortedError(f"process {self.id!r} was killed while it entered its container") from None
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    async def _do(self, message: Message, descriptors: list[int], channel: Channel) -> bool:
        """Do what *message* asks for; whether the program runs now. Descriptors that are taken leave the list."""
        match message["kind"]:
            case "error":
                raise error_from(message)
            case "running":
                return True
            case "terminal":
                assert isinstance(self._streams, TerminalStreams)
                self._streams.attach(descriptors.pop(), message["name"])
            case "forked" if not self.pid:
                self.pid = message["pid"]
                self._ended = self._home.reaper.watch(self.pid)
                self._ended.add_done_callback(self._record_exit)
                if self._home.exited.done():  # ended while this one entered it
                    raise self._too_late()
                channel.send({"kind": "start"})
            case "listener" if self.pid:
                home = self._home
                state = state_of(home.id, "running", home.init.pid, home.bundle, home.spec.annotations)
                await hand_over(message, home.spec, identify(self.pid), state, home.reaper)
                channel.send({"kind": "go"})
            case _:
                answer, given = await self._home.answer(message["question"], descriptors)
                try:
                    channel.send({"kind": "answer", "answer": answer}, given)
                finally:
                    for descriptor in given:
                        os.close(descriptor)
        return False

    def _record_exit(self, future: asyncio.Future[ExitStatus]) -> None:
        self._after = asyncio.get_running_loop().create_task(self._finish(future.result()))

    async def _finish(self, ended: ExitStatus) -> None:
        if isinstance(self._streams, TerminalStreams):
            await self._streams.drain()
        if not self.exited.done():
            self.exited.set_result(ended)

    async def _abandon(self) -> None:
        """After a failed start: no process is left, and nothing is open."""
        self.end()
        for ended in (self._joined, self._ended):
            if ended is not None:
                await asyncio.shield(ended)
        if not self.exited.done():  # whoever waits for the end of all that runs here has nothing to wait for
            self.exited.set_result(self._joined.result() if self._joined else _never())
        await self._close()

    async def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._streams is not None:
            self._streams.close()
        if self._log_program is not None:
            await self._log_program.finish()


def _never() -> ExitStatus:
    return ExitStatus(_KILLED, datetime.now(timezone.utc))


def _steps(operations: Iterable[Operation]) -> tuple[Step, ...]:
    return tuple(map(step_of, operations))
