"""Processes of the shim's that do one kind of work, one request at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from containerd_shimkit import InternalError, NotFoundError, UnavailableError
from containerd_shimkit.container.helper import Helper
from containerd_shimkit.shim.reaper import Reaper


def work(request: Any, descriptors: Sequence[int]) -> object:
    kind, value = request
    if kind == "sleep":
        time.sleep(value)
    elif kind == "write":
        os.write(descriptors[0], value)
    elif kind == "raise":
        raise value
    return (os.getpid(), value, len(os.listdir("/proc/self/fd")))


def play(scenario: Callable[[Helper], Awaitable[None]]) -> None:
    async def whole() -> None:
        reaper = Reaper.current()
        helper = Helper("test-helper", work, reaper)
        try:
            await scenario(helper)
            helper.close()
            await asyncio.wait_for(helper._ended, 5)
        finally:
            reaper.stop()
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    asyncio.run(whole())


def test_a_helper_answers_from_a_process_of_its_own_that_ends_when_closed() -> None:
    async def scenario(helper: Helper) -> None:
        pid, value, _ = await helper.ask(("echo", {"any": ("thing", b"\0")}))
        assert (pid, value) == (helper.pid, {"any": ("thing", b"\0")})
        assert pid != os.getpid()
        assert helper.is_alive

    play(scenario)


def test_descriptors_reach_it_and_are_closed_there() -> None:
    async def scenario(helper: Helper) -> None:
        ours, theirs = os.pipe()
        *_, before = await helper.ask(("echo", 0))
        await helper.ask(("write", b"here"), [theirs])
        *_, after = await helper.ask(("echo", 0))
        os.close(theirs)
        assert os.read(ours, 10) == b"here"
        assert os.read(ours, 10) == b"", "nobody holds the other end any more"
        os.close(ours)
        assert before == after

    play(scenario)


@pytest.mark.parametrize(
    ("error", "kind"), [(NotFoundError("no such thing"), NotFoundError), (KeyError("odd"), InternalError)]
)
def test_what_the_work_raises_is_raised_here_and_the_helper_lives_on(error: Exception, kind: type[Exception]) -> None:
    async def scenario(helper: Helper) -> None:
        with pytest.raises(kind, match=r"no such thing|odd"):
            await helper.ask(("raise", error))
        assert (await helper.ask(("echo", 1)))[1] == 1

    play(scenario)


def test_answers_are_not_mixed_up_when_one_who_asked_does_not_wait() -> None:
    async def scenario(helper: Helper) -> None:
        impatient = asyncio.ensure_future(helper.ask(("sleep", 0.1)))
        others = [asyncio.ensure_future(helper.ask(("echo", number))) for number in range(5)]
        await asyncio.sleep(0.02)
        impatient.cancel()
        assert [each[1] for each in await asyncio.wait_for(asyncio.gather(*others), 5)] == list(range(5))

    play(scenario)


def test_a_helper_that_was_killed_is_said_to_have_ended() -> None:
    async def scenario(helper: Helper) -> None:
        asking = asyncio.ensure_future(helper.ask(("sleep", 60)))
        await asyncio.sleep(0.02)
        os.kill(helper.pid, signal.SIGKILL)
        for request in (asking, helper.ask(("echo", 1))):
            with pytest.raises(UnavailableError, match=rf"test-helper \(process {helper.pid}\)"):
                await asyncio.wait_for(request, 5)
        assert not helper.is_alive

    play(scenario)
