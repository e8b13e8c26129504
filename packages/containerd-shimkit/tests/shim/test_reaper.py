"""Children collected in one place, also those that end before anybody knows their pid."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from containerd_shimkit.shim.reaper import Reaper, run_collecting


def play(scenario: Callable[[Reaper], Awaitable[None]]) -> None:
    async def whole() -> None:
        reaper = Reaper.current()
        try:
            await scenario(reaper)
        finally:
            reaper.stop()

    asyncio.run(whole())


def child_that_ends(status: int) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    return pid


async def until_collected(pid: int) -> None:
    async def wait() -> None:
        while os.path.exists(f"/proc/{pid}"):
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), 10)


def test_an_expected_child_that_ended_before_its_pid_was_known_is_not_lost() -> None:
    async def scenario(reaper: Reaper) -> None:
        with reaper.expecting():
            pid = child_that_ends(7)
            await until_collected(pid)
            ended = reaper.watch(pid)
        assert (await asyncio.wait_for(ended, 5)).status == 7

    play(scenario)


def test_what_ended_while_children_were_expected_is_forgotten_with_the_last_expectation() -> None:
    async def scenario(reaper: Reaper) -> None:
        with reaper.expecting():
            with reaper.expecting():
                pid = child_that_ends(7)
                await until_collected(pid)
            assert reaper.watch(pid).done(), "the outer one still expects"
            stranger = child_that_ends(8)
            await until_collected(stranger)
        assert not reaper.watch(stranger).done(), "its pid may be another process's by now"

    play(scenario)


def test_a_signal_reaches_a_watched_child_and_never_a_pid_that_was_collected() -> None:
    async def scenario(reaper: Reaper) -> None:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        ended = reaper.watch(pid)
        assert reaper.kill(pid, signal.SIGKILL)
        assert (await asyncio.wait_for(ended, 5)).status == 128 + signal.SIGKILL
        assert not reaper.kill(pid, signal.SIGKILL)

    play(scenario)


def test_a_program_that_is_no_shim_ends_with_its_children_collected_and_the_signal_given_up() -> None:
    async def work() -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        Reaper.current().watch(pid)
        os.kill(pid, signal.SIGKILL)
        return pid

    pid = run_collecting(work())
    assert not os.path.exists(f"/proc/{pid}")
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
