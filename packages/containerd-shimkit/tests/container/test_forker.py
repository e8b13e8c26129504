"""Who forks a container's init, and that it is always the shim's own child."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest
from containerd_shimkit.container import forker as module
from containerd_shimkit.container.channel import Channel
from containerd_shimkit.container.executor import Executor, LinuxExecutor
from containerd_shimkit.container.forker import Forker
from containerd_shimkit.container.init import InitTask
from containerd_shimkit.container.plan import plan_container
from containerd_shimkit.container.steps import steps_of
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec
from containerd_shimkit.shim.reaper import Reaper


def short_life(task: InitTask) -> NoReturn:
    """An init that says who its parent is and ends at once."""
    os.write(task.stdio[1], f"{os.getppid()}\n".encode())
    os._exit(int(task.annotations["status"]))


class Births:
    """Forks inits that end at once, and keeps what they say."""

    def __init__(self, reaper: Reaper) -> None:
        self.reaper = reaper
        self.forker = Forker(reaper)
        self.reader, self._writer = os.pipe()

    async def birth(self, status: int, executor: Executor | None = None) -> tuple[int, int]:
        """Fork one; its exit status and the pid of its parent."""
        document = default_spec(["/app"])
        document["linux"]["namespaces"] = [each for each in document["linux"]["namespaces"] if each["type"] != "pid"]
        plan = plan_container(parse_spec(json.dumps(document)), "/bundle")
        ours, theirs = Channel.pair()
        streams = (self._writer, self._writer, self._writer)
        annotations = {"status": str(status)}
        chosen = executor or LinuxExecutor.of(plan.process_spec)
        task = InitTask(steps_of(plan), annotations, (), CgroupV1({}), streams, theirs, chosen)
        with self.reaper.expecting():
            pid = await self.forker.fork(task, plan.pid_namespace)
            ended = self.reaper.watch(pid)
        ours.close()
        theirs.close()
        found = (await asyncio.wait_for(ended, 5)).status
        return found, int(os.read(self.reader, 20))

    @property
    def helper(self) -> int:
        assert self.forker._helper is not None
        return self.forker._helper.pid


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Births], Awaitable[None]]], None]:
    monkeypatch.setattr(module, "run_init", short_life)

    def run(scenario: Callable[[Births], Awaitable[None]]) -> None:
        async def whole() -> None:
            births = Births(Reaper.current())
            try:
                await scenario(births)
            finally:
                births.forker._let_helper_go()
                await asyncio.sleep(0.05)
                births.reaper.stop()

        asyncio.run(whole())

    return run


Play = Callable[[Callable[[Births], Awaitable[None]]], None]


def test_every_init_is_the_shims_child_with_its_own_exit_status_even_when_it_dies_at_once(play: Play) -> None:
    async def scenario(births: Births) -> None:
        for status in range(30):
            assert await births.birth(status) == (status, os.getpid())
        assert births.helper != os.getpid()

    play(scenario)


def test_a_small_pod_has_no_helper(play: Play) -> None:
    async def scenario(births: Births) -> None:
        for _ in range(2):
            await births.birth(0)
        assert births.forker._helper is None

    play(scenario)


def test_after_its_helper_was_killed_the_next_init_is_forked_all_the_same(play: Play) -> None:
    async def scenario(births: Births) -> None:
        for _ in range(3):
            await births.birth(0)
        killed = births.helper
        os.kill(killed, signal.SIGKILL)
        assert await births.birth(5) == (5, os.getpid())
        assert await births.birth(6) == (6, os.getpid())
        assert births.helper != killed

    play(scenario)


class Unpicklable(LinuxExecutor):
    def __init__(self) -> None:
        self.callback = lambda: None


def test_an_executor_that_cannot_be_sent_is_forked_by_the_shim_itself(play: Play) -> None:
    async def scenario(births: Births) -> None:
        for status in range(5):
            assert await births.birth(status, Unpicklable()) == (status, os.getpid())

    play(scenario)


class Derived(LinuxExecutor):
    pass


def test_a_derived_executor_arrives_as_what_it_is() -> None:
    packed = module._executor_packed(Derived(("/app",), {}))
    assert isinstance(packed, bytes)
    assert type(pickle.loads(packed)) is Derived
    assert module._executor_packed(LinuxExecutor(("/app",), {"A": "1"}, ("/bin/app",))) == (
        "linux",
        (("/app",), {"A": "1"}, ("/bin/app",)),
    )


def test_an_environment_that_no_message_holds_is_not_sent(play: Play) -> None:
    async def scenario(births: Births) -> None:
        for _ in range(3):
            await births.birth(0)
        helper = births.helper
        big = LinuxExecutor(("/app",), {"A": "x" * 200_000})
        assert await births.birth(4, big) == (4, os.getpid())
        assert await births.birth(5) == (5, os.getpid())
        assert births.helper == helper, "it is as good as before"

    play(scenario)


def test_a_helper_from_before_a_renewal_forks_nothing_any_more(play: Play) -> None:
    async def scenario(births: Births) -> None:
        for _ in range(3):
            await births.birth(0)
        before = births.helper
        Forker.renew()
        assert await births.birth(1) == (1, os.getpid())
        assert births.helper != before

    play(scenario)
