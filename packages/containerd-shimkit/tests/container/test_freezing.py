"""Containers that are paused: made for real."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from containerd_shimkit import AbortedError, FailedPreconditionError
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.linux.cgroup import FreezerState

from .bench import Bench, Play

pytestmark = pytest.mark.root

COUNT = ("/bin/sh", "-c", "while :; do echo; done")


def size(path: Path) -> int:
    return path.stat().st_size


async def counting(bench: Bench) -> tuple[ContainerInstance, Path]:
    """A container that writes to a file without end, and the file."""
    file = bench.directory / "count"
    file.touch()
    container = await bench.running(*COUNT, stdout=str(file))
    while not size(file):
        await asyncio.sleep(0.01)
    return container, file


def test_a_paused_container_stands_still_until_it_is_resumed(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container, file = await counting(bench)
        await container.pause()
        assert container.container._cgroup.freezer_state() is FreezerState.FROZEN
        before = size(file)
        await asyncio.sleep(0.1)
        assert size(file) == before
        await container.resume()
        while size(file) == before:
            await asyncio.sleep(0.01)

    play(scenario)


def test_the_loop_goes_on_while_the_freezer_waits_and_a_failed_pause_lets_all_go_on(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        container, file = await counting(bench)
        group = container.container._cgroup
        freeze = type(group).freeze

        def die_frozen(self: object, timeout: float = 10.0) -> None:
            freeze(group, timeout)
            time.sleep(0.3)
            os._exit(3)

        monkeypatch.setattr(type(group), "freeze", die_frozen)
        pausing = asyncio.ensure_future(container.pause())
        turns = 0
        while not pausing.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 10
        with pytest.raises(AbortedError, match=f"pausing container '{container.id}' failed"):
            await pausing
        before = size(file)
        while size(file) == before:
            await asyncio.sleep(0.01)

    play(scenario)


@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_paused_container_ends_by_sigkill(play: Play, all_of_it: bool) -> None:
    async def scenario(bench: Bench) -> None:
        container, _ = await counting(bench)
        await container.pause()
        await container.kill(signal.SIGTERM)  # for later
        await container.kill(signal.SIGKILL, None, all_of_it)
        ended = await asyncio.wait_for(container.wait_timeout(None), 5)
        assert ended is not None
        assert ended.status == 137

    play(scenario)


def test_a_paused_container_is_deleted_with_what_was_executed_in_it(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container, _ = await counting(bench)
        name = await bench.add(container, "/bin/sleep", "1000")
        await container.start_exec(name)
        late = await bench.add(container, "/bin/true")
        await container.pause()
        with pytest.raises(FailedPreconditionError, match="is paused"):
            await container.start_exec(late)
        ended = asyncio.ensure_future(container.wait_exec(name))
        await asyncio.sleep(0)
        await container.delete()
        assert (await ended).status == 137

    play(scenario)


def test_a_kill_ends_a_pause_that_is_under_way_and_no_later_one_holds_the_killed(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        container, _ = await counting(bench)
        group = container.container._cgroup
        freeze = type(group).freeze

        def freeze_for_ever(self: object, timeout: float = 10.0) -> None:
            while True:
                freeze(group, timeout)

        monkeypatch.setattr(type(group), "freeze", freeze_for_ever)
        pausing = asyncio.ensure_future(container.pause())
        await asyncio.sleep(0.1)
        await container.kill(signal.SIGKILL)
        for pause in (pausing, container.pause()):
            with pytest.raises(FailedPreconditionError, match="cannot be paused: it has been killed"):
                await pause
        ended = await asyncio.wait_for(container.wait_timeout(None), 5)
        assert ended is not None
        assert ended.status == 137

    play(scenario)
