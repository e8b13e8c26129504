from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from typing import TypeVar

import pytest
from containerd_shimkit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnimplementedError
from containerd_shimkit.instance import Encoded, ExitStatus, Instance, InstanceConfig, ProcessInfo
from containerd_shimkit.proto import events_pb2
from containerd_shimkit.task import task as task_module
from containerd_shimkit.task.state import TaskState
from containerd_shimkit.task.task import Task

EXITED_AT = datetime(2026, 11, 23, 10, 20, 30, 456000, tzinfo=timezone.utc)
ResultT = TypeVar("ResultT")


class Stub(Instance):
    """An instance without a process, whose answers and failures a test sets; a kill ends it with status 1."""

    def __init__(self) -> None:
        super().__init__("c1", InstanceConfig("/bundle", "default", stdin="/in"))
        self.created_pid = self.started_pid = 4321
        self.errors: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.ends_when_killed = self.ends_when_deleted = True
        self.stops_waiting = False
        self.processes: Sequence[ProcessInfo] = ()
        self.signals: list[tuple[int, bool]] = []
        self.end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    def exit(self, status: int) -> None:
        if not self.end.done():
            self.end.set_result(ExitStatus(status, EXITED_AT))

    async def _pass(self, method: str) -> None:
        if method in self.gates:
            await self.gates[method].wait()
        if method in self.errors:
            raise self.errors[method]

    async def create(self) -> int:
        await self._pass("create")
        return self.created_pid

    async def start(self) -> int:
        await self._pass("start")
        return self.started_pid

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        await self._pass("kill")
        if self.end.done():
            raise NotFoundError("it has ended")
        self.signals.append((signal, all))
        if self.ends_when_killed:
            self.exit(1)

    async def delete(self) -> None:
        await self._pass("delete")
        if self.ends_when_deleted:
            self.exit(137)

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        await self._pass("wait_timeout")
        return None if self.stops_waiting else await asyncio.shield(self.end)

    async def pids(self) -> Sequence[ProcessInfo]:
        await self._pass("pids")
        return self.processes

    async def stats(self) -> Encoded:
        return Encoded("some.Metrics")


class Scene:
    """A task, its instance, and the events that it published."""

    def __init__(self) -> None:
        self.stub = Stub()
        self.task = Task("c1", self.stub, self)
        self.events: list[Encoded] = []
        self.topics: list[str] = []

    def publish(self, topic: str, event: Encoded) -> None:
        self.events.append(event)
        self.topics.append(topic.rpartition("/")[2])
        if topic.endswith("/exit"):
            assert self.task.end is not None  # the record comes first

    async def begin(self, method: str, work: Awaitable[ResultT]) -> asyncio.Future[ResultT]:
        """Begin a call that waits inside *method* of the instance; `end` lets it go on."""
        self.stub.gates[method] = asyncio.Event()
        return await pending(work)

    def finish(self, method: str) -> None:
        self.stub.gates.pop(method).set()

    async def run(self) -> None:
        await self.task.create()
        await self.task.start()

    async def stop(self) -> None:
        await self.task.kill(9, True)
        await self.task.wait()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def pending(work: Awaitable[ResultT]) -> asyncio.Future[ResultT]:
    running = asyncio.ensure_future(work)
    await settle()
    assert not running.done()
    return running


async def refusal(work: Awaitable[object], kind: type[BaseException]) -> str:
    with pytest.raises(kind) as caught:
        await work
    return str(caught.value)


def play(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(Scene()), timeout=20)

    asyncio.run(run())


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait seconds for what a stub never reports."""
    monkeypatch.setattr(task_module, "END_GRACE", 0.01)


# -------------------------------------------------------------------------------------------------------------- create


def test_a_task_being_created_can_only_be_looked_at() -> None:
    async def scenario(scene: Scene) -> None:
        creating = await scene.begin("create", scene.task.create())
        for call in (scene.task.start(), scene.task.kill(9, False), scene.task.delete(), scene.task.pids()):
            assert "being created" in await refusal(call, FailedPreconditionError)
        await refusal(scene.task.stats(), NotFoundError)
        waiting = await pending(scene.task.wait())
        scene.finish("create")
        assert await creating == 4321
        await scene.task.kill(9, True)
        assert await waiting == ExitStatus(1, EXITED_AT)

    play(scenario)


def test_a_wait_begun_while_create_was_failing_returns() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors["create"] = OSError("no")
        creating = await scene.begin("create", scene.task.create())
        waiting = await pending(scene.task.wait())
        scene.finish("create")
        await refusal(creating, OSError)
        assert "its Create failed" in await refusal(waiting, NotFoundError)
        assert (scene.task.state, scene.topics) == (TaskState.DELETED, [])

    play(scenario)


# ----------------------------------------------------------------------------------------------------- kills for memory


def test_a_kill_for_memory_is_told_before_the_exit_and_never_outside_of_the_tasks_life() -> None:
    async def scenario(scene: Scene) -> None:
        creating = await scene.begin("create", scene.task.create())
        scene.stub.on_oom()
        scene.finish("create")
        await creating
        assert scene.topics == ["create"]
        await scene.task.start()
        scene.stub.on_oom()
        assert scene.topics == ["create", "start", "oom"]
        assert events_pb2.TaskOOM.FromString(scene.events[2].value).container_id == "c1"
        scene.stub.on_oom()
        scene.stub.exit(137)
        await scene.task.wait()
        scene.stub.on_oom()
        assert scene.topics == ["create", "start", "oom", "oom", "exit"]

    play(scenario)


@pytest.mark.parametrize("fails", [False, True])
def test_a_kill_for_memory_during_the_start_is_told_after_it_and_before_the_exit(fails: bool) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        starting = await scene.begin("start", scene.task.start())
        scene.stub.on_oom()
        scene.stub.exit(137)
        await settle()
        assert scene.topics == ["create"]
        if fails:
            scene.stub.errors["start"] = OSError("no")
        scene.finish("start")
        await asyncio.gather(starting, return_exceptions=True)
        await scene.task.wait()
        assert scene.topics == (["create", "oom", "exit"] if fails else ["create", "start", "oom", "exit"])

    play(scenario)


# --------------------------------------------------------------------------------------------------------------- start


def test_start_is_published_first_even_for_a_program_that_ends_at_once() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        starting = await scene.begin("start", scene.task.start())
        scene.stub.exit(42)
        await settle()
        assert (scene.task.state, scene.topics) == (TaskState.STARTING, ["create"])
        scene.finish("start")
        assert await starting == 4321
        assert await scene.task.wait() == ExitStatus(42, EXITED_AT)
        assert scene.topics == ["create", "start", "exit"]
        assert (scene.task.state, scene.task.pid) == (TaskState.STOPPED, 4321)

    play(scenario)


@pytest.mark.parametrize(("created", "started", "pid"), [(0, 99, 99), (99, 0, 99), (98, 99, 99)])
def test_start_gives_the_pid_that_create_did_not_have(created: int, started: int, pid: int) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.created_pid, scene.stub.started_pid = created, started
        assert await scene.task.create() == created
        assert await scene.task.start() == pid == scene.task.pid
        assert events_pb2.TaskStart.FromString(scene.events[1].value).pid == pid

    play(scenario)


def test_a_task_is_started_once() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        results = await asyncio.gather(scene.task.start(), scene.task.start(), return_exceptions=True)
        assert results[0] == 4321
        assert isinstance(results[1], FailedPreconditionError)
        assert "cannot start a task that is running" in await refusal(scene.task.start(), FailedPreconditionError)
        await scene.stop()
        assert "cannot start a task that is stopped" in await refusal(scene.task.start(), FailedPreconditionError)
        assert scene.topics == ["create", "start", "exit"]

    play(scenario)


def test_a_start_that_fails_ends_the_task_so_that_wait_and_delete_work() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors["start"] = InvalidArgumentError("hook failed")
        await scene.task.create()
        waiting = await pending(scene.task.wait())
        assert await refusal(scene.task.start(), InvalidArgumentError) == "hook failed"
        assert (await waiting).status == 1  # as the stub answers to a kill
        assert scene.stub.signals == [(9, True)]
        assert scene.task.state is TaskState.STOPPED
        assert (await scene.task.delete()).status == 1
        assert scene.topics == ["create", "exit", "delete"]

    play(scenario)


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("created_pid", [0, 4321])
def test_a_failed_start_ends_even_a_task_whose_instance_reports_nothing(created_pid: int) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.created_pid = created_pid
        scene.stub.ends_when_killed = scene.stub.ends_when_deleted = False
        scene.stub.errors["start"] = OSError("no")
        await scene.task.create()
        await refusal(scene.task.start(), OSError)
        assert (await scene.task.wait()).status == 137
        await scene.task.delete()
        # where there never was a process, there is no exit to tell of
        assert scene.topics == ["create", *(["exit"] if created_pid else []), "delete"]

    play(scenario)


@pytest.mark.usefixtures("no_grace")
def test_a_failed_start_survives_a_failing_kill(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors.update(start=OSError("no"), kill=PermissionError("never"))
        await scene.task.create()
        assert await refusal(scene.task.start(), OSError) == "no"
        assert scene.task.state is TaskState.STOPPED

    play(scenario)
    assert "cannot be killed: never" in caplog.text


def test_a_failed_start_of_a_program_that_had_ended_keeps_its_status() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors["start"] = OSError("broken pipe")
        await scene.task.create()
        starting = await scene.begin("start", scene.task.start())
        scene.stub.exit(3)
        scene.finish("start")
        await refusal(starting, OSError)
        assert scene.task.end == ExitStatus(3, EXITED_AT)

    play(scenario)


def test_a_failed_start_is_not_taken_for_ended_before_it_has_been_killed() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors["start"] = OSError("no")
        await scene.task.create()
        starting = await scene.begin("kill", scene.task.start())
        assert "being started" in await refusal(scene.task.delete(), FailedPreconditionError)
        scene.finish("kill")
        await refusal(starting, OSError)
        await scene.task.delete()

    play(scenario)


# ---------------------------------------------------------------------------------------------------------- kill, wait


def test_a_kill_before_the_start_stops_the_task_and_releases_wait() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        waiting = await pending(scene.task.wait())
        await scene.task.kill(15, True)
        assert await waiting == ExitStatus(1, EXITED_AT)
        assert scene.stub.signals == [(15, True)]
        assert (scene.task.state, scene.topics) == (TaskState.STOPPED, ["create", "exit"])

    play(scenario)


def test_a_kill_after_the_end_is_not_found() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.run()
        await scene.stop()
        assert "task 'c1' has ended with status 1" in await refusal(scene.task.kill(9, False), NotFoundError)

    play(scenario)


def test_a_kill_is_not_answered_not_found_before_the_end_is_recorded() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        starting = await scene.begin("start", scene.task.start())
        scene.stub.exit(5)  # the instance knows, but while Start is under way nothing is recorded
        killing = await pending(scene.task.kill(9, False))
        scene.finish("start")
        await starting
        await refusal(killing, NotFoundError)
        assert scene.task.end == ExitStatus(5, EXITED_AT)

    play(scenario)


@pytest.mark.usefixtures("no_grace")
def test_a_kill_of_what_has_no_process_yet_is_a_failed_precondition() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.created_pid, scene.stub.errors["kill"] = 0, NotFoundError("no process")
        await scene.task.create()
        assert "has no process to signal" in await refusal(scene.task.kill(9, False), FailedPreconditionError)
        assert scene.task.state is TaskState.CREATED

    play(scenario)


def test_an_error_of_kill_is_passed_on() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors["kill"] = PermissionError(1, "not permitted")
        await scene.task.create()
        await refusal(scene.task.kill(9, False), PermissionError)

    play(scenario)


def test_any_number_of_callers_wait_and_any_of_them_may_leave() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.run()
        waiting = [await pending(scene.task.wait()) for _ in range(50)]
        for each in waiting[::2]:
            each.cancel()
        await settle()
        scene.stub.exit(7)
        assert set(await asyncio.gather(*waiting[1::2])) == {ExitStatus(7, EXITED_AT)}
        assert await scene.task.wait() == ExitStatus(7, EXITED_AT)

    play(scenario)


@pytest.mark.parametrize("error", [OSError("pidfd"), None])
def test_an_instance_that_cannot_tell_its_end_ends_with_unknown_status(
    caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.stops_waiting = True
        if error is not None:
            scene.stub.errors["wait_timeout"] = error
        await scene.task.create()
        assert (await scene.task.wait()).status == 255

    play(scenario)
    assert "task c1: its instance" in caplog.text


# -------------------------------------------------------------------------------------------------------------- delete


def test_a_running_task_is_not_deleted() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.run()
        assert "cannot delete a task that is running" in await refusal(scene.task.delete(), FailedPreconditionError)
        assert scene.task.state is TaskState.RUNNING

    play(scenario)


def test_of_two_deletes_at_once_one_works() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        deleting = await scene.begin("delete", scene.task.delete())
        for call in (scene.task.delete(), scene.task.start(), scene.task.kill(9, False)):
            assert "being deleted" in await refusal(call, FailedPreconditionError)
        await refusal(scene.task.stats(), NotFoundError)
        scene.finish("delete")
        await deleting
        assert (scene.task.state, scene.topics) == (TaskState.DELETED, ["create", "exit", "delete"])

    play(scenario)


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("starts", [False, True])
def test_a_delete_that_fails_can_be_tried_again(starts: bool) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.task.create()
        if starts:
            await scene.task.start()
            await scene.stop()
        scene.stub.errors["delete"] = OSError(16, "Device or resource busy")
        await refusal(scene.task.delete(), OSError)
        assert scene.task.state is TaskState.STOPPED
        end = await scene.task.wait()
        assert end.status == (1 if starts else 137)
        del scene.stub.errors["delete"]
        assert await scene.task.delete() == end
        assert scene.topics[-2:] == ["exit", "delete"]

    play(scenario)


def test_a_wait_returns_when_a_task_that_never_had_a_process_is_deleted() -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.created_pid, scene.stub.ends_when_deleted = 0, False
        await scene.task.create()
        waiting = await pending(scene.task.wait())
        end = await scene.task.delete()
        assert await waiting == end
        assert (end.status, scene.topics) == (137, ["create", "delete"])

    play(scenario)


def test_the_events_of_exit_and_delete_say_the_same() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.run()
        scene.stub.exit(42)
        await scene.task.wait()
        await scene.task.delete()
        ended = events_pb2.TaskExit.FromString(scene.events[2].value)
        deleted = events_pb2.TaskDelete.FromString(scene.events[3].value)
        assert (ended.container_id, ended.id, ended.pid, ended.exit_status) == ("c1", "c1", 4321, 42)
        assert (deleted.container_id, deleted.id, deleted.pid, deleted.exit_status) == ("c1", "", 4321, 42)
        assert ended.exited_at.ToDatetime(timezone.utc) == deleted.exited_at.ToDatetime(timezone.utc) == EXITED_AT

    play(scenario)


# ---------------------------------------------------------------------------------------------------------------- pids


def test_pids_always_name_the_init() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.run()
        scene.stub.processes = (ProcessInfo(4321), ProcessInfo(4400))
        assert await scene.task.pids() == scene.stub.processes
        scene.stub.processes = (ProcessInfo(4400),)
        assert await scene.task.pids() == (ProcessInfo(4321), ProcessInfo(4400))
        scene.stub.processes = ()
        assert await scene.task.pids() == (ProcessInfo(4321),)

    play(scenario)


@pytest.mark.parametrize("error", [UnimplementedError("no list"), NotFoundError("no cgroup"), OSError(2, "procs")])
def test_the_init_of_a_stopped_task_is_listed_whatever_the_instance_says(error: Exception) -> None:
    async def scenario(scene: Scene) -> None:
        scene.stub.errors["pids"] = error
        await scene.run()
        assert await scene.task.pids() == (ProcessInfo(4321),)
        await scene.stop()
        assert await scene.task.pids() == (ProcessInfo(4321),)

    play(scenario)
