"""The events of a task's life, as values that know their topic and bytes.

Order per task: create, start, exit, delete; without a start, create, then exit if a process had been there, delete.
In between start and exit: oom, which comes before the exit of the same kill; paused and resumed in turns.
Order per exec, in between: added, started, exit.
Encoded by hand, so that the values need no protobuf runtime. Source: containerd, api/events/task.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol

from ..instance import Encoded, Mount
from ..wire import bytes_field, varint_field
from .timestamps import encode_timestamp

__all__ = [
    "EventSink",
    "TaskCreate",
    "TaskDelete",
    "TaskEvent",
    "TaskExecAdded",
    "TaskExecStarted",
    "TaskExit",
    "TaskOom",
    "TaskPaused",
    "TaskResumed",
    "TaskStart",
]


class EventSink(Protocol):
    """Where events go: a queue that keeps their order. `publish` never blocks and never raises."""

    def publish(self, topic: str, event: Encoded) -> None:
        """Queue *event* behind all that were queued before it."""
        ...


@dataclass(frozen=True, slots=True)
class TaskCreate:
    """A task was created; *pid* is its waiting process, 0 if it has none yet."""

    topic: ClassVar[str] = "/tasks/create"
    container_id: str
    bundle: str
    rootfs: Sequence[Mount] = ()
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    pid: int = 0

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        streams = bytes_field(1, self.stdin) + bytes_field(2, self.stdout) + bytes_field(3, self.stderr)
        return Encoded(
            "containerd.events.TaskCreate",
            bytes_field(1, self.container_id)
            + bytes_field(2, self.bundle)
            + b"".join(bytes_field(3, _encode_mount(mount), keep_empty=True) for mount in self.rootfs)
            + bytes_field(4, streams + varint_field(4, self.terminal), keep_empty=True)
            + varint_field(6, self.pid),
        )


@dataclass(frozen=True, slots=True)
class TaskStart:
    """A task's program runs, as *pid*."""

    topic: ClassVar[str] = "/tasks/start"
    container_id: str
    pid: int

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded("containerd.events.TaskStart", bytes_field(1, self.container_id) + varint_field(2, self.pid))


@dataclass(frozen=True, slots=True)
class TaskExit:
    """A process of a task has ended; *id* is the container's for its init."""

    topic: ClassVar[str] = "/tasks/exit"
    container_id: str
    id: str
    pid: int
    exit_status: int
    exited_at: datetime

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded(
            "containerd.events.TaskExit",
            bytes_field(1, self.container_id)
            + bytes_field(2, self.id)
            + varint_field(3, self.pid)
            + varint_field(4, self.exit_status)
            + bytes_field(5, encode_timestamp(self.exited_at), keep_empty=True),
        )


@dataclass(frozen=True, slots=True)
class TaskDelete:
    """A task was deleted: nothing of it is left."""

    topic: ClassVar[str] = "/tasks/delete"
    container_id: str
    pid: int
    exit_status: int
    exited_at: datetime

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded(
            "containerd.events.TaskDelete",
            bytes_field(1, self.container_id)
            + varint_field(2, self.pid)
            + varint_field(3, self.exit_status)
            + bytes_field(4, encode_timestamp(self.exited_at), keep_empty=True),
        )


@dataclass(frozen=True, slots=True)
class TaskExecAdded:
    """A further process was registered; it does not run yet."""

    topic: ClassVar[str] = "/tasks/exec-added"
    container_id: str
    exec_id: str

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded(
            "containerd.events.TaskExecAdded", bytes_field(1, self.container_id) + bytes_field(2, self.exec_id)
        )


@dataclass(frozen=True, slots=True)
class TaskExecStarted:
    """A further process runs, as *pid*."""

    topic: ClassVar[str] = "/tasks/exec-started"
    container_id: str
    exec_id: str
    pid: int

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded(
            "containerd.events.TaskExecStarted",
            bytes_field(1, self.container_id) + bytes_field(2, self.exec_id) + varint_field(3, self.pid),
        )


@dataclass(frozen=True, slots=True)
class TaskOom:
    """The kernel has killed a process of the task for its memory limit."""

    topic: ClassVar[str] = "/tasks/oom"
    container_id: str

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded("containerd.events.TaskOOM", bytes_field(1, self.container_id))


@dataclass(frozen=True, slots=True)
class TaskPaused:
    """Every process of a task has been frozen."""

    topic: ClassVar[str] = "/tasks/paused"
    container_id: str

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded("containerd.events.TaskPaused", bytes_field(1, self.container_id))


@dataclass(frozen=True, slots=True)
class TaskResumed:
    """A paused task goes on."""

    topic: ClassVar[str] = "/tasks/resumed"
    container_id: str

    def encode(self) -> Encoded:
        """The event as containerd forwards it."""
        return Encoded("containerd.events.TaskResumed", bytes_field(1, self.container_id))


TaskEvent = TaskCreate | TaskStart | TaskExit | TaskDelete | TaskOom | TaskPaused | TaskResumed


def _encode_mount(mount: Mount) -> bytes:
    options = b"".join(bytes_field(4, option, keep_empty=True) for option in mount.options)
    return bytes_field(1, mount.type) + bytes_field(2, mount.source) + bytes_field(3, mount.target) + options
