from __future__ import annotations

from datetime import datetime, timezone

from containerd_shimkit.instance import Mount
from containerd_shimkit.proto import events_pb2
from containerd_shimkit.task.events import TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskStart
from containerd_shimkit.wire import decode_fields

EXITED_AT = datetime(2026, 11, 23, 10, 20, 30, 456789, tzinfo=timezone.utc)


def test_create_says_what_was_asked_for() -> None:
    mounts = (Mount("overlay", "overlay", "", ("lowerdir=/a:/b", "ro")), Mount("bind", "/src", "in", ()))
    event = TaskCreate("c1", "/bundle", mounts, "/in", "/out", "/err", terminal=True, pid=7)
    decoded = events_pb2.TaskCreate.FromString(event.encode().value)
    assert (decoded.container_id, decoded.bundle, decoded.pid, decoded.checkpoint) == ("c1", "/bundle", 7, "")
    assert [(each.type, each.source, each.target, tuple(each.options)) for each in decoded.rootfs] == [
        ("overlay", "overlay", "", ("lowerdir=/a:/b", "ro")),
        ("bind", "/src", "in", ()),
    ]
    assert (decoded.io.stdin, decoded.io.stdout, decoded.io.stderr, decoded.io.terminal) == (
        "/in",
        "/out",
        "/err",
        True,
    )


def test_an_empty_mount_and_no_streams_are_still_said() -> None:
    decoded = events_pb2.TaskCreate.FromString(TaskCreate("c1", "/b", (Mount("", ""),)).encode().value)
    assert len(decoded.rootfs) == 1
    assert decoded.HasField("io")


def test_start_names_the_pid() -> None:
    decoded = events_pb2.TaskStart.FromString(TaskStart("c1", 4_000_000_000).encode().value)
    assert (decoded.container_id, decoded.pid) == ("c1", 4_000_000_000)


def test_exit_names_process_status_and_time() -> None:
    decoded = events_pb2.TaskExit.FromString(TaskExit("c1", "c1", 7, 137, EXITED_AT).encode().value)
    assert (decoded.container_id, decoded.id, decoded.pid, decoded.exit_status) == ("c1", "c1", 7, 137)
    assert decoded.exited_at.ToDatetime(timezone.utc) == EXITED_AT


def test_delete_names_status_and_time_and_no_exec() -> None:
    decoded = events_pb2.TaskDelete.FromString(TaskDelete("c1", 7, 42, EXITED_AT).encode().value)
    assert (decoded.container_id, decoded.id, decoded.pid, decoded.exit_status) == ("c1", "", 7, 42)
    assert decoded.exited_at.ToDatetime(timezone.utc) == EXITED_AT


def test_execs_are_named_with_their_task() -> None:
    assert list(decode_fields(TaskExecAdded("c1", "e1").encode().value)) == [(1, b"c1"), (2, b"e1")]
    assert list(decode_fields(TaskExecStarted("c1", "e1", 7).encode().value)) == [(1, b"c1"), (2, b"e1"), (3, 7)]


def test_urls_are_bare_message_names_and_topics_containerds() -> None:
    events = (
        TaskCreate("c", "/b"),
        TaskStart("c", 1),
        TaskExit("c", "c", 1, 0, EXITED_AT),
        TaskDelete("c", 1, 0, EXITED_AT),
        TaskExecAdded("c", "e"),
        TaskExecStarted("c", "e", 1),
    )
    assert [(event.topic, event.encode().type_url) for event in events] == [
        ("/tasks/create", "containerd.events.TaskCreate"),
        ("/tasks/start", "containerd.events.TaskStart"),
        ("/tasks/exit", "containerd.events.TaskExit"),
        ("/tasks/delete", "containerd.events.TaskDelete"),
        ("/tasks/exec-added", "containerd.events.TaskExecAdded"),
        ("/tasks/exec-started", "containerd.events.TaskExecStarted"),
    ]
