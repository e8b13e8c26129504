"""Work in forked children: their errors, their limits, their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from containerd_shimkit import AbortedError, DeadlineExceededError, InternalError, NotFoundError
from containerd_shimkit.container import worker
from containerd_shimkit.container.worker import Confinement, run_in_child
from containerd_shimkit.linux.user_namespaces import Standing
from containerd_shimkit.shim.reaper import Reaper


async def _children_left() -> int:
    """How many children this process has, once those that have done their work have had time to end."""
    for _ in range(200):
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        await asyncio.sleep(0.01)
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return len(file.read().split())


def play(scenario: Callable[[Reaper], Awaitable[None]]) -> None:
    async def whole() -> None:
        reaper = Reaper.current()
        try:
            await scenario(reaper)
        finally:
            reaper.stop()
        assert await _children_left() == 0

    asyncio.run(whole())


def test_work_is_done_in_another_process_and_its_descriptors_are_kept() -> None:
    reader, writer = os.pipe()

    def work() -> None:
        os.write(writer, str(os.getpid()).encode())

    async def scenario(reaper: Reaper) -> None:
        await run_in_child(work, reaper, what="writing", timeout=10, keep=(writer,))
        assert int(os.read(reader, 20)) != os.getpid()

    play(scenario)
    os.close(reader)
    os.close(writer)


def _write_to_all(data: bytes) -> None:
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with contextlib.suppress(OSError):
                os.write(descriptor, data)


def test_who_says_that_it_is_done_and_goes_on_is_ended() -> None:
    def work() -> None:
        _write_to_all(b'{"kind": "done"}')
        time.sleep(60)

    async def scenario(reaper: Reaper) -> None:
        await run_in_child(work, reaper, what="testing", timeout=10)

    play(scenario)  # which sees that no child is left


def _raise(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "kind", "words"),
    [
        (_raise(NotFoundError("no such thing")), NotFoundError, "no such thing"),
        (_raise(ZeroDivisionError("oops")), InternalError, "ZeroDivisionError: oops"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), AbortedError, "testing failed: .* status 137"),
        (lambda: os._exit(3), AbortedError, "status 3"),
        (lambda: os._exit(0), AbortedError, "status 0"),
        (lambda: _write_to_all(b"{"), AbortedError, "testing failed: .* sent what is no message"),
        (lambda: _write_to_all(b"[1]"), AbortedError, "testing failed: .* sent what is no message"),
        (lambda: _write_to_all(b'{"kind": 1}'), AbortedError, "testing failed: .* sent what is no message"),
        (lambda: _write_to_all(b"[" * 100_000), AbortedError, "testing failed: .* sent what is no message"),
    ],
)
def test_what_goes_wrong_there_is_raised_here(work: Callable[[], None], kind: type[Exception], words: str) -> None:
    async def scenario(reaper: Reaper) -> None:
        with pytest.raises(kind, match=words):
            await run_in_child(work, reaper, what="testing", timeout=10)

    play(scenario)


def test_work_that_takes_too_long_is_ended() -> None:
    async def scenario(reaper: Reaper) -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"sleeping took longer than 0\.1 s"):
            await run_in_child(lambda: time.sleep(60), reaper, what="sleeping", timeout=0.1)
        assert time.monotonic() - began < 10

    play(scenario)


def test_work_whose_caller_is_cancelled_is_ended() -> None:
    async def scenario(reaper: Reaper) -> None:
        working = asyncio.ensure_future(run_in_child(lambda: time.sleep(60), reaper, what="sleeping", timeout=60))
        await asyncio.sleep(0.05)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working

    play(scenario)


@pytest.mark.root
@pytest.mark.parametrize("is_hosts_root", [True, False])
def test_a_confined_child_is_nobody_without_network_and_with_bounds(
    is_hosts_root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        pytest.skip("giving privileges up needs some")
    monkeypatch.setattr(worker, "own_standing", lambda: Standing(is_hosts_root, has_fixed_groups=False))

    def work() -> None:
        status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
        assert status["Uid"].split() == ["65534"] * 4, status
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"
        assert open("/proc/self/net/dev").read().count(":") == 1, "the loopback alone"
        try:
            bytearray(1 << 31)
        except MemoryError:
            return
        raise AssertionError("two gigabytes were to be had")

    async def scenario(reaper: Reaper) -> None:
        await run_in_child(work, reaper, what="testing", timeout=10, confinement=Confinement(1 << 30))

    play(scenario)


def test_a_child_that_was_collected_is_not_signalled() -> None:
    async def scenario(reaper: Reaper) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        ended = reaper.watch(pid)
        assert (await ended).status == 7
        assert not reaper.kill(pid, signal.SIGKILL)

    play(scenario)


def test_orphans_of_strangers_are_collected_without_anybodys_notice() -> None:
    async def scenario(reaper: Reaper) -> None:
        if os.fork() == 0:
            os._exit(0)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not _has_zombies():
                return
        raise AssertionError("a zombie was left")

    play(scenario)


def _has_zombies() -> bool:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return bool(file.read().split())
