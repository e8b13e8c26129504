"""Kills for memory, heard of before the exits that they cause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from containerd_shimkit import FailedPreconditionError
from containerd_shimkit.container import oom_listener
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.linux.oom import OomWatch

from .bench import Bench, Play

pytestmark = pytest.mark.root

HOG = "x=0123456789; while :; do x=$x$x; done"
MIB = 1 << 20


def limited(spec: dict[str, Any]) -> None:
    spec["linux"]["resources"] = {"memory": {"limit": 16 * MIB}}


async def heard_by(bench: Bench, script: str) -> tuple[ContainerInstance, list[str]]:
    """A container that has been started, and what is told of it in order."""
    told: list[str] = []
    container = await bench.container("/bin/sh", "-c", script, change=limited)
    container.on_oom = lambda: told.append("oom")
    container.container.exited.add_done_callback(lambda _: told.append("exit"))
    await container.start()
    return container, told


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come")


@pytest.mark.parametrize("pause", ["", "sleep 0.3; "])
def test_a_program_that_takes_too_much_is_told_of_once_before_its_exit(play: Play, pause: str) -> None:
    async def scenario(bench: Bench) -> None:
        container, told = await heard_by(bench, pause + HOG)
        ended = await container.wait_timeout(10)
        assert ended is not None
        assert ended.status == 137
        assert told == ["oom", "exit"]

    play(scenario)


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_a_process_beside_the_init_is_told_of_while_that_goes_on(
    play: Play, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    # with the longer delay it is killed before anybody listens
    monkeypatch.setattr(oom_listener, "_DELAY", delay)

    async def scenario(bench: Bench) -> None:
        container, told = await heard_by(bench, f"({HOG}); sleep 1000")
        await until(lambda: bool(told))
        await asyncio.sleep(0.1)
        assert told == ["oom"]
        await container.delete()
        assert told == ["oom", "exit"]

    play(scenario)


def test_what_ends_by_itself_or_by_a_kill_is_not_told_of(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for script in ("exit 3", "sleep 0.2", "kill -9 $$"):
            container, told = await heard_by(bench, script)
            await container.wait_timeout(10)
            assert told == ["exit"]

    play(scenario)


def test_who_cannot_listen_says_so_and_looks_at_the_end(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        def refuse(self: object) -> OomWatch:
            raise FailedPreconditionError("too many listen already")

        container, told = await heard_by(bench, f"sleep 0.3; {HOG}")
        monkeypatch.setattr(type(container.container._cgroup), "watch_oom", refuse)
        with caplog.at_level(logging.WARNING):
            await container.wait_timeout(10)
        assert told == ["oom", "exit"]
        assert "told at its end at best: too many listen already" in caplog.text

    play(scenario)
