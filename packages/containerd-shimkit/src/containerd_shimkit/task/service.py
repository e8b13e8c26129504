"""containerd's Task API, versions 2 and 3: protobuf to values and back, one short method a request.

Checkpoint is refused as unimplemented, the rest is there. What changes a task goes on to its end when its caller is
gone: half of a Create or a Delete would leave processes and mounts that nobody knows of.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from ..errors import (
    AbortedError,
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ShimError,
    UnavailableError,
    UnimplementedError,
)
from ..instance import Encoded, Instance, InstanceConfig, Mount, ProcessInfo
from ..proto import task_pb2, task_types_pb2
from ..tracing import TraceContext, span
from ..wire import bytes_field
from .events import EventSink
from .exec import Exec
from .identifiers import check_identifier, shorten
from .options import parse_options
from .state import TaskState, status_of_state
from .task import Task
from .timestamps import split_timestamp

if TYPE_CHECKING:
    from ..ttrpc.aio.server import Call, Handler

__all__ = ["FORGOTTEN_SHUTDOWN", "MAX_SIGNAL", "SERVICES", "SHUTDOWN_DELAY", "EventSink", "TaskService"]

SERVICES: Final = ("containerd.task.v2.Task", "containerd.task.v3.Task")
MAX_SIGNAL: Final = 64  # SIGRTMAX of Linux, signal(7)
SHUTDOWN_DELAY: Final = 0.02
FORGOTTEN_SHUTDOWN: Final = 10.0
ABANDONED_END: Final = 10.0
_NO_CHECKPOINTS: Final = (
    "this shim can neither save a container's processes nor restore them, as a wasm guest is no process that could be "
    "executed again: it lives in one of the shim's own; start a container anew instead"
)
_PROCESS_DETAILS: Final = "containerd.runc.v1.ProcessDetails"

_logger = logging.getLogger(__name__)


class _Request(Protocol):
    """What every request of the API has in common."""

    id: str

    def ParseFromString(self, serialized: bytes) -> int: ...  # noqa: N802  (protobuf's name)


_R = TypeVar("_R", bound=_Request)
_Result = TypeVar("_Result")


def _always() -> bool:
    return True


def _ignore(id: str) -> None:  # noqa: A002  (containerd's word)
    del id


class TaskService:
    """The tasks of one shim, by id.

    *make_instance* gets an id and what containerd said of it. *on_shutdown* is called when containerd has asked for
    the end, no task is left and *may_shut_down* agrees: `SHUTDOWN_DELAY` seconds after the request was answered, so
    that the answer is on its way. A connection may be slower than that, so what *on_shutdown* does has to let calls
    that are under way finish, as the ttrpc server's `close` does. Whoever decides to end calls `close`.
    *on_create* and *on_forget* hear of each task's id: when it is asked for, and when nothing is left of it.
    """

    def __init__(
        self,
        namespace: str,
        make_instance: Callable[[str, InstanceConfig], Instance],
        events: EventSink,
        *,
        on_shutdown: Callable[[], None],
        containerd_address: str = "",
        may_shut_down: Callable[[], bool] = _always,
        on_create: Callable[[str], None] = _ignore,
        on_forget: Callable[[str], None] = _ignore,
        version: str = "",
    ) -> None:
        self._namespace = namespace
        self._make_instance = make_instance
        self._events = events
        self._on_shutdown = on_shutdown
        self._containerd_address = containerd_address
        self._may_shut_down = may_shut_down
        self._on_create = on_create
        self._on_forget = on_forget
        self._version = version
        self._tasks: dict[str, Task] = {}
        self._running: set[asyncio.Task[object]] = set()
        self._owes_shutdown = False
        self._is_closed = False

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The ids of the tasks that exist, in the order of their Creates; one being created is among them."""
        return tuple(self._tasks)

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """The handlers, by service and method, as the ttrpc server wants them: one set for both versions."""
        methods = {
            "State": self._plain("State", task_pb2.StateRequest, self._state),
            "Create": self._traced("Create", task_pb2.CreateTaskRequest, self._create),
            "Start": self._plain("Start", task_pb2.StartRequest, self._start),
            "Delete": self._plain("Delete", task_pb2.DeleteRequest, self._delete),
            "Pids": self._plain("Pids", task_pb2.PidsRequest, self._pids),
            "Pause": self._plain("Pause", task_pb2.PauseRequest, self._pause),
            "Resume": self._plain("Resume", task_pb2.ResumeRequest, self._resume),
            "Checkpoint": self._plain("Checkpoint", task_pb2.CheckpointTaskRequest, self._checkpoint),
            "Kill": self._plain("Kill", task_pb2.KillRequest, self._kill),
            "Exec": self._traced("Exec", task_pb2.ExecProcessRequest, self._exec),
            "ResizePty": self._plain("ResizePty", task_pb2.ResizePtyRequest, self._resize_pty),
            "CloseIO": self._plain("CloseIO", task_pb2.CloseIORequest, self._close_io),
            "Update": self._plain("Update", task_pb2.UpdateTaskRequest, self._update),
            "Wait": self._plain("Wait", task_pb2.WaitRequest, self._wait),
            "Stats": self._plain("Stats", task_pb2.StatsRequest, self._stats),
            "Connect": self._plain("Connect", task_pb2.ConnectRequest, self._connect),
            "Shutdown": self._plain("Shutdown", task_pb2.ShutdownRequest, self._shutdown),
        }
        return dict.fromkeys(SERVICES, methods)

    # ------------------------------------------------------------------------------------------------- the methods

    async def _state(self, request: task_pb2.StateRequest) -> Message:
        task = self._find(request.id)
        process = self._find_exec(task, request.exec_id) if request.exec_id else task
        config, end = process.config if isinstance(process, Exec) else task.instance.config, process.end
        return task_pb2.StateResponse(
            id=process.id,
            bundle=task.instance.config.bundle,
            pid=process.pid,
            status=task_types_pb2.Status.Name(status_of_state(_state_of(process, task))),
            stdin=config.stdin,
            stdout=config.stdout,
            stderr=config.stderr,
            terminal=config.terminal,
            exit_status=end.status if end else 0,
            exited_at=_timestamp(end.exited_at) if end else None,
        )

    async def _create(self, request: task_pb2.CreateTaskRequest, trace: TraceContext) -> Message:
        self._on_create(request.id)
        config = _instance_config(request, self._namespace, self._containerd_address, trace)
        if self._is_closed:
            raise UnavailableError(f"cannot create task {request.id!r}: this shim is shutting down; start another")
        if request.id in self._tasks:
            raise AlreadyExistsError(f"task {request.id!r} exists already")
        task = Task(request.id, self._make_instance(request.id, config), self._events)
        self._tasks[task.id] = task
        return task_pb2.CreateTaskResponse(pid=await self._finish(f"Create of {task.id}", self._make(task)))

    async def _make(self, task: Task) -> int:
        try:
            return await task.create()
        except BaseException:
            self._forget(task)
            raise

    async def _exec(self, request: task_pb2.ExecProcessRequest, trace: TraceContext) -> None:
        task = self._find(request.id)
        check_identifier(request.exec_id, "exec id")
        config = InstanceConfig(
            bundle=task.instance.config.bundle,
            namespace=self._namespace,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            terminal=request.terminal,
            trace=trace,
        )
        spec = Encoded(request.spec.type_url, request.spec.value)
        await self._finish(f"Exec of {task.id}", task.exec(request.exec_id, spec, config))

    async def _start(self, request: task_pb2.StartRequest) -> Message:
        task = self._find(request.id)
        process = self._find_exec(task, request.exec_id) if request.exec_id else task
        return task_pb2.StartResponse(pid=await self._finish(f"Start of {process.id}", process.start()))

    async def _delete(self, request: task_pb2.DeleteRequest) -> Message:
        task = self._find(request.id)
        if request.exec_id:
            return await self._finish(f"Delete of {request.exec_id}", self._remove_exec(task, request.exec_id))
        return await self._finish(f"Delete of {task.id}", self._remove(task))

    async def _remove(self, task: Task) -> Message:
        end = await task.delete()
        self._forget(task)
        return task_pb2.DeleteResponse(pid=task.pid, exit_status=end.status, exited_at=_timestamp(end.exited_at))

    async def _remove_exec(self, task: Task, exec_id: str) -> Message:
        process = self._find_exec(task, exec_id)
        end = await task.delete_exec(exec_id)
        return task_pb2.DeleteResponse(pid=process.pid, exit_status=end.status, exited_at=_timestamp(end.exited_at))

    async def _kill(self, request: task_pb2.KillRequest) -> None:
        task = self._find(request.id)
        process = self._find_exec(task, request.exec_id) if request.exec_id else None
        if not 1 <= request.signal <= MAX_SIGNAL:
            raise InvalidArgumentError(f"signal {request.signal} for task {task.id!r} is not one of 1 to {MAX_SIGNAL}")
        work = process.kill(request.signal) if process else task.kill(request.signal, request.all)
        await self._finish(f"Kill of {task.id}", work)

    async def _pause(self, request: task_pb2.PauseRequest) -> None:
        task = self._find(request.id)
        await self._finish(f"Pause of {task.id}", task.pause())

    async def _resume(self, request: task_pb2.ResumeRequest) -> None:
        task = self._find(request.id)
        await self._finish(f"Resume of {task.id}", task.resume())

    async def _update(self, request: task_pb2.UpdateTaskRequest) -> None:
        task = self._find(request.id)
        resources = Encoded(request.resources.type_url, request.resources.value)
        await self._finish(f"Update of {task.id}", task.update(resources, dict(request.annotations)))

    async def _checkpoint(self, request: task_pb2.CheckpointTaskRequest) -> None:
        task = self._find(request.id)
        raise UnimplementedError(f"cannot do Checkpoint for task {task.id!r}: {_NO_CHECKPOINTS}")

    async def _wait(self, request: task_pb2.WaitRequest) -> Message:
        task = self._find(request.id)
        end = await (self._find_exec(task, request.exec_id) if request.exec_id else task).wait()
        return task_pb2.WaitResponse(exit_status=end.status, exited_at=_timestamp(end.exited_at))

    async def _resize_pty(self, request: task_pb2.ResizePtyRequest) -> None:
        task = self._find(request.id)
        process = self._find_exec(task, request.exec_id) if request.exec_id else task
        await process.resize(request.width, request.height)

    async def _pids(self, request: task_pb2.PidsRequest) -> Message:
        processes = await self._find(request.id).pids()
        return task_pb2.PidsResponse(processes=[_process_info(each) for each in processes])

    async def _stats(self, request: task_pb2.StatsRequest) -> Message:
        stats = await self._find(request.id).stats()
        response = task_pb2.StatsResponse()
        response.stats.type_url, response.stats.value = stats.type_url, stats.value
        return response

    async def _close_io(self, request: task_pb2.CloseIORequest) -> None:
        task = self._find(request.id)
        process = self._find_exec(task, request.exec_id) if request.exec_id else task
        if request.stdin:
            await process.close_io()

    async def _connect(self, request: task_pb2.ConnectRequest) -> Message:
        # never NOT_FOUND: a restarted containerd would take the shim for a leaked one
        task = self._tasks.get(request.id)
        return task_pb2.ConnectResponse(shim_pid=os.getpid(), task_pid=task.pid if task else 0, version=self._version)

    async def _shutdown(self, request: task_pb2.ShutdownRequest) -> None:
        if self._is_idle():
            asyncio.get_running_loop().call_later(SHUTDOWN_DELAY, self._shut_down)
        else:
            self._owes_shutdown = True
            _logger.debug("shutdown asked for by %s: staying for %s", shorten(request.id), ", ".join(self._tasks))

    # ------------------------------------------------------------------------------------------------- around them

    def close(self) -> None:
        """Refuse every Create from now on: the shim ends."""
        self._is_closed = True

    def abandon(self, id: str) -> None:  # noqa: A002  (containerd's word)
        """Remove the task *id*, if there is one, in the background: containerd has given it up, and asks no more."""
        task = self._tasks.get(id)
        if task is None:
            return
        self._owes_shutdown = True
        work = asyncio.ensure_future(self._remove_abandoned(task))
        self._running.add(work)
        work.add_done_callback(self._running.discard)

    async def _remove_abandoned(self, task: Task) -> None:
        try:
            if task.end is None:
                await asyncio.wait_for(task.wait(), ABANDONED_END)  # `delete` has killed it
            await self._remove(task)
        except (ShimError, OSError, asyncio.TimeoutError) as error:
            _logger.warning("task %s was given up by containerd, and cannot be removed: %s", task.id, error)

    def _forget(self, task: Task) -> None:
        del self._tasks[task.id]
        self._on_forget(task.id)
        if self._owes_shutdown and self._is_idle():
            # asked for while this task was there: containerd asks again after a delete, but not after a failed create
            asyncio.get_running_loop().call_later(FORGOTTEN_SHUTDOWN, self._shut_down)

    def _is_idle(self) -> bool:
        return not self._tasks and not self._is_closed and self._may_shut_down()

    def _shut_down(self) -> None:
        if self._is_idle():  # a Create may have come in between
            self._on_shutdown()

    def _find(self, id: str) -> Task:  # noqa: A002  (containerd's word)
        if (task := self._tasks.get(id)) is None:
            raise NotFoundError(f"task {shorten(id)} does not exist in namespace {self._namespace!r}")
        return task

    @staticmethod
    def _find_exec(task: Task, exec_id: str) -> Exec:
        if (found := task.execs.get(exec_id)) is None:
            raise NotFoundError(f"task {task.id!r} has no process {shorten(exec_id)}")
        return found

    def _plain(self, name: str, make: Callable[[], _R], method: Callable[[_R], Awaitable[Message | None]]) -> Handler:
        return self._traced(name, make, lambda request, _: method(request))

    def _traced(
        self, name: str, make: Callable[[], _R], method: Callable[[_R, TraceContext], Awaitable[Message | None]]
    ) -> Handler:
        async def handle(call: Call, payload: bytes) -> bytes:
            request = make()
            _decode(request, payload, name)
            with span(f"task.{name}", TraceContext.from_mapping(call.metadata), id=request.id) as trace:
                response = await method(request, trace)
            return b"" if response is None else response.SerializeToString()

        return handle

    async def _finish(self, what: str, work: Coroutine[object, object, _Result]) -> _Result:
        """Await *work*, which goes on to its end even when the caller is cancelled."""
        running = asyncio.ensure_future(work)
        self._running.add(running)  # the loop itself keeps no strong reference
        running.add_done_callback(self._running.discard)
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError:
            running.add_done_callback(lambda done: _log_unheard(what, done))
            raise
        if running.cancelled():
            raise AbortedError(f"{what} was given up half way")
        return running.result()


def _log_unheard(what: str, done: asyncio.Future[_Result]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _logger.warning("%s failed, and nobody waits for the answer: %s", what, error)


def _decode(request: _Request, payload: bytes, name: str) -> None:
    try:
        request.ParseFromString(payload)
    except DecodeError as error:
        raise InternalError(f"the {len(payload)} bytes of the {name} request cannot be decoded: {error}") from error


def _instance_config(
    request: task_pb2.CreateTaskRequest, namespace: str, containerd_address: str, trace: TraceContext
) -> InstanceConfig:
    """Check a Create request and turn it into values."""
    check_identifier(request.id, "task id")
    for name in ("checkpoint", "parent_checkpoint"):
        if value := getattr(request, name):
            raise UnimplementedError(
                f"Create of task {request.id!r} asks for {name} = {shorten(str(value))}: {_NO_CHECKPOINTS}"
            )
    if not os.path.isabs(request.bundle) or not _is_directory(request.bundle):
        raise InvalidArgumentError(
            f"bundle {shorten(request.bundle)} of task {request.id!r} must be the absolute path of a directory"
        )
    options = Encoded(request.options.type_url, request.options.value)
    parsed = parse_options(options)
    return InstanceConfig(
        bundle=request.bundle,
        namespace=namespace,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
        terminal=request.terminal,
        rootfs=tuple(Mount(each.type, each.source, each.target, tuple(each.options)) for each in request.rootfs),
        options=options,
        config=parsed.config,
        containerd_address=containerd_address,
        trace=trace,
    )


def _is_directory(path: str) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:  # a NUL in it, before Python 3.13
        return False


def _state_of(process: Task | Exec, task: Task) -> TaskState:
    """A process that runs in a paused container is paused."""
    if process.state is TaskState.RUNNING and task.state in (TaskState.PAUSING, TaskState.PAUSED):
        return task.state
    return process.state


def _timestamp(moment: datetime) -> Timestamp:
    seconds, nanos = split_timestamp(moment)
    return Timestamp(seconds=seconds, nanos=nanos)


def _process_info(process: ProcessInfo) -> task_types_pb2.ProcessInfo:
    info = task_types_pb2.ProcessInfo(pid=process.pid)
    if process.exec_id:  # ProcessDetails has this one field; Any.Pack would put a prefix before its name
        info.info.type_url, info.info.value = _PROCESS_DETAILS, bytes_field(1, process.exec_id)
    return info
