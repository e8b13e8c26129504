"""The states of a task, as one table.

A task is CREATING while its instance is being made, CREATED while a process waits (or nothing runs yet), STARTING
while that process is let go, then RUNNING until its end is recorded: STOPPED. DELETING frees it; a delete that fails
leads back to STOPPED, from where it can be tried again. The end is recorded from CREATED too (a kill before the
start), from STARTING only when the start failed, and in DELETING without changing the state. A task is PAUSING while
its processes are being frozen, then PAUSED until it is resumed, or killed. Its limits may be changed while it lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Final

from ..errors import FailedPreconditionError

__all__ = ["Action", "Status", "TaskState", "next_state", "status_of_state"]


class TaskState(Enum):
    """Where a task is in its life; the value is the word that messages use."""

    CREATING = "being created"
    CREATED = "created"
    STARTING = "being started"
    RUNNING = "running"
    PAUSING = "being paused"
    PAUSED = "paused"
    STOPPED = "stopped"
    DELETING = "being deleted"
    DELETED = "deleted"


class Action(Enum):
    """What is asked of a task, and what is found out about it; the value completes "cannot ... a task"."""

    FINISH_CREATE = "finish creating"
    FAIL_CREATE = "give up creating"
    START = "start"
    FINISH_START = "finish starting"
    KILL = "kill"
    END = "record the end of"
    PAUSE = "pause"
    FINISH_PAUSE = "finish pausing"
    FAIL_PAUSE = "give up pausing"
    RESUME = "resume"
    UPDATE = "change the limits of"
    DELETE = "delete"
    FINISH_DELETE = "finish deleting"
    FAIL_DELETE = "give up deleting"


class Status(IntEnum):
    """`containerd.v1.types.Status`: what containerd's clients know of states."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


_NEXT: Final[Mapping[tuple[TaskState, Action], TaskState]] = {
    (TaskState.CREATING, Action.FINISH_CREATE): TaskState.CREATED,
    (TaskState.CREATING, Action.FAIL_CREATE): TaskState.DELETED,
    (TaskState.CREATED, Action.START): TaskState.STARTING,
    (TaskState.CREATED, Action.KILL): TaskState.CREATED,
    (TaskState.CREATED, Action.END): TaskState.STOPPED,
    (TaskState.CREATED, Action.DELETE): TaskState.DELETING,
    (TaskState.STARTING, Action.FINISH_START): TaskState.RUNNING,
    (TaskState.STARTING, Action.KILL): TaskState.STARTING,
    (TaskState.STARTING, Action.END): TaskState.STOPPED,
    (TaskState.RUNNING, Action.KILL): TaskState.RUNNING,
    (TaskState.RUNNING, Action.PAUSE): TaskState.PAUSING,
    (TaskState.RUNNING, Action.END): TaskState.STOPPED,
    (TaskState.PAUSING, Action.FINISH_PAUSE): TaskState.PAUSED,
    (TaskState.PAUSING, Action.FAIL_PAUSE): TaskState.RUNNING,
    (TaskState.PAUSING, Action.KILL): TaskState.PAUSING,
    (TaskState.PAUSING, Action.END): TaskState.STOPPED,
    (TaskState.PAUSED, Action.RESUME): TaskState.RUNNING,
    (TaskState.PAUSED, Action.KILL): TaskState.PAUSED,
    (TaskState.PAUSED, Action.END): TaskState.STOPPED,
    **{
        (state, Action.UPDATE): state
        for state in (TaskState.CREATED, TaskState.STARTING, TaskState.RUNNING, TaskState.PAUSING, TaskState.PAUSED)
    },
    (TaskState.STOPPED, Action.DELETE): TaskState.DELETING,
    (TaskState.DELETING, Action.END): TaskState.DELETING,
    (TaskState.DELETING, Action.FINISH_DELETE): TaskState.DELETED,
    (TaskState.DELETING, Action.FAIL_DELETE): TaskState.STOPPED,
}

_STATUS: Final[Mapping[TaskState, Status]] = {
    # containerd has no word for "creating": CREATED with pid 0 is the one that lets its clients clean up afterwards
    TaskState.CREATING: Status.CREATED,
    TaskState.CREATED: Status.CREATED,
    TaskState.STARTING: Status.CREATED,
    TaskState.RUNNING: Status.RUNNING,
    TaskState.PAUSING: Status.PAUSING,
    TaskState.PAUSED: Status.PAUSED,
    TaskState.STOPPED: Status.STOPPED,
    TaskState.DELETING: Status.STOPPED,
    TaskState.DELETED: Status.STOPPED,
}


def next_state(state: TaskState, action: Action, what: str = "a task") -> TaskState:
    """The state of *what* that *action* leads to. Raises: FailedPreconditionError, naming all, when there is none."""
    if (following := _NEXT.get((state, action))) is None:
        raise FailedPreconditionError(f"cannot {action.value} {what} that is {state.value}")
    return following


def status_of_state(state: TaskState) -> Status:
    """The status that containerd is told of a task in *state*."""
    return _STATUS[state]
