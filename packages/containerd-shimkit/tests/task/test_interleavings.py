"""Whatever containerd calls, in whatever order, and whatever fails or ends meanwhile: what it is told is consistent."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from containerd_shimkit.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, ShimError
from containerd_shimkit.instance import Encoded, ExitStatus, Instance, InstanceConfig
from containerd_shimkit.proto import events_pb2, task_pb2
from containerd_shimkit.task.service import SERVICES, TaskService
from containerd_shimkit.ttrpc.aio.server import Call, Handler
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

IDS = ("a", "b")
LETTERS = {
    "/tasks/create": "C",
    "/tasks/start": "S",
    "/tasks/oom": "O",
    "/tasks/paused": "P",
    "/tasks/resumed": "R",
    "/tasks/exit": "X",
    "/tasks/delete": "D",
}
# an exit without a start: of a waiting process that was killed, or failed to start
LIVES = re.compile(r"(C(O*(SO*(PO*RO*)*(PO*)?)?X)?D)*")
EVENTS: Mapping[str, type[Message]] = {
    "C": events_pb2.TaskCreate,
    "S": events_pb2.TaskStart,
    "O": events_pb2.TaskOOM,
    "P": events_pb2.TaskPaused,
    "R": events_pb2.TaskResumed,
    "X": events_pb2.TaskExit,
    "D": events_pb2.TaskDelete,
}


class InjectedError(ShimError):
    """A failure that the test asked for."""


@dataclass(frozen=True)
class Step:
    """Something that happens some turns of the loop after the step before it; a call may be cancelled after a while."""

    what: str
    id: str
    turns: int
    cancelled_after: int | None


@dataclass(frozen=True)
class Plan:
    """How the instances behave: how many turns each method takes, and which of their calls fail."""

    steps: list[Step]
    turns: list[int]
    failing: list[bool]
    created_pid: int


# what leads on comes more often than what ends or only looks: most tasks are to come as far as a start
KINDS = (
    *("Create", "Start", "Start", "Kill", "Wait", "Delete", "State", "Pids", "Stats", "exit", "exit"),
    *("Pause", "Pause", "Resume", "Resume", "Update", "oom"),
)

steps = st.builds(
    Step,
    what=st.sampled_from(KINDS),
    id=st.sampled_from(IDS),
    turns=st.integers(0, 8),
    cancelled_after=st.none() | st.integers(0, 6),
)
plans = st.builds(
    Plan,
    steps=st.lists(steps, min_size=6, max_size=24),
    turns=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    failing=st.lists(st.sampled_from([False] * 5 + [True]), min_size=1, max_size=12),
    created_pid=st.sampled_from([0, 77]),
)


@dataclass
class World:
    """The service under test, what it published, and what its instances are to do next."""

    plan: Plan
    bundle: str
    published: list[tuple[str, Message]] = field(default_factory=list[tuple[str, Message]])
    instances: dict[str, PlannedInstance] = field(default_factory=dict[str, "PlannedInstance"])
    calls: int = 0
    fails: bool = True

    def __post_init__(self) -> None:
        service = TaskService("ns", self.make, self, on_shutdown=lambda: None)
        self.service = service
        self.handlers: Mapping[str, Handler] = service.services()[SERVICES[0]]

    def make(self, id: str, config: InstanceConfig) -> Instance:  # noqa: A002
        self.instances[id] = PlannedInstance(id, config, self)
        return self.instances[id]

    async def meanwhile(self) -> None:
        """Take the turns of the next call of an instance, and fail if it is to."""
        self.calls += 1
        for _ in range(self.plan.turns[self.calls % len(self.plan.turns)]):
            await asyncio.sleep(0)
        if self.fails and self.plan.failing[self.calls % len(self.plan.failing)]:
            raise InjectedError("injected")

    def publish(self, topic: str, event: Encoded) -> None:
        letter = LETTERS[topic]
        message = EVENTS[letter].FromString(event.value)
        self.published.append((letter, message))
        if isinstance(message, events_pb2.TaskExit):
            self.check_recorded(message)

    def check_recorded(self, event: events_pb2.TaskExit) -> None:
        state = self.now(self.state(event.container_id))
        assert state.status == 3, "TaskExit was published before the end was recorded"
        assert (state.exit_status, state.exited_at, state.pid) == (event.exit_status, event.exited_at, event.pid)

    async def send(self, method: str, request: Message) -> bytes:
        return await self.handlers[method](Call(SERVICES[0], method, {}, None), request.SerializeToString())

    async def state(self, id: str) -> task_pb2.StateResponse:  # noqa: A002
        return task_pb2.StateResponse.FromString(await self.send("State", task_pb2.StateRequest(id=id)))

    @staticmethod
    def now(work: Coroutine[object, object, task_pb2.StateResponse]) -> task_pb2.StateResponse:
        """Run a coroutine that must not have to wait for anything."""
        try:
            work.send(None)
        except StopIteration as done:
            response: task_pb2.StateResponse = done.value
            return response
        raise AssertionError("State waited for something")

    def letters(self, id: str) -> str:  # noqa: A002
        return "".join(letter for letter, event in self.published if getattr(event, "container_id", None) == id)

    # ------------------------------------------------------------------------------- the steps, with what must hold

    async def create(self, id: str) -> None:  # noqa: A002
        before = self.letters(id).count("C")
        await self.send("Create", task_pb2.CreateTaskRequest(id=id, bundle=self.bundle))
        assert self.letters(id).count("C") > before, "Create was answered before TaskCreate was queued"

    async def start(self, id: str) -> None:  # noqa: A002
        before = self.letters(id).count("S")
        await self.send("Start", task_pb2.StartRequest(id=id))
        assert self.letters(id).count("S") > before, "Start was answered before TaskStart was queued"

    async def kill(self, id: str) -> None:  # noqa: A002
        instance = self.instances.get(id)
        try:
            await self.send("Kill", task_pb2.KillRequest(id=id, signal=9))
        except NotFoundError:
            if id in self.service.task_ids and self.instances[id] is instance:  # not a later task of that id
                assert self.now(self.state(id)).HasField("exited_at"), "NOT_FOUND before the end was recorded"
            raise

    async def wait(self, id: str) -> None:  # noqa: A002
        answer = task_pb2.WaitResponse.FromString(await self.send("Wait", task_pb2.WaitRequest(id=id)))
        assert answer.HasField("exited_at")
        if id in self.service.task_ids and self.now(self.state(id)).status == 3:
            deleted = await self.delete(id)
            assert deleted.exited_at == answer.exited_at or self.letters(id).count("C") > 1

    async def delete(self, id: str) -> task_pb2.DeleteResponse:  # noqa: A002
        before = self.letters(id).count("D")
        answer = task_pb2.DeleteResponse.FromString(await self.send("Delete", task_pb2.DeleteRequest(id=id)))
        assert answer.HasField("exited_at")
        assert self.letters(id).count("D") > before, "Delete was answered before TaskDelete was queued"
        return answer

    async def pause(self, id: str) -> None:  # noqa: A002
        before = self.letters(id).count("P")
        await self.send("Pause", task_pb2.PauseRequest(id=id))
        assert self.letters(id).count("P") > before, "Pause was answered before TaskPaused was queued"

    async def resume(self, id: str) -> None:  # noqa: A002
        before = self.letters(id).count("R")
        await self.send("Resume", task_pb2.ResumeRequest(id=id))
        assert self.letters(id).count("R") > before, "Resume was answered before TaskResumed was queued"

    async def take(self, step: Step) -> None:
        lookups = {"Pids": task_pb2.PidsRequest, "Stats": task_pb2.StatsRequest, "Update": task_pb2.UpdateTaskRequest}
        calls: Mapping[str, Callable[[str], Awaitable[object]]] = {
            "Create": self.create,
            "Start": self.start,
            "Kill": self.kill,
            "Wait": self.wait,
            "Delete": self.delete,
            "Pause": self.pause,
            "Resume": self.resume,
            "State": self.state,
        }
        if step.what == "exit":
            if step.id in self.instances:
                self.instances[step.id].exit(42)
        elif step.what == "oom":
            if step.id in self.instances:
                self.instances[step.id].on_oom()
        elif step.what in lookups:
            await self.send(step.what, lookups[step.what](id=step.id))
        else:
            await calls[step.what](step.id)


class PlannedInstance(Instance):
    """An instance whose every method takes the turns that the plan gives it, and fails when the plan says so."""

    def __init__(self, id: str, config: InstanceConfig, world: World) -> None:  # noqa: A002
        super().__init__(id, config)
        self.world = world
        self.end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    def exit(self, status: int) -> None:
        if not self.end.done():
            at = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=self.world.calls)
            self.end.set_result(ExitStatus(status, at))

    async def create(self) -> int:
        await self.world.meanwhile()
        return self.world.plan.created_pid

    async def start(self) -> int:
        await self.world.meanwhile()
        return 77

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        for _ in range(self.world.plan.turns[0]):
            await asyncio.sleep(0)
        if self.end.done():
            raise NotFoundError("ended")
        self.exit(128 + signal)

    async def delete(self) -> None:
        self.exit(137)  # what is left is ended first, whatever fails behind that
        await self.world.meanwhile()

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        end = await asyncio.shield(self.end)
        for _ in range(self.world.plan.turns[-1]):
            await asyncio.sleep(0)
        return end

    async def pause(self) -> None:
        await self.world.meanwhile()

    async def resume(self) -> None:
        await self.world.meanwhile()

    async def update(self, resources: Encoded, annotations: Mapping[str, str]) -> None:
        await self.world.meanwhile()

    async def stats(self) -> Encoded:
        await self.world.meanwhile()
        return Encoded("x", b"")


async def cut_short(work: Coroutine[object, object, None], turns: int | None) -> None:
    """Run a call, cancelled after some turns as if its connection had ended; only lawful errors may come of it."""
    running = asyncio.ensure_future(work)
    for _ in range(turns or 0):
        await asyncio.sleep(0)
    if turns is not None:
        running.cancel()
    try:
        await running
    except FailedPreconditionError as error:
        if not re.match(
            "cannot (start|kill|delete|list|pause|finish pausing|resume|change)", str(error)
        ):  # a refusal of what nobody asked for
            raise
    except (AlreadyExistsError, NotFoundError, InjectedError):
        pass
    except asyncio.CancelledError:
        assert turns is not None, "a call was cancelled by itself"


async def clean_up(world: World, calls: list[asyncio.Future[None]]) -> None:
    """End and delete whatever there is, as containerd does, until every call has returned; nothing fails any more."""
    world.fails = False
    for _ in range(1000):
        for left in world.service.task_ids:
            for what in ("Kill", "Delete"):
                await cut_short(world.take(Step(what, left, 0, None)), None)
        if not world.service.task_ids and all(call.done() for call in calls):
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{world.service.task_ids} could not be deleted, or a call hangs")


async def play(plan: Plan, bundle: str) -> None:
    world = World(plan, bundle)
    calls: list[asyncio.Future[None]] = []
    for step in (*(Step("Create", each, 0, None) for each in IDS), *plan.steps):
        for _ in range(step.turns):
            await asyncio.sleep(0)
        calls.append(asyncio.ensure_future(cut_short(world.take(step), step.cancelled_after)))
    await clean_up(world, calls)
    await asyncio.gather(*calls)
    check_events(world)


def check_events(world: World) -> None:
    for each in IDS:
        assert LIVES.fullmatch(world.letters(each)), world.letters(each)
    ends: dict[str, events_pb2.TaskExit] = {}
    for _, event in world.published:
        if isinstance(event, events_pb2.TaskCreate):
            ends.pop(event.container_id, None)
        elif isinstance(event, events_pb2.TaskExit):
            ends[event.container_id] = event
        elif isinstance(event, events_pb2.TaskDelete) and (end := ends.get(event.container_id)):
            assert (event.pid, event.exit_status, event.exited_at) == (end.pid, end.exit_status, end.exited_at)


@settings(max_examples=200, deadline=None)
@given(plan=plans)
def test_events_and_answers_agree_under_any_interleaving(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as bundle:
        asyncio.run(asyncio.wait_for(play(plan, bundle), timeout=30))
