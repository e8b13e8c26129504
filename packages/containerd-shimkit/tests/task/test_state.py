from __future__ import annotations

from itertools import product

import pytest
from containerd_shimkit.errors import FailedPreconditionError
from containerd_shimkit.proto import task_types_pb2
from containerd_shimkit.task.state import Action, Status, TaskState, next_state, status_of_state


def _leads_on(state: TaskState, action: Action) -> bool:
    try:
        next_state(state, action)
    except FailedPreconditionError:
        return False
    return True


def _allowed(action: Action) -> set[TaskState]:
    return {state for state in TaskState if _leads_on(state, action)}


def test_the_whole_life_follows_the_table() -> None:
    state = TaskState.CREATING
    for action in (Action.FINISH_CREATE, Action.START, Action.FINISH_START, Action.END, Action.DELETE):
        state = next_state(state, action)
    assert next_state(state, Action.FINISH_DELETE) is TaskState.DELETED


def test_each_action_is_lawful_in_these_states_only() -> None:
    alive = {TaskState.CREATED, TaskState.STARTING, TaskState.RUNNING, TaskState.PAUSING, TaskState.PAUSED}
    assert _allowed(Action.START) == {TaskState.CREATED}
    assert _allowed(Action.KILL) == alive
    assert _allowed(Action.END) == alive | {TaskState.DELETING}
    assert _allowed(Action.DELETE) == {TaskState.CREATED, TaskState.STOPPED}
    assert _allowed(Action.PAUSE) == {TaskState.RUNNING}
    assert _allowed(Action.RESUME) == {TaskState.PAUSED}


def test_nothing_leads_out_of_deleted_nor_back_into_creating() -> None:
    assert not any(_leads_on(TaskState.DELETED, action) for action in Action)
    reached = {next_state(state, action) for state, action in product(TaskState, Action) if _leads_on(state, action)}
    assert reached == set(TaskState) - {TaskState.CREATING}


def test_a_failed_delete_can_be_tried_again() -> None:
    state = next_state(TaskState.DELETING, Action.FAIL_DELETE)
    assert next_state(state, Action.DELETE) is TaskState.DELETING


def test_an_end_while_deleting_leaves_the_delete_to_finish() -> None:
    assert next_state(TaskState.DELETING, Action.END) is TaskState.DELETING


def test_a_refusal_names_the_action_and_the_state() -> None:
    with pytest.raises(FailedPreconditionError, match="cannot delete a task that is running"):
        next_state(TaskState.RUNNING, Action.DELETE)


def test_statuses_are_containerds() -> None:
    assert {each.name: each.value for each in Status} == dict(task_types_pb2.Status.items())
    assert {state: status_of_state(state) for state in TaskState} == {
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
