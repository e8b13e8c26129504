"""A container from the shim's side: create, start, kill, delete. The other side of the fork is `init`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal as signals
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ..errors import (
    AbortedError,
    FailedPreconditionError,
    NotFoundError,
    ShimError,
)
from ..instance import Encoded, ExitStatus, InstanceConfig, Mount, ProcessInfo
from ..linux.capabilities import unknown_capabilities
from ..linux.cgroups import cgroup_for
from ..linux.mount_helper import is_helper_type
from ..linux.mounts import mount_rootfs, mounted_below
from ..linux.pidfd import identify
from ..linux.user_namespaces import own_standing
from ..oci.hooks import state_of
from ..oci.spec import Spec
from ..shim.reaper import Reaper
from . import claims
from .answers import Answer, answer_while, no_answer
from .apply import check_limits, make_cgroup
from .channel import Channel, FifoLine, Message
from .execution import Execution, Home
from .executions import Executions
from .executor import Executor
from .filters import filter_of
from .forker import Forker
from .freezing import Freezing
from .id_maps import map_ids
from .init import InitTask, error_from
from .labels import check_labels
from .limits import Limits
from .listener import hand_over
from .log_program import LogProgram
from .net_devices import move_net_devices
from .oom_listener import OomListener
from .open_streams import open_streams
from .plan import Plan, plan_container, with_filter, with_terminal
from .remover import Remover
from .runtime_hooks import RuntimeHooks
from .state import ContainerState, remove_state, write_state
from .stdio import Stdio, Streams
from .steps import steps_of
from .terminal import TerminalStreams
from .worker import run_in_child

__all__ = ["Container", "Maker"]

_log = logging.getLogger(__name__)

_MOUNT_TIMEOUT: Final = 90.0
_EXECUTIONS_TIMEOUT: Final = 5.0  # for those that have been sent SIGKILL
_SCOPE_TIMEOUT: Final = 30.0  # more than it takes to give systemd up
_REASONS: Final = {
    137: "; it may have been killed for its memory limit (linux.resources.memory)",
    159: "; a system call that linux.seccomp forbids has ended it: see docs/task-api.md for those that are needed",
}


@dataclass(frozen=True, slots=True)
class Maker:
    """What a maker of containers that is no shim does otherwise."""

    state_directory: str = ""  # where the state file is; empty: in the bundle
    stdio: Streams | None = None  # None: of the instance's paths
    line: FifoLine | None = None  # where the init hears its start, when the maker is gone by then
    preserved: tuple[int, ...] = ()  # descriptors that the program is to have besides
    new_keyring: bool = True


_SHIM: Final = Maker()


class Container:
    """One isolated process tree. Methods are called in lawful order, one at a time, by its instance."""

    def __init__(
        self,
        id: str,  # noqa: A002
        config: InstanceConfig,
        spec: Spec,
        executor: Executor,
        reaper: Reaper,
        answer: Answer = no_answer,
        maker: Maker = _SHIM,
        on_oom: Callable[[], None] = lambda: None,
    ) -> None:
        """Plan the container, touching nothing yet. *on_oom* hears of kills for memory, before `exited` does.

        Raises: InvalidArgumentError, UnimplementedError for the spec.
        """
        self.id = id
        self._config = config
        self._spec = spec = with_terminal(spec, config.terminal)
        self._plan: Plan = plan_container(
            spec, config.bundle, id, user=os.geteuid(), is_hosts_root=own_standing().is_hosts_root
        )
        check_labels(spec)
        self._maker = maker
        self._state_directory = maker.state_directory or config.bundle
        if config.rootfs:
            # containerd mounts what it asks for there, whatever root.path says
            self._plan = replace(self._plan, rootfs=os.path.join(config.bundle, "rootfs"))
        by_systemd = bool(config.config.get("systemd_cgroup"))
        self._cgroup = cgroup_for(spec.linux.cgroups_path if spec.linux else "", id, by_systemd=by_systemd)
        if not self._cgroup.paths:
            _require_pid_namespace(self._plan)
        check_limits(self._cgroup, self._plan.host)
        self._executor = executor
        _warn_of_unknown_capabilities(id, spec)
        self._reaper = reaper
        self.freezing = Freezing(id, self._cgroup, reaper)
        resources = spec.linux.resources if spec.linux else None
        self.limits = Limits(id, self._cgroup, resources.devices if resources else (), reaper)
        self._oom = OomListener(id, self._cgroup, on_oom)
        self._hooks = RuntimeHooks(id, config.bundle, spec.annotations, spec.hooks, reaper)
        self._answer = answer
        self._stdio: Streams | TerminalStreams | None = None
        self._log_program: LogProgram | None = None
        self._channel: Channel | None = None
        self._state = ContainerState(id)
        self._claim = ""
        self._talk: asyncio.Task[None] | None = None
        self._filter = b""
        self.executions = Executions(id)
        self._finishing: asyncio.Task[None] | None = None
        self._init_ended: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.pid = 0
        self.exited: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    async def create(self) -> int:
        """Make the container, up to an init that waits for `start`; its pid.

        Raises: ShimError, with everything undone.
        """
        self._claim = claims.claim(self._cgroup, self.id)
        try:
            await self._begin()
            # a successor may have ended before its pid is known
            with self._reaper.expecting() if self._plan.renews_pid else nullcontext():
                await self._accompany()
        except BaseException:
            await self._undo()
            raise
        return self.pid

    async def start(self) -> int:
        """Let the program run; its pid. Raises: ShimError when it cannot be executed, with the init gone."""
        channel = self._open_channel()
        try:
            channel.send({"kind": "start"})
        except BrokenPipeError:
            raise self._ended_early() from None
        message = await self._receive_plain(channel)
        if message is not None and message["kind"] == "listener":
            try:
                await self._hand_listener_over(message, "created", channel)
            except BaseException:
                await asyncio.shield(self._end_init())
                raise
            message = await self._receive_plain(channel)
        if message is not None and message["kind"] == "error":
            await asyncio.shield(self.exited)
            raise error_from(message)
        await self._hooks.try_run("running", self.pid, "poststart")
        if message is None:
            channel.close()  # closed by execve
        else:
            self._talk = asyncio.get_running_loop().create_task(self._listen(channel))  # kept, or it would be collected
        if not self._init_ended.done():
            self._oom.begin_soon()
        return self.pid

    def kill(self, signal: int, *, all_processes: bool = False) -> None:
        """Send *signal* to the init, or to every process. Raises: NotFoundError when the init has ended."""
        if not self._reaper.kill(self.pid, signal):
            raise NotFoundError(f"container {self.id!r} has ended: there is no process to send signal {signal} to")
        if all_processes:
            self._cgroup.signal_all(signal, but=self.pid)
        if signal == signals.SIGKILL:
            self._cgroup.let_killed_end()

    def home(self) -> Home:
        """This container as the place of further processes. Raises: FailedPreconditionError when it is not there."""
        if self._state.init is None or self._init_ended.done():
            raise FailedPreconditionError(f"container {self.id!r} is not there: no process can be added to it")
        return Home(
            self.id,
            self._spec,
            self._cgroup,
            self._state.init,
            self._init_ended,
            self._filter,
            self._reaper,
            self._answer,
            self._config.bundle,
        )

    def add_annotations(self, annotations: Mapping[str, str]) -> None:
        """Have the hooks that are still to come told of *annotations* besides the container's own."""
        if annotations:
            self._hooks.add_annotations(annotations)

    def resize(self, width: int, height: int) -> None:
        """Tell the init's terminal, if it has one, its size in characters."""
        if isinstance(self._stdio, TerminalStreams):
            self._stdio.resize(width, height)

    async def delete(self) -> None:
        """End what is left and remove every trace. Raises: ShimError for what would not go; may be called again."""
        await self._end_init()
        await self.executions.remove_all()
        self._close()
        await Remover.of(self._reaper).remove(self._state, is_alone=claims.count() <= 1)
        if self._log_program is not None:  # now that nobody is left who could write
            await self._log_program.finish()
        if self._state.init is not None:
            await self._hooks.try_run("stopped", 0, "poststop")
        remove_state(self._state_directory)
        claims.release(self._claim)

    def close_stdin(self) -> None:
        """Let the container's stdin end when its client has closed it."""
        if self._stdio is not None:
            self._stdio.close_stdin()

    def pids(self) -> Sequence[ProcessInfo]:
        """The container's processes, init first: it is listed also when it has ended."""
        others = () if self.exited.done() else sorted(set(self._cgroup.pids()) - {self.pid})
        names = self.executions.names()
        return [ProcessInfo(pid, names.get(pid, "")) for pid in (self.pid, *others)]

    def stats(self) -> Encoded:
        """The cgroup's figures. Raises: NotFoundError when it is gone."""
        from .stats import read_stats  # not for a command that lives for a moment: it loads protobuf

        return read_stats(self._cgroup)

    async def _begin(self) -> None:
        """Fork the init. The state file names whatever exists, before it does, but an init that has made nothing yet:
        that one ends with the shim.
        """
        config, maker = self._config, self._maker
        if self._spec.linux and self._spec.linux.seccomp is not None:
            self._filter = await filter_of(self._spec.linux.seccomp, self._reaper)
            self._plan = with_filter(self._plan, self._filter)
        mounted = self._plan.rootfs if config.rootfs or not self._plan.own_mounts else ""
        if mounted and not config.rootfs and mounted_below(os.path.realpath(mounted)):
            raise FailedPreconditionError(  # or it would be unmounted with the container
                f"something is mounted on {mounted} or below it, where a container without a mount namespace has "
                "its root; give it one, or unmount that first"
            )
        self._state = ContainerState(self.id, None, mounted, self._cgroup.paths)
        if config.rootfs:
            os.makedirs(mounted, mode=0o711, exist_ok=True)
        rootfs = await self._mount_by_helpers(mounted)
        stdio = self._stdio = maker.stdio or await self._open_streams()
        channel, theirs = Channel.pair()
        self._channel = channel
        try:
            task = InitTask(
                steps_of(self._plan),
                self._spec.annotations,
                rootfs,
                self._cgroup,
                stdio.child,
                theirs,
                self._executor,
                maker.line,
                maker.preserved,
                maker.new_keyring,
            )
            with self._reaper.expecting():
                namespace = None if self._plan.renews_pid else self._plan.pid_namespace
                self._watch(await Forker.of(self._reaper).fork(task, namespace))
        finally:
            theirs.close()
            stdio.close_child()
        # the init waits for "go": nothing is made before its pid is on record
        self._record_init()
        await self._make_cgroup()
        try:
            channel.send({"kind": "go"})
        except BrokenPipeError:
            pass  # it has ended already; what it said before is read next

    def _watch(self, pid: int) -> None:
        """Take the child *pid* for this container's init: its end is the container's, unless another has taken over."""
        self.pid = pid
        self._reaper.watch(pid).add_done_callback(partial(self._record_exit, pid))

    def _record_init(self) -> None:
        init = identify(self.pid)
        self._cgroup.belong_to(init)
        self._state = replace(self._state, init=init)
        write_state(self._state_directory, self._state)

    async def _open_streams(self) -> Stdio | TerminalStreams:
        streams, self._log_program = await open_streams(self._config, self.id, self._reaper)
        return streams

    async def _make_cgroup(self) -> None:
        cgroup, operations, pid = self._cgroup, self._plan.host, self.pid
        if not cgroup.waits:
            make_cgroup(cgroup, operations, pid)
            return
        await run_in_child(
            lambda: make_cgroup(cgroup, operations, pid),
            self._reaper,
            what=f"making the systemd scope of container {self.id!r}",
            timeout=_SCOPE_TIMEOUT,
        )

    async def _mount_by_helpers(self, target: str) -> tuple[Mount, ...]:
        """Mount what only programs can mount outside of the container's pid namespace; what is left for the init."""
        wanted = self._config.rootfs
        if not any(is_helper_type(each.type) for each in wanted):
            return wanted
        write_state(self._state_directory, self._state)
        await run_in_child(
            lambda: mount_rootfs(wanted, target),
            self._reaper,
            what=f"mounting the root file system of container {self.id!r}",
            timeout=_MOUNT_TIMEOUT,
        )
        return ()

    async def _accompany(self) -> None:
        """Answer the init's questions until it is ready."""
        channel = self._open_channel()
        while True:
            message, descriptors = await channel.receive_async()
            try:
                if message is None:
                    raise await self._died()
                match message["kind"]:
                    case "error":
                        raise error_from(message)
                    case "ready":
                        return
                    case "listener":
                        await self._hand_listener_over(message, "creating", channel)
                    case "terminal" if isinstance(self._stdio, TerminalStreams):
                        self._stdio.attach(descriptors.pop(), message["name"])
                    case "hooks" | "netDevices" | "unshared" | "successor":
                        await self._do_for_init(message)
                        channel.send({"kind": "go"})
                    case _:
                        await self._answer_question(message["question"], descriptors, channel)
            except BrokenPipeError:
                raise await self._died() from None
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    async def _do_for_init(self, message: Message) -> None:
        """Do what an init has to have done outside before it goes on."""
        linux = self._spec.linux
        assert linux is not None, "there is no plan without"
        match message["kind"]:
            case "hooks":
                await self._hooks.run("creating", self.pid, "prestart", "createRuntime")
            case "netDevices":
                await move_net_devices(linux.net_devices, self.pid, self._reaper)
            case "unshared":
                await map_ids(self.id, linux, self.pid, self._reaper)
            case _:  # "successor"
                self._watch(message["pid"])
                self._record_init()

    async def _answer_question(self, question: Message, descriptors: Sequence[int], channel: Channel) -> None:
        answered = await answer_while(self._answer(question, descriptors), self.exited)
        if answered is None:
            raise await self._died()
        answer, given = answered
        try:
            channel.send({"kind": "answer", "answer": answer}, given)
        finally:
            for descriptor in given:
                os.close(descriptor)

    @staticmethod
    async def _receive_plain(channel: Channel) -> Message | None:
        """The next message, whose descriptors nobody wants."""
        message, descriptors = await channel.receive_async()
        for descriptor in descriptors:
            os.close(descriptor)
        return message

    async def _hand_listener_over(self, message: Message, status: str, channel: Channel) -> None:
        assert self._state.init is not None, "it was recorded before it did anything"
        state = state_of(self.id, status, self.pid, self._config.bundle, self._spec.annotations)
        await hand_over(message, self._spec, self._state.init, state, self._reaper)
        try:
            channel.send({"kind": "go"})
        except BrokenPipeError:
            pass  # it has ended, which is read next

    async def _listen(self, channel: Channel) -> None:
        """Log what a running init reports: why its guest failed. It has one word, for what runs there is not ours."""
        try:
            message, descriptors = await channel.receive_async()
        except ValueError as error:
            message, descriptors = {"message": f"the container's init sent what is no message: {error}"}, []
        for descriptor in descriptors:
            os.close(descriptor)
        channel.close()
        if message is not None:
            _log.error("%s", message.get("message"), extra={"instance": self.id})

    def _record_exit(self, pid: int, future: asyncio.Future[ExitStatus]) -> None:
        if pid != self.pid:
            return  # it has given way to its successor
        if not self._init_ended.done():
            self._init_ended.set_result(future.result())
        self._oom.finish()
        if self._plan.pid_namespace != "":  # otherwise the kernel has ended the whole pid namespace with its init
            try:
                self._cgroup.signal_all(signals.SIGKILL)
            except OSError as error:
                _log.warning("cannot end the processes left in container %s: %s", self.id, error)
        running = self.executions.running()
        for each in running:
            each.end()
        if running or isinstance(self._stdio, TerminalStreams):
            work = self._finish(future.result(), running)
            self._finishing = asyncio.get_running_loop().create_task(work)
        else:
            self._report_exit(future.result())

    async def _finish(self, ended: ExitStatus, running: Sequence[Execution]) -> None:
        """Report the init's end as the last one, and when its terminal's output is where it belongs."""
        if isinstance(self._stdio, TerminalStreams):
            await self._stdio.drain()
        if running:
            await asyncio.wait([each.exited for each in running], timeout=_EXECUTIONS_TIMEOUT)
        self._report_exit(ended)

    def _report_exit(self, ended: ExitStatus) -> None:
        if not self.exited.done():
            self.exited.set_result(ended)

    async def _died(self) -> ShimError:
        status = (await asyncio.shield(self.exited)).status
        return AbortedError(
            f"the init of container {self.id!r} ended with status {status} while it was being made"
            + _REASONS.get(status, "")
        )

    def _ended_early(self) -> ShimError:
        return FailedPreconditionError(f"container {self.id!r} ended before it was started")

    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise FailedPreconditionError(f"container {self.id!r} has not been created")
        return self._channel

    async def _end_init(self) -> None:
        if self.pid:
            await self.freezing.give_way()
            if self._reaper.kill(self.pid, signals.SIGKILL):
                self._cgroup.let_killed_end()
            await asyncio.shield(self.exited)

    async def _undo(self) -> None:
        """After a failed create: remove what there is, and keep the error that was the reason."""
        try:
            await self.delete()
        except (ShimError, OSError) as error:
            _log.error("container %s could not be cleaned up after its failed create: %s", self.id, error)
        finally:
            claims.release(self._claim)  # what is left in it, if anything, is found by the next one's look at it

    def _close(self) -> None:
        self._oom.close()
        if self._talk is not None:
            self._talk.cancel()
        if self._channel is not None:
            self._channel.close()
        if self._stdio is not None:
            self._stdio.close()


def _require_pid_namespace(plan: Plan) -> None:
    """Refuse a container whose processes could not be told from others. Raises: FailedPreconditionError."""
    if plan.pid_namespace != "":
        raise FailedPreconditionError(
            "config.json: linux.namespaces has no new `pid`, and the container can have no cgroup: nobody could find "
            "its processes, or end them all; add a namespace of type `pid`, without a path"
        )


def _warn_of_unknown_capabilities(id: str, spec: Spec) -> None:  # noqa: A002
    """Say here what the init will leave out: there it can no longer be logged."""
    capabilities = spec.process.capabilities if spec.process else None
    if capabilities is None:
        return
    unknown = unknown_capabilities((*capabilities.bounding, *capabilities.permitted, *capabilities.ambient))
    if unknown:
        names = ", ".join(sorted(set(unknown)))
        _log.warning("container %s asks for capabilities that this kernel does not have: %s", id, names)
