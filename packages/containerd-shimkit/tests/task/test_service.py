from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import pytest
from containerd_shimkit.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)
from containerd_shimkit.instance import Encoded, ExitStatus, Instance, InstanceConfig, Mount, ProcessInfo
from containerd_shimkit.proto import events_pb2, runc_options_pb2, runtime_options_pb2, task_pb2
from containerd_shimkit.task import service as service_module
from containerd_shimkit.task.service import SERVICES, TaskService
from containerd_shimkit.tracing import TraceContext
from containerd_shimkit.ttrpc.aio.server import Call
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

EXITED_AT = datetime(2026, 11, 23, 10, 20, 30, 456000, tzinfo=timezone.utc)
METHODS = {
    "State", "Create", "Start", "Delete", "Pids", "Pause", "Resume", "Checkpoint", "Kill", "Exec", "ResizePty",
    "CloseIO", "Update", "Wait", "Stats", "Connect", "Shutdown",
}  # fmt: skip
REFUSED = {
    "Checkpoint": task_pb2.CheckpointTaskRequest,
}
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass
class Script:
    """What the next instances do: what they answer, fail with, and wait for."""

    created_pid: int = 4321
    started_pid: int = 4321
    create_error: BaseException | None = None
    delete_error: BaseException | None = None
    create_gate: asyncio.Event | None = None
    delete_gate: asyncio.Event | None = None


class StubInstance(Instance):
    """An instance without a process: a kill ends it with status 1, as in the original's tests."""

    def __init__(self, id: str, config: InstanceConfig, script: Script) -> None:  # noqa: A002
        super().__init__(id, config)
        self.script = script
        self.end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.signals: list[tuple[int, bool]] = []
        self.closed = 0

    def exit(self, status: int) -> None:
        if not self.end.done():
            self.end.set_result(ExitStatus(status, EXITED_AT))

    async def create(self) -> int:
        await _pass(self.script.create_gate, self.script.create_error)
        return self.script.created_pid

    async def start(self) -> int:
        return self.script.started_pid

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        if self.end.done():
            raise NotFoundError("it has ended")
        self.signals.append((signal, all))
        self.exit(1)

    async def delete(self) -> None:
        await _pass(self.script.delete_gate, self.script.delete_error)
        self.exit(137)

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        return await asyncio.shield(self.end)

    async def close_io(self, exec_id: str | None = None) -> None:
        self.closed += 1

    async def stats(self) -> Encoded:
        return Encoded("io.containerd.cgroups.v1.Metrics", self.id.encode())


async def _pass(gate: asyncio.Event | None, error: BaseException | None) -> None:
    if gate is not None:
        await gate.wait()
    if error is not None:
        raise error


class Shim:
    """A service with stub instances, called as the ttrpc server calls it."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = str(bundle)
        self.script = Script()
        self.instances: dict[str, StubInstance] = {}
        self.events: list[tuple[str, Encoded]] = []
        self.shutdowns = 0
        self.asked_for: list[str] = []
        self.forgotten: list[str] = []
        self.may_shut_down = True
        self.make_error: Exception | None = None
        self.service = TaskService(
            "default",
            self._make,
            self,
            on_shutdown=self._shut_down,
            containerd_address="/run/c.sock",
            may_shut_down=lambda: self.may_shut_down,
            on_create=self.asked_for.append,
            on_forget=self.forgotten.append,
            version="1.2",
        )
        self.handlers = self.service.services()[SERVICES[0]]

    def _make(self, id: str, config: InstanceConfig) -> Instance:  # noqa: A002
        if self.make_error is not None:
            raise self.make_error
        self.instances[id] = StubInstance(id, config, self.script)
        return self.instances[id]

    def _shut_down(self) -> None:
        self.shutdowns += 1

    def publish(self, topic: str, event: Encoded) -> None:
        self.events.append((topic, event))

    @property
    def topics(self) -> list[str]:
        return [topic.rpartition("/")[2] for topic, _ in self.events]

    async def send(self, method: str, request: Message, **metadata: str) -> bytes:
        call = Call(SERVICES[0], method, metadata, None)
        return await self.handlers[method](call, request.SerializeToString())

    async def create(self, id: str = "c1", also: task_pb2.CreateTaskRequest | None = None) -> int:  # noqa: A002
        request = task_pb2.CreateTaskRequest(id=id, bundle=self.bundle)
        request.MergeFrom(also or task_pb2.CreateTaskRequest())
        return task_pb2.CreateTaskResponse.FromString(await self.send("Create", request)).pid

    async def start(self, id: str = "c1", exec_id: str = "") -> int:  # noqa: A002
        payload = await self.send("Start", task_pb2.StartRequest(id=id, exec_id=exec_id))
        return task_pb2.StartResponse.FromString(payload).pid

    async def state(self, id: str = "c1", exec_id: str = "") -> task_pb2.StateResponse:  # noqa: A002
        payload = await self.send("State", task_pb2.StateRequest(id=id, exec_id=exec_id))
        return task_pb2.StateResponse.FromString(payload)

    async def status(self, id: str = "c1") -> str:  # noqa: A002
        return ("UNKNOWN", "CREATED", "RUNNING", "STOPPED")[(await self.state(id)).status]

    async def kill(self, id: str = "c1", signal: int = 9, all: bool = False, exec_id: str = "") -> bytes:  # noqa: A002
        return await self.send("Kill", task_pb2.KillRequest(id=id, signal=signal, all=all, exec_id=exec_id))

    async def wait(self, id: str = "c1", exec_id: str = "") -> task_pb2.WaitResponse:  # noqa: A002
        return task_pb2.WaitResponse.FromString(await self.send("Wait", task_pb2.WaitRequest(id=id, exec_id=exec_id)))

    async def delete(self, id: str = "c1", exec_id: str = "") -> task_pb2.DeleteResponse:  # noqa: A002
        payload = await self.send("Delete", task_pb2.DeleteRequest(id=id, exec_id=exec_id))
        return task_pb2.DeleteResponse.FromString(payload)

    async def pids(self, id: str = "c1") -> list[int]:  # noqa: A002
        payload = await self.send("Pids", task_pb2.PidsRequest(id=id))
        return [each.pid for each in task_pb2.PidsResponse.FromString(payload).processes]

    async def close_io(self, id: str = "c1", exec_id: str = "", stdin: bool = True) -> bytes:  # noqa: A002
        return await self.send("CloseIO", task_pb2.CloseIORequest(id=id, exec_id=exec_id, stdin=stdin))

    async def stats(self, id: str = "c1") -> Any:  # noqa: A002
        return task_pb2.StatsResponse.FromString(await self.send("Stats", task_pb2.StatsRequest(id=id))).stats

    async def connect(self, id: str = "c1") -> task_pb2.ConnectResponse:  # noqa: A002
        return task_pb2.ConnectResponse.FromString(await self.send("Connect", task_pb2.ConnectRequest(id=id)))

    async def shutdown(self) -> bytes:
        return await self.send("Shutdown", task_pb2.ShutdownRequest(id="c1"))


Play = Callable[[Callable[[Shim], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a scenario against a service of its own."""

    def play(scenario: Callable[[Shim], Awaitable[None]]) -> None:
        async def run() -> None:
            await asyncio.wait_for(scenario(Shim(tmp_path)), timeout=20)

        asyncio.run(run())

    return play


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def pending(work: Awaitable[ResponseT]) -> asyncio.Future[ResponseT]:
    """Begin a call that is not to be answered yet."""
    running = asyncio.ensure_future(work)
    await settle()
    assert not running.done()
    return running


async def refusal(work: Awaitable[object], kind: type[BaseException]) -> str:
    with pytest.raises(kind) as caught:
        await work
    return str(caught.value)


# ------------------------------------------------------------------------------------------- the original's scenarios


def test_a_task_can_be_deleted_without_having_been_started(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create()
        response = await shim.delete()
        assert (response.pid, response.exit_status) == (4321, 137)
        await refusal(shim.state(), NotFoundError)
        assert shim.topics == ["create", "exit", "delete"]

    play(scenario)


def test_the_life_of_a_task(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await refusal(shim.state(), NotFoundError)
        await shim.create()
        assert "'c1' exists already" in await refusal(shim.create(), AlreadyExistsError)
        assert await shim.status() == "CREATED"
        await shim.start()
        assert await shim.status() == "RUNNING"
        waiting = await pending(shim.wait())
        assert (await shim.stats()).type_url == "io.containerd.cgroups.v1.Metrics"
        await shim.kill(signal=9)
        assert (await waiting).exit_status == 1
        assert await shim.status() == "STOPPED"
        await shim.delete()
        await refusal(shim.state(), NotFoundError)
        assert shim.topics == ["create", "start", "exit", "delete"]

    play(scenario)


def test_two_tasks_of_a_pod_live_apart(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        for name in ("sandbox", "container"):
            await shim.create(name)
            await shim.start(name)
        await shim.kill("container")
        await shim.wait("container")
        assert (await shim.status("container"), await shim.status("sandbox")) == ("STOPPED", "RUNNING")
        await shim.delete("container")
        assert shim.service.task_ids == ("sandbox",)

    play(scenario)


# -------------------------------------------------------------------------------------------------- services, requests


def test_both_versions_have_all_methods(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        services = shim.service.services()
        assert set(services) == {"containerd.task.v2.Task", "containerd.task.v3.Task"}
        assert all(set(methods) == METHODS for methods in services.values())

    play(scenario)


def test_a_request_that_cannot_be_decoded_is_an_internal_error_of_every_method(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        for method, handler in shim.handlers.items():
            for payload in (b"\xff", b"\x0a\x01\xff"):
                message = await refusal(handler(Call(SERVICES[0], method, {}, None), payload), InternalError)
                assert f"the {method} request cannot be decoded" in message

    play(scenario)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_what_is_not_implemented_says_so_but_looks_for_the_task_first(play: Play, method: str) -> None:
    async def scenario(shim: Shim) -> None:
        request = REFUSED[method](id="c1")
        await refusal(shim.send(method, request), NotFoundError)
        await shim.create()
        message = await refusal(shim.send(method, request), UnimplementedError)
        assert f"cannot do {method} for task 'c1': this shim can neither save" in message

    play(scenario)


def test_an_unknown_task_is_not_found_by_any_method_that_needs_one(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        calls = (shim.state, shim.start, shim.kill, shim.wait, shim.delete, shim.pids, shim.close_io, shim.stats)
        for call in calls:
            assert "task 'nobody' does not exist in namespace 'default'" in await refusal(call("nobody"), NotFoundError)

    play(scenario)


def test_an_unknown_exec_is_not_found_and_its_task_is_left_alone(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create(also=task_pb2.CreateTaskRequest(stdin="/in"))
        for call in (shim.state, shim.start, shim.wait, shim.delete, shim.close_io):
            assert "no process 'e1'" in await refusal(call("c1", exec_id="e1"), NotFoundError)
        await refusal(shim.kill(exec_id="e1"), NotFoundError)
        assert await shim.status() == "CREATED"
        assert shim.instances["c1"].signals == []

    play(scenario)


# -------------------------------------------------------------------------------------------------------------- create


def test_create_hands_on_what_containerd_said(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        body = runtime_options_pb2.Options(config_body=b"SystemdCgroup = false\nother = 1").SerializeToString()
        options = Any(type_url="runtimeoptions.v1.Options", value=body)
        request = task_pb2.CreateTaskRequest(
            id="c1", bundle=shim.bundle, stdin="/in", stdout="/out", stderr="/err", options=options, terminal=True
        )
        request.rootfs.add(type="bind", source="/src", target="t", options=["rbind", "ro"])
        payload = await shim.send("Create", request, traceparent="00-1-2-01", other="x")
        assert task_pb2.CreateTaskResponse.FromString(payload).pid == 4321
        assert shim.instances["c1"].config == InstanceConfig(
            bundle=shim.bundle,
            namespace="default",
            stdin="/in",
            stdout="/out",
            stderr="/err",
            terminal=True,
            rootfs=(Mount("bind", "/src", "t", ("rbind", "ro")),),
            options=Encoded("runtimeoptions.v1.Options", body),
            config={"systemd_cgroup": False, "other": 1},
            containerd_address="/run/c.sock",
            trace=TraceContext("00-1-2-01"),
        )
        event = events_pb2.TaskCreate.FromString(shim.events[0][1].value)
        assert (event.container_id, event.pid, event.rootfs[0].source, event.io.stdout) == ("c1", 4321, "/src", "/out")

    play(scenario)


@pytest.mark.parametrize("bad", ["", "a/b", "..", "x" * 77, "a b"])
def test_an_id_that_is_none_is_refused(play: Play, bad: str) -> None:
    async def scenario(shim: Shim) -> None:
        request = task_pb2.CreateTaskRequest(id=bad, bundle=shim.bundle)
        assert "task id" in await refusal(shim.send("Create", request), InvalidArgumentError)
        assert shim.instances == {}

    play(scenario)


@pytest.mark.parametrize("bundle", ["", "relative", "/no/such/bundle", "/etc/passwd", "/a\0b"])
def test_a_bundle_must_be_an_absolute_path_of_a_directory(play: Play, bundle: str) -> None:
    async def scenario(shim: Shim) -> None:
        request = task_pb2.CreateTaskRequest(id="c1", bundle=bundle)
        assert f"bundle {bundle!r}" in await refusal(shim.send("Create", request), InvalidArgumentError)

    play(scenario)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("checkpoint", task_pb2.CreateTaskRequest(checkpoint="/c")),
        ("parent_checkpoint", task_pb2.CreateTaskRequest(parent_checkpoint="/p")),
    ],
)
def test_what_create_cannot_do_is_refused_by_the_fields_name(
    play: Play, name: str, fields: task_pb2.CreateTaskRequest
) -> None:
    async def scenario(shim: Shim) -> None:
        message = await refusal(shim.create(also=fields), UnimplementedError)
        assert f"asks for {name} = " in message
        assert "nor restore" in message
        assert shim.service.task_ids == ()

    play(scenario)


def test_malformed_options_are_refused_and_runcs_are_understood(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        bad = Any(type_url="runtimeoptions.v1.Options", value=b"\xff")
        await refusal(shim.create(also=task_pb2.CreateTaskRequest(options=bad)), InvalidArgumentError)
        value = runc_options_pb2.Options(binary_name="x").SerializeToString()
        options = Any(type_url="containerd.runc.v1.Options", value=value)
        await shim.create(also=task_pb2.CreateTaskRequest(options=options))
        assert shim.instances["c1"].config.config == {"binary_name": "x"}

    play(scenario)


def test_the_systemd_cgroup_driver_can_be_asked_for(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        body = runtime_options_pb2.Options(config_body=b"SystemdCgroup = true").SerializeToString()
        await shim.create(
            also=task_pb2.CreateTaskRequest(options=Any(type_url="runtimeoptions.v1.Options", value=body))
        )
        assert shim.instances["c1"].config.config == {"systemd_cgroup": True}

    play(scenario)


def test_of_two_creates_of_one_id_one_wins(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.create_gate = asyncio.Event()
        first, second = asyncio.ensure_future(shim.create()), asyncio.ensure_future(shim.create())
        await refusal(second, AlreadyExistsError)
        shim.script.create_gate.set()
        assert await first == 4321
        assert shim.topics == ["create"]

    play(scenario)


def test_a_task_being_created_is_seen_but_not_touched(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        gate = asyncio.Event()
        shim.script = Script(create_gate=gate)
        creating = asyncio.ensure_future(shim.create())
        await settle()
        state = await shim.state()
        assert (state.status, state.pid) == (1, 0)
        assert (await shim.connect()).task_pid == 0
        for call in (shim.start, shim.kill, shim.delete, shim.pids):
            assert "being created" in await refusal(call(), FailedPreconditionError)
        waiting = await pending(shim.wait())
        shim.script = Script()
        await shim.create("other")  # waits for nothing of the first one
        gate.set()
        await creating
        await shim.kill()
        assert (await waiting).exit_status == 1

    play(scenario)


def test_a_create_that_fails_leaves_no_task_and_no_event(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.create_error = InvalidArgumentError("config.json: process.args is missing")
        assert await refusal(shim.create(), InvalidArgumentError) == "config.json: process.args is missing"
        assert (shim.service.task_ids, shim.events) == ((), [])
        await refusal(shim.delete(), NotFoundError)
        shim.script.create_error = None
        assert await shim.create() == 4321

    play(scenario)


def test_an_instance_that_cannot_even_be_made_leaves_no_task(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.make_error = OSError(28, "No space left on device")
        await refusal(shim.create(), OSError)
        assert shim.service.task_ids == ()

    play(scenario)


def test_a_wait_begun_while_create_was_failing_returns(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.create_gate, shim.script.create_error = asyncio.Event(), OSError("no")
        creating = asyncio.ensure_future(shim.create())
        await settle()
        waiting = await pending(shim.wait())
        shim.script.create_gate.set()
        await refusal(creating, OSError)
        assert "its Create failed" in await refusal(waiting, NotFoundError)

    play(scenario)


def test_a_create_whose_caller_went_away_goes_on(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.create_gate = asyncio.Event()
        creating = asyncio.ensure_future(shim.create())
        await settle()
        creating.cancel()
        await refusal(creating, asyncio.CancelledError)
        assert shim.service.task_ids == ("c1",)
        shim.script.create_gate.set()
        await settle()
        assert await shim.status() == "CREATED"
        assert shim.topics == ["create"]
        await shim.delete()

    play(scenario)


def test_a_failure_that_nobody_waits_for_is_logged(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.create_gate, shim.script.create_error = asyncio.Event(), InvalidArgumentError("bad spec")
        creating = asyncio.ensure_future(shim.create())
        await settle()
        creating.cancel()
        await refusal(creating, asyncio.CancelledError)
        shim.script.create_gate.set()
        await settle()
        assert shim.service.task_ids == ()

    play(scenario)
    assert "Create of c1 failed, and nobody waits for the answer: bad spec" in caplog.text


def test_work_that_is_cancelled_from_within_is_answered_as_aborted(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.create_error = asyncio.CancelledError()
        assert "Create of c1 was given up" in await refusal(shim.create(), AbortedError)
        assert shim.service.task_ids == ()

    play(scenario)


# ------------------------------------------------------------------------------------------ start, kill, wait, delete


def test_start_answers_with_the_pid_and_queues_its_event_first(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.created_pid, shim.script.started_pid = 0, 99
        assert await shim.create() == 0
        assert await shim.start() == 99
        assert shim.topics == ["create", "start"]
        assert (await shim.state()).pid == 99

    play(scenario)


@pytest.mark.parametrize("signal", [0, 65, 4_294_967_295])
def test_a_signal_that_is_none_is_refused(play: Play, signal: int) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create()
        assert f"signal {signal} " in await refusal(shim.kill(signal=signal), InvalidArgumentError)
        await shim.kill(signal=64, all=True)
        assert shim.instances["c1"].signals == [(64, True)]

    play(scenario)


def test_delete_right_after_wait_has_status_and_time(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        for number in range(50):
            name = f"c{number}"
            await shim.create(name)
            await shim.start(name)
            asyncio.get_running_loop().call_soon(shim.instances[name].exit, number)
            await shim.wait(name)
            response = await shim.delete(name)
            assert (response.pid, response.exit_status) == (4321, number)
            assert response.exited_at.ToDatetime(timezone.utc) == EXITED_AT
            event = events_pb2.TaskDelete.FromString(shim.events[-1][1].value)
            assert (event.exit_status, event.exited_at.ToDatetime(timezone.utc)) == (number, EXITED_AT)

    play(scenario)


def test_a_second_delete_finds_nothing_and_the_id_is_free_again(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create()
        await shim.delete()
        await refusal(shim.delete(), NotFoundError)
        await shim.create()

    play(scenario)


def test_while_a_task_is_being_deleted_its_id_is_taken(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.delete_gate = asyncio.Event()
        await shim.create()
        deleting = await pending(shim.delete())
        assert "being deleted" in await refusal(shim.delete(), FailedPreconditionError)
        await refusal(shim.create(), AlreadyExistsError)
        assert await shim.status() == "STOPPED"
        shim.script.delete_gate.set()
        await deleting

    play(scenario)


def test_a_delete_whose_caller_went_away_goes_on(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        shim.script.delete_gate = asyncio.Event()
        await shim.create()
        deleting = await pending(shim.delete())
        deleting.cancel()
        await settle()
        shim.script.delete_gate.set()
        await settle()
        assert shim.service.task_ids == ()
        assert shim.topics == ["create", "exit", "delete"]

    play(scenario)


def test_a_delete_that_fails_keeps_the_task(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create()
        await shim.kill()
        await shim.wait()
        shim.script.delete_error = OSError(16, "Device or resource busy")
        await refusal(shim.delete(), OSError)
        assert await shim.status() == "STOPPED"
        shim.script.delete_error = None
        assert (await shim.delete()).HasField("exited_at")

    play(scenario)


# ------------------------------------------------------------------------------------------- pids, connect and the rest


def test_pids_tells_which_exec_a_process_is_of(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        async def pids() -> Sequence[ProcessInfo]:
            return (ProcessInfo(4321), ProcessInfo(5, "e1"))

        await shim.create()
        shim.instances["c1"].pids = pids  # type: ignore[method-assign]
        response = task_pb2.PidsResponse.FromString(await shim.send("Pids", task_pb2.PidsRequest(id="c1")))
        assert not response.processes[0].HasField("info")
        info = response.processes[1].info
        assert info.type_url == "containerd.runc.v1.ProcessDetails"
        assert runc_options_pb2.ProcessDetails.FromString(info.value).exec_id == "e1"

    play(scenario)


def test_connect_succeeds_for_a_task_that_does_not_exist(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        answer = await shim.connect("nobody")
        assert (answer.shim_pid, answer.task_pid, answer.version) == (os.getpid(), 0, "1.2")
        await shim.create()
        assert (await shim.connect()).task_pid == 4321

    play(scenario)


def test_state_says_what_create_said(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create(also=task_pb2.CreateTaskRequest(stdin="/in", stdout="/out", stderr="/err"))
        state = await shim.state()
        assert (state.id, state.exec_id, state.bundle, state.pid) == ("c1", "", shim.bundle, 4321)
        assert (state.stdin, state.stdout, state.stderr, state.terminal) == ("/in", "/out", "/err", False)
        assert not state.HasField("exited_at")
        await shim.kill()
        await shim.wait()
        state = await shim.state()
        assert (state.pid, state.exit_status, state.stdout) == (4321, 1, "/out")
        assert state.exited_at.ToDatetime(timezone.utc) == EXITED_AT

    play(scenario)


def test_stats_are_the_instances_whatever_another_task_is_waiting_for(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create()
        shim.script.create_gate = asyncio.Event()
        creating = asyncio.ensure_future(shim.create("slow"))
        await settle()
        stats = await asyncio.wait_for(shim.stats(), timeout=1)
        assert (stats.type_url, stats.value) == ("io.containerd.cgroups.v1.Metrics", b"c1")
        shim.script.create_gate.set()
        await creating

    play(scenario)


def test_standard_input_is_closed_when_there_is_one(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create("without")
        assert await shim.close_io("without") == b""
        assert shim.instances["without"].closed == 0
        await shim.create(also=task_pb2.CreateTaskRequest(stdin="/in"))
        await shim.close_io(stdin=False)
        assert shim.instances["c1"].closed == 0
        await shim.close_io()  # may come before Start
        assert shim.instances["c1"].closed == 1
        await shim.kill()
        await shim.wait()
        await shim.close_io()
        assert shim.instances["c1"].closed == 1

    play(scenario)


# ------------------------------------------------------------------------------------------------------------ shutdown


def test_a_shutdown_with_tasks_left_is_answered_and_ignored(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service_module, "SHUTDOWN_DELAY", 0.0)
    caplog.set_level(logging.DEBUG)

    async def scenario(shim: Shim) -> None:
        await shim.create()
        assert await shim.shutdown() == b""
        await asyncio.sleep(0.01)
        assert shim.shutdowns == 0
        shim.may_shut_down = False
        await shim.delete()
        assert await shim.shutdown() == b""
        await asyncio.sleep(0.01)
        assert shim.shutdowns == 0

    play(scenario)
    assert "staying for c1" in caplog.text


def test_a_shutdown_is_answered_first_and_then_handed_on(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        assert await shim.shutdown() == b""
        await settle()
        assert shim.shutdowns == 0
        await asyncio.sleep(service_module.SHUTDOWN_DELAY + 0.05)
        assert shim.shutdowns == 1

    play(scenario)


def test_a_closed_service_creates_nothing_and_needs_no_second_shutdown(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.shutdown()
        shim.service.close()
        assert "is shutting down" in await refusal(shim.create(), UnavailableError)
        assert await shim.shutdown() == b""
        await asyncio.sleep(service_module.SHUTDOWN_DELAY + 0.05)
        assert shim.shutdowns == 0

    play(scenario)


def test_the_owner_hears_of_each_task_that_is_asked_for_and_forgotten(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.create()
        await refusal(shim.create(), AlreadyExistsError)
        await shim.create("other")
        assert (shim.asked_for, shim.forgotten) == (["c1", "c1", "other"], [])
        await shim.delete()
        shim.script.create_error = OSError("no")
        await refusal(shim.create(), OSError)
        assert shim.forgotten == ["c1", "c1"]

    play(scenario)


def test_a_create_between_a_shutdown_and_its_doing_keeps_the_shim(play: Play) -> None:
    async def scenario(shim: Shim) -> None:
        await shim.shutdown()
        await shim.create()
        await asyncio.sleep(service_module.SHUTDOWN_DELAY + 0.05)
        assert shim.shutdowns == 0

    play(scenario)
