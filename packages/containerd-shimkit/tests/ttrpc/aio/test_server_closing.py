"""How a server ends: idle connections at once, busy ones in time, the listener never."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from containerd_shimkit import errors
from containerd_shimkit.ttrpc.aio import Call, Client, Handler, Server, server

SERVICE = "containerd.task.v2.Task"


async def _echo(call: Call, payload: bytes) -> bytes:
    del call
    return payload


@contextlib.asynccontextmanager
async def _serving(address: str, handlers: Mapping[str, Handler]) -> AsyncIterator[Server]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        serving = Server({SERVICE: {"Echo": _echo, **handlers}})
        serving.start(listener)
        yield serving
        await serving.close(0)


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(bounded())


def test_closing_ends_idle_connections_at_once_and_waits_for_busy_ones(address: str) -> None:
    async def test() -> None:
        release = asyncio.Event()

        async def delete(call: Call, payload: bytes) -> bytes:
            await release.wait()
            return b"deleted"

        async with _serving(address, {"Delete": delete}) as serving:
            idle, busy = await Client.connect(address), await Client.connect(address)
            answer = asyncio.ensure_future(busy.call(SERVICE, "Delete", b""))
            await idle.call(SERVICE, "Echo", b"")
            closing = asyncio.ensure_future(serving.close(10))
            await asyncio.wait_for(idle.wait_closed(), 1)
            with pytest.raises(errors.UnavailableError, match="the shim is shutting down"):
                await busy.call(SERVICE, "Echo", b"")
            assert not closing.done()
            release.set()
            assert await answer == b"deleted"
            await asyncio.wait_for(closing, 1)
            await asyncio.wait_for(busy.wait_closed(), 1)

    _run(test)


def test_closing_cancels_what_outlasts_the_grace(address: str) -> None:
    heard: list[str] = []

    async def wait(call: Call, payload: bytes) -> bytes:
        try:
            await asyncio.sleep(60)
        finally:
            heard.append("cancelled")
            await asyncio.sleep(0.02)
            heard.append("cleaned up")
        return b""

    async def test() -> None:
        async with _serving(address, {"Wait": wait}) as serving:
            client = await Client.connect(address)
            waiting = asyncio.ensure_future(client.call(SERVICE, "Wait", b""))
            await asyncio.sleep(0.05)
            await serving.close(0.05)
            assert heard == ["cancelled", "cleaned up"]
            with pytest.raises(errors.UnavailableError, match="was closed by the other side"):
                await waiting
            await client.close()

    _run(test)


def test_closing_does_not_wait_for_ever_for_a_handler_that_will_not_end(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_UNWINDING", 0.05)

    async def test() -> None:
        release = asyncio.Event()

        async def stubborn(call: Call, payload: bytes) -> bytes:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await release.wait()
            return b""

        async with _serving(address, {"Stubborn": stubborn}) as serving:
            client = await Client.connect(address)
            waiting = asyncio.ensure_future(client.call(SERVICE, "Stubborn", b""))
            await asyncio.sleep(0.05)
            await asyncio.wait_for(serving.close(0.01), 1)
            with pytest.raises(errors.UnavailableError):
                await waiting
            release.set()
            while serving._peers:
                await asyncio.sleep(0.005)
            await client.close()

    _run(test)
    assert "1 connections were left while their handlers ignore being cancelled" in caplog.text


def test_the_listener_and_its_path_stay_the_callers(address: str) -> None:
    async def test() -> None:
        async with _serving(address, {}) as serving:
            early = await Client.connect(address)
            assert await early.call(SERVICE, "Echo", b"x") == b"x"
            serving.stop_accepting()
            late = await Client.connect(address)
            with pytest.raises(errors.DeadlineExceededError):
                await late.call(SERVICE, "Echo", b"", timeout=0.05)
            await late.close()
            assert await early.call(SERVICE, "Echo", b"x") == b"x"
            await serving.close()
            await serving.close()
            assert Path(address).is_socket()
            await early.close()

    _run(test)


def test_a_server_has_one_listener(address: str) -> None:
    async def test() -> None:
        async with _serving(address, {}) as serving:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as another:
                with pytest.raises(ValueError, match="has been started already"):
                    serving.start(another)

    _run(test)


def test_a_server_that_was_never_started_can_be_closed() -> None:
    _run(lambda: Server({}).close())
