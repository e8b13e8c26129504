"""Pausing and resuming a task, and changing its limits, as containerd asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import pytest
from containerd_shimkit.errors import DeadlineExceededError, FailedPreconditionError, ShimError
from containerd_shimkit.instance import Encoded, ExitStatus, Instance, InstanceConfig
from containerd_shimkit.proto import events_pb2, task_pb2
from containerd_shimkit.task.service import SERVICES, TaskService
from containerd_shimkit.ttrpc.aio.server import Call
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

CREATED, RUNNING, STOPPED, PAUSED, PAUSING = 1, 2, 3, 4, 5


class Stub(Instance):
    """An instance whose pauses and resumes wait for `gate`, and fail with `error`; any kill ends it."""

    def __init__(self, id: str, config: InstanceConfig) -> None:  # noqa: A002
        super().__init__(id, config)
        self.end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.calls: list[str] = []
        self.updates: list[tuple[Encoded, dict[str, str]]] = []

    async def create(self) -> int:
        return 100

    async def start(self) -> int:
        return 100

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        self.end.set_result(ExitStatus(128 + signal, datetime.now(timezone.utc)))

    async def delete(self) -> None:
        pass

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        return await asyncio.shield(self.end)

    async def exec(self, exec_id: str, spec: Encoded, config: InstanceConfig) -> None:
        pass

    async def start_exec(self, exec_id: str) -> int:
        return 200

    async def wait_exec(self, exec_id: str) -> ExitStatus:
        return await asyncio.shield(self.end)

    async def delete_exec(self, exec_id: str) -> None:
        pass

    async def pause(self) -> None:
        await self._pass("pause")

    async def resume(self) -> None:
        await self._pass("resume")

    async def update(self, resources: Encoded, annotations: Mapping[str, str]) -> None:
        self.updates.append((resources, dict(annotations)))

    async def _pass(self, method: str) -> None:
        self.calls.append(method)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class Scene:
    """A service with one task."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.events: list[tuple[str, Encoded]] = []
        self.handlers = TaskService("default", self._make, self, on_shutdown=lambda: None).services()[SERVICES[0]]
        self.stub: Stub

    def _make(self, id: str, config: InstanceConfig) -> Instance:  # noqa: A002
        self.stub = Stub(id, config)
        return self.stub

    def publish(self, topic: str, event: Encoded) -> None:
        self.events.append((topic, event))

    @property
    def topics(self) -> list[str]:
        return [topic.rpartition("/")[2] for topic, _ in self.events]

    async def send(self, method: str, request: Message) -> bytes:
        return await self.handlers[method](Call(SERVICES[0], method, {}, None), request.SerializeToString())

    async def create(self) -> None:
        await self.send("Create", task_pb2.CreateTaskRequest(id="c1", bundle=self.bundle))

    async def begin(self) -> None:
        await self.create()
        await self.start()

    async def start(self, exec_id: str = "") -> None:
        await self.send("Start", task_pb2.StartRequest(id="c1", exec_id=exec_id))

    async def exec(self, exec_id: str = "e1") -> None:
        await self.send("Exec", task_pb2.ExecProcessRequest(id="c1", exec_id=exec_id))

    async def pause(self) -> None:
        await self.send("Pause", task_pb2.PauseRequest(id="c1"))

    async def resume(self) -> None:
        await self.send("Resume", task_pb2.ResumeRequest(id="c1"))

    async def update(self) -> None:
        resources = Any(type_url="a/Type", value=b"{}")
        await self.send("Update", task_pb2.UpdateTaskRequest(id="c1", resources=resources, annotations={"a": "b"}))

    async def kill(self) -> None:
        await self.send("Kill", task_pb2.KillRequest(id="c1", signal=9))

    async def wait(self) -> int:
        return task_pb2.WaitResponse.FromString(await self.send("Wait", task_pb2.WaitRequest(id="c1"))).exit_status

    async def delete(self) -> None:
        await self.send("Delete", task_pb2.DeleteRequest(id="c1"))

    async def status(self, exec_id: str = "") -> int:
        payload = await self.send("State", task_pb2.StateRequest(id="c1", exec_id=exec_id))
        return task_pb2.StateResponse.FromString(payload).status


Play = Callable[[Callable[[Scene], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(scenario: Callable[[Scene], Awaitable[None]]) -> None:
        asyncio.run(asyncio.wait_for(scenario(Scene(str(tmp_path))), 20))

    return run


async def refusal(work: Awaitable[object], kind: type[ShimError]) -> str:
    with pytest.raises(kind) as caught:
        await work
    return str(caught.value)


async def under_way(work: Awaitable[None]) -> asyncio.Future[None]:
    running = asyncio.ensure_future(work)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not running.done()
    return running


def test_a_task_is_pausing_then_paused_then_runs_and_each_is_told(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        scene.stub.gate.clear()
        pausing = await under_way(scene.pause())
        assert (await scene.status(), scene.topics[2:]) == (PAUSING, [])
        scene.stub.gate.set()
        await pausing
        assert (await scene.status(), scene.topics[2:]) == (PAUSED, ["paused"])
        await scene.resume()
        assert (await scene.status(), scene.topics[2:]) == (RUNNING, ["paused", "resumed"])
        paused, resumed = (event for _, event in scene.events[2:])
        assert events_pb2.TaskPaused.FromString(paused.value).container_id == "c1"
        assert events_pb2.TaskResumed.FromString(resumed.value).container_id == "c1"
        assert (paused.type_url, resumed.type_url) == ("containerd.events.TaskPaused", "containerd.events.TaskResumed")

    play(scenario)


def test_only_what_runs_is_paused_and_only_what_is_paused_resumed(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.create()
        assert "cannot pause a task that is created" in await refusal(scene.pause(), FailedPreconditionError)
        assert "cannot resume a task that is created" in await refusal(scene.resume(), FailedPreconditionError)
        await scene.start()
        assert "cannot resume a task that is running" in await refusal(scene.resume(), FailedPreconditionError)
        await scene.pause()
        assert "cannot pause a task that is paused" in await refusal(scene.pause(), FailedPreconditionError)
        assert "cannot delete a task that is paused" in await refusal(scene.delete(), FailedPreconditionError)
        await scene.kill()
        await scene.wait()
        for call in (scene.pause(), scene.resume()):
            assert "a task that is stopped" in await refusal(call, FailedPreconditionError)
        assert scene.stub.calls == ["pause"]

    play(scenario)


def test_a_pause_that_fails_leaves_a_task_that_runs_and_a_resume_one_that_is_paused(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        scene.stub.error = DeadlineExceededError("no")
        await refusal(scene.pause(), DeadlineExceededError)
        assert await scene.status() == RUNNING
        scene.stub.error = None
        await scene.pause()
        scene.stub.error = FailedPreconditionError("a group above is frozen")
        await refusal(scene.resume(), FailedPreconditionError)
        assert (await scene.status(), scene.topics[2:]) == (PAUSED, ["paused"])

    play(scenario)


def test_a_paused_task_is_killed_and_deleted(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        await scene.pause()
        await scene.kill()
        assert (await scene.wait(), await scene.status()) == (137, STOPPED)
        await scene.delete()
        assert scene.topics == ["create", "start", "paused", "exit", "delete"]

    play(scenario)


def test_a_task_that_ends_while_it_is_being_paused_was_never_paused(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        scene.stub.gate.clear()
        pausing = await under_way(scene.pause())
        await scene.kill()
        assert await scene.wait() == 137
        scene.stub.gate.set()
        assert "cannot finish pausing a task that is stopped" in await refusal(pausing, FailedPreconditionError)
        assert scene.topics == ["create", "start", "exit"]

    play(scenario)


def test_execs_are_paused_with_their_task_and_none_is_added_or_started_meanwhile(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        await scene.exec("runs")
        await scene.start("runs")
        await scene.exec("waits")
        await scene.pause()
        assert (await scene.status("runs"), await scene.status("waits")) == (PAUSED, CREATED)
        assert "a task that is paused" in await refusal(scene.exec("late"), FailedPreconditionError)
        assert "task 'c1' is paused" in await refusal(scene.start("waits"), FailedPreconditionError)
        await scene.resume()
        assert await scene.status("runs") == RUNNING
        await scene.start("waits")

    play(scenario)


def test_limits_are_changed_while_the_task_lives(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.create()
        await scene.update()
        await scene.start()
        await scene.update()
        await scene.pause()
        await scene.update()
        assert scene.stub.updates == [(Encoded("a/Type", b"{}"), {"a": "b"})] * 3
        await scene.kill()
        await scene.wait()
        message = await refusal(scene.update(), FailedPreconditionError)
        assert "cannot change the limits of a task that is stopped" in message

    play(scenario)
