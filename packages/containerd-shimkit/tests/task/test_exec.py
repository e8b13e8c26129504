"""Further processes of a task, as containerd asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from containerd_shimkit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ShimError,
)
from containerd_shimkit.instance import Encoded, ExitStatus, Instance, InstanceConfig
from containerd_shimkit.proto import events_pb2, task_pb2
from containerd_shimkit.task.service import SERVICES, TaskService
from containerd_shimkit.ttrpc.aio.server import Call
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

EXITED_AT = datetime(2026, 11, 23, 10, 20, 30, 456000, tzinfo=timezone.utc)


class Stub(Instance):
    """An instance without processes, whose execs end when they are killed or their init is."""

    ends_execs_with_init = True

    def __init__(self, id: str, config: InstanceConfig) -> None:  # noqa: A002
        super().__init__(id, config)
        loop = asyncio.get_running_loop()
        self.end: asyncio.Future[ExitStatus] = loop.create_future()
        self.execs: dict[str, tuple[Encoded, InstanceConfig]] = {}
        self.ends: dict[str, asyncio.Future[ExitStatus]] = {}
        self.errors: dict[str, Exception] = {}
        self.calls: list[tuple[object, ...]] = []

    async def create(self) -> int:
        return 100

    async def start(self) -> int:
        return 100

    def exit(self, status: int) -> None:
        self.end.set_result(ExitStatus(status, EXITED_AT))
        if self.ends_execs_with_init:
            for name in self.ends:
                self.exit_exec(name, 137)

    def exit_exec(self, name: str, status: int) -> None:
        if not self.ends[name].done():
            self.ends[name].set_result(ExitStatus(status, EXITED_AT))

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        self.calls.append(("kill", signal, exec_id))
        if exec_id:
            if self.ends[exec_id].done():
                raise NotFoundError("it has ended")
            self.exit_exec(exec_id, 128 + signal)
        elif not self.end.done():
            self.exit(128 + signal)

    async def delete(self) -> None:
        if not self.end.done():
            self.exit(137)

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        return await asyncio.shield(self.end)

    def _pass(self, method: str) -> None:
        if method in self.errors:
            raise self.errors[method]

    async def exec(self, exec_id: str, spec: Encoded, config: InstanceConfig) -> None:
        self._pass("exec")
        self.execs[exec_id] = (spec, config)

    async def start_exec(self, exec_id: str) -> int:
        self._pass("start_exec")
        self.ends[exec_id] = asyncio.get_running_loop().create_future()
        return 200 + len(self.ends)

    async def wait_exec(self, exec_id: str) -> ExitStatus:
        self._pass("wait_exec")
        return await asyncio.shield(self.ends[exec_id])

    async def delete_exec(self, exec_id: str) -> None:
        self._pass("delete_exec")
        del self.execs[exec_id]

    async def close_io(self, exec_id: str | None = None) -> None:
        self.calls.append(("close_io", exec_id))

    async def resize_pty(self, width: int, height: int, exec_id: str | None = None) -> None:
        self.calls.append(("resize", width, height, exec_id))


class Scene:
    """A service with one task, which runs."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle
        self.events: list[tuple[str, Encoded]] = []
        self.service = TaskService("default", self._make, self, on_shutdown=lambda: None)
        self.handlers = self.service.services()[SERVICES[0]]
        self.stub: Stub

    def _make(self, id: str, config: InstanceConfig) -> Instance:  # noqa: A002
        self.stub = Stub(id, config)
        return self.stub

    def publish(self, topic: str, event: Encoded) -> None:
        self.events.append((topic, event))

    @property
    def topics(self) -> list[str]:
        return [topic.rpartition("/")[2] for topic, _ in self.events]

    @property
    def exits(self) -> list[str]:
        """Whose exits were told, in order."""
        return [events_pb2.TaskExit.FromString(each.value).id for topic, each in self.events if topic.endswith("/exit")]

    async def send(self, method: str, request: Message) -> bytes:
        call = Call(SERVICES[0], method, {}, None)
        return await self.handlers[method](call, request.SerializeToString())

    async def begin(self, **fields: object) -> None:
        request = task_pb2.CreateTaskRequest(id="c1", bundle=self.bundle, **fields)  # type: ignore[arg-type]
        await self.send("Create", request)
        await self.send("Start", task_pb2.StartRequest(id="c1"))

    async def exec(self, name: str = "e1", **fields: object) -> None:
        spec = Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Process", value=b"{}")
        request = task_pb2.ExecProcessRequest(id="c1", exec_id=name, spec=spec, **fields)  # type: ignore[arg-type]
        await self.send("Exec", request)

    async def start(self, name: str = "e1") -> int:
        payload = await self.send("Start", task_pb2.StartRequest(id="c1", exec_id=name))
        return task_pb2.StartResponse.FromString(payload).pid

    async def state(self, name: str = "e1") -> task_pb2.StateResponse:
        return task_pb2.StateResponse.FromString(await self.send("State", task_pb2.StateRequest(id="c1", exec_id=name)))

    async def wait(self, name: str = "e1") -> int:
        payload = await self.send("Wait", task_pb2.WaitRequest(id="c1", exec_id=name))
        return task_pb2.WaitResponse.FromString(payload).exit_status

    async def kill(self, name: str = "e1", signal: int = 9) -> None:
        await self.send("Kill", task_pb2.KillRequest(id="c1", exec_id=name, signal=signal))

    async def delete(self, name: str = "e1") -> task_pb2.DeleteResponse:
        payload = await self.send("Delete", task_pb2.DeleteRequest(id="c1", exec_id=name))
        return task_pb2.DeleteResponse.FromString(payload)


Play = Callable[[Callable[[Scene], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def run(scenario: Callable[[Scene], Awaitable[None]]) -> None:
        asyncio.run(asyncio.wait_for(scenario(Scene(str(tmp_path))), 20))

    return run


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def refusal(work: Awaitable[object], kind: type[ShimError]) -> str:
    with pytest.raises(kind) as caught:
        await work
    return str(caught.value)


def test_the_life_of_an_exec(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        await scene.exec(stdin="/in", stdout="/out", stderr="/err", terminal=True)
        spec, config = scene.stub.execs["e1"]
        assert spec.value == b"{}"
        assert (config.stdin, config.stdout, config.stderr, config.terminal) == ("/in", "/out", "/err", True)
        state = await scene.state()
        assert (state.id, state.exec_id, state.status, state.pid, state.stdout) == ("e1", "", 1, 0, "/out")
        assert (state.bundle, state.terminal) == (scene.bundle, True)
        waiting = asyncio.ensure_future(scene.wait())
        assert await scene.start() == 201
        assert (await scene.state()).status == 2
        scene.stub.exit_exec("e1", 3)
        assert await waiting == 3
        state = await scene.state()
        assert (state.status, state.pid, state.exit_status, state.HasField("exited_at")) == (3, 201, 3, True)
        deleted = await scene.delete()
        assert (deleted.pid, deleted.exit_status, deleted.HasField("exited_at")) == (201, 3, True)
        await refusal(scene.state(), NotFoundError)
        assert scene.topics == ["create", "start", "exec-added", "exec-started", "exit"]
        assert scene.exits == ["e1"]

    play(scenario)


def test_what_is_out_of_order_is_refused(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        await refusal(scene.start("none"), NotFoundError)
        assert "exec id" in await refusal(scene.exec("a/b"), InvalidArgumentError)
        await scene.exec()
        assert "a process 'e1' already" in await refusal(scene.exec(), AlreadyExistsError)
        await refusal(scene.kill(), FailedPreconditionError)
        await scene.start()
        assert "cannot start a process that is running" in await refusal(scene.start(), FailedPreconditionError)
        assert "cannot delete a process that is running" in await refusal(scene.delete(), FailedPreconditionError)
        await refusal(scene.kill(signal=0), InvalidArgumentError)
        await scene.kill(signal=15)
        assert await scene.wait() == 143
        await refusal(scene.kill(), NotFoundError)
        await scene.delete()
        await refusal(scene.delete(), NotFoundError)
        assert scene.stub.calls == [("kill", 15, "e1")], "the init has been left alone"

    play(scenario)


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_the_inits_exit_is_the_last_one_and_nothing_starts_after_it(
    play: Play, monkeypatch: pytest.MonkeyPatch, ends_by_itself: bool
) -> None:
    monkeypatch.setattr("containerd_shimkit.task.task._EXECS_GRACE", 0.1)
    monkeypatch.setattr(Stub, "ends_execs_with_init", ends_by_itself)

    async def scenario(scene: Scene) -> None:
        await scene.begin()
        for name in ("e1", "e2", "late"):
            await scene.exec(name)
        await scene.start("e1")
        await scene.start("e2")
        scene.stub.exit(0)
        await settle()
        assert "does not run (any more)" in await refusal(scene.start("late"), FailedPreconditionError)
        await refusal(scene.exec("later"), FailedPreconditionError)
        payload = await scene.send("Wait", task_pb2.WaitRequest(id="c1"))
        assert task_pb2.WaitResponse.FromString(payload).exit_status == 0
        assert sorted(scene.exits[:2]) == ["e1", "e2"]
        assert scene.exits[2:] == ["c1"]
        assert await scene.wait("e1") == 137
        await scene.delete("e1")
        waiting = asyncio.ensure_future(scene.wait("late"))
        await settle()
        await scene.send("Delete", task_pb2.DeleteRequest(id="c1"))
        await refusal(waiting, NotFoundError)

    play(scenario)


def test_failures_leave_nothing_registered_and_nobody_waiting(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        scene.stub.errors["exec"] = InvalidArgumentError("no args")
        assert "no args" in await refusal(scene.exec(), InvalidArgumentError)
        await refusal(scene.state(), NotFoundError)
        scene.stub.errors.clear()
        await scene.exec()
        waiting = asyncio.ensure_future(scene.wait())
        await settle()
        scene.stub.errors["start_exec"] = InternalError("no program")
        assert "no program" in await refusal(scene.start(), InternalError)
        assert await waiting == 137
        assert (await scene.state()).status == 3
        scene.stub.errors["delete_exec"] = InternalError("busy")
        await refusal(scene.delete(), InternalError)
        scene.stub.errors.clear()
        await scene.delete()
        assert scene.topics == ["create", "start", "exec-added"]

    play(scenario)


def test_an_exec_that_was_never_started_can_be_deleted(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        await scene.exec()
        waiting = asyncio.ensure_future(scene.wait())
        await settle()
        assert (await scene.delete()).exit_status == 137
        await refusal(waiting, NotFoundError)

    play(scenario)


def test_an_instance_that_cannot_tell_the_end_is_no_reason_to_wait(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin()
        await scene.exec()
        scene.stub.errors["wait_exec"] = InternalError("lost")
        await scene.start()
        assert await scene.wait() == 255

    play(scenario)


def test_streams_and_terminals_are_those_of_the_process_that_is_named(play: Play) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.begin(terminal=True, stdin="/in")
        await scene.exec(stdin="/in", terminal=True)
        await scene.exec("plain")
        await scene.start()
        for name in ("", "e1", "plain"):
            await scene.send("ResizePty", task_pb2.ResizePtyRequest(id="c1", exec_id=name, width=80, height=24))
            await scene.send("CloseIO", task_pb2.CloseIORequest(id="c1", exec_id=name, stdin=True))
        assert scene.stub.calls == [
            ("resize", 80, 24, None),
            ("close_io", None),
            ("resize", 80, 24, "e1"),
            ("close_io", "e1"),
        ], "one without is left alone"
        scene.stub.exit_exec("e1", 0)
        await scene.wait()
        await scene.send("ResizePty", task_pb2.ResizePtyRequest(id="c1", exec_id="e1", width=80, height=24))
        assert len(scene.stub.calls) == 4

    play(scenario)
