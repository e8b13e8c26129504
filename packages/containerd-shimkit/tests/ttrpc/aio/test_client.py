"""The asyncio client against servers that are absent, slow, wrong or gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from containerd_shimkit import errors
from containerd_shimkit.ttrpc import (
    MAX_DATA_SIZE,
    Code,
    Connection,
    Frame,
    FrameType,
    RequestReceived,
    Role,
    Status,
    encode_frame,
)
from containerd_shimkit.ttrpc.aio import Client, client, parse_address
from containerd_shimkit.ttrpc.envelope import encode_response


class _Scripted:
    """A server that does nothing by itself: the test takes requests from it and writes what it likes."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.core = Connection(Role.SERVER)
        self.peer = socket.socket()

    async def accept(self) -> None:
        self.peer.close()
        self.peer, _ = await asyncio.get_running_loop().sock_accept(self.listener)

    async def requests(self, count: int) -> list[RequestReceived]:
        received: list[RequestReceived] = []
        while len(received) < count:
            data = await asyncio.get_running_loop().sock_recv(self.peer, 1 << 20)
            assert data, "the client has closed the connection"
            events = self.core.receive_data(data)
            received += [event for event in events if isinstance(event, RequestReceived)]
        return received

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, data)


@contextlib.asynccontextmanager
async def _scripted(address: str) -> AsyncIterator[tuple[_Scripted, Client]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(address)
        listener.listen()
        server = _Scripted(listener)
        caller = await Client.connect(address)
        try:
            await server.accept()
            yield server, caller
        finally:
            await caller.close()
            server.peer.close()


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(bounded())


def _calling(caller: Client, payload: bytes = b"p", timeout: float | None = None) -> asyncio.Task[bytes]:
    return asyncio.get_running_loop().create_task(caller.call("s", "m", payload, timeout=timeout))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("unix:///run/s.sock", "/run/s.sock"),
        ("/run/s.sock", "/run/s.sock"),
        ("@shim", "\0shim"),
        ("\0shim", "\0shim"),
        ("unix://@shim", "\0shim"),
        ("/" + "x" * 106, "/" + "x" * 106),
    ],
)
def test_addresses_are_read_as_containerd_writes_them(address: str, name: str) -> None:
    assert parse_address(address) == name


@pytest.mark.parametrize(
    "address", ["", "unix://", "run/s.sock", "tcp://127.0.0.1:1", "@", "/", "/a\0b", "vsock://1:2"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="is not the address of a unix socket: give unix:///path"):
        parse_address(address)


def test_an_address_that_is_too_long_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="has 108 bytes: the kernel takes 107"):
        parse_address("/" + "ü" * 53 + "x")


def test_connecting_to_nobody_fails_at_once(address: str) -> None:
    async def test() -> None:
        begun = time.monotonic()
        with pytest.raises(errors.UnavailableError, match=f"cannot connect to {address}: .*No such file"):
            await Client.connect(address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(address)
        with pytest.raises(errors.UnavailableError, match=f"cannot connect to unix://{address}: .*refused"):
            await Client.connect(f"unix://{address}")
        assert time.monotonic() - begun < 2

    _run(test)


def test_connecting_waits_for_room_in_the_backlog(address: str) -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen(0)
            listener.setblocking(False)
            first = await Client.connect(address)
            with pytest.raises(errors.UnavailableError, match=r"its backlog stayed full for 0\.05 s"):
                await Client.connect(address, 0.05)
            second = asyncio.ensure_future(Client.connect(address))
            await asyncio.sleep(0.05)
            assert not second.done()
            listener.accept()[0].close()
            await (await second).close()
            listener.accept()[0].close()
            await first.close()

    _run(test)


def test_an_abstract_address_is_connected_to() -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"\0ttrpc-test-{os.getpid()}")
            listener.listen()
            caller = await Client.connect(f"@ttrpc-test-{os.getpid()}")
            assert not caller.closed
            await caller.close()
            assert caller.closed

    _run(test)


def test_answers_find_their_calls_in_any_order(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            calls = [_calling(caller, payload) for payload in (b"1", b"2", b"3")]
            requests = await server.requests(3)
            assert [request.stream_id for request in requests] == [1, 3, 5]
            for request in reversed(requests):
                await server.send(server.core.send_response(request.stream_id, request.request.payload))
            assert await asyncio.gather(*calls) == [b"1", b"2", b"3"]

    _run(test)


@pytest.mark.parametrize("code", [code for code in Code if code])
def test_a_failure_becomes_the_kind_of_its_code(address: str, code: Code) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            call = _calling(caller)
            await server.requests(1)
            await server.send(server.core.send_response(1, Status(code, "why")))
            with pytest.raises(errors.ShimError, match=r"^why$"):
                await call

    _run(test)


def test_a_deadline_ends_the_call_and_its_late_answer_is_ignored(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            call = _calling(caller, timeout=0.05)
            (request,) = await server.requests(1)
            assert request.request.timeout_nano == 50_000_000
            with pytest.raises(errors.DeadlineExceededError, match=f"^s/m at {address} did not answer in time$"):
                await call
            second = _calling(caller)
            await server.requests(1)
            await server.send(server.core.send_response(1, b"late") + server.core.send_response(3, b"now"))
            assert await second == b"now"

    _run(test)


@pytest.mark.parametrize(("timeout", "nanoseconds"), [(1e-12, 1), (1e30, 2**63 - 1), (None, 0)])
def test_a_timeout_is_sent_as_a_positive_int64_or_not_at_all(
    address: str, timeout: float | None, nanoseconds: int
) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            call = _calling(caller, timeout=timeout)
            (request,) = await server.requests(1)
            assert request.request.timeout_nano == nanoseconds
            call.cancel()

    _run(test)


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_a_deadline_that_has_passed_sends_nothing(address: str, timeout: float) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            with pytest.raises(errors.DeadlineExceededError):
                await caller.call("s", "m", b"", timeout=timeout)
            _calling(caller, b"x").add_done_callback(lambda call: call.cancelled() or call.exception())
            assert [request.request.payload for request in await server.requests(1)] == [b"x"]

    _run(test)


def test_a_call_that_is_cancelled_leaves_the_others_alone(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            given_up, stays = _calling(caller), _calling(caller)
            await server.requests(2)
            given_up.cancel()
            await asyncio.wait([given_up])
            await server.send(server.core.send_response(1, b"late") + server.core.send_response(3, b"fine"))
            assert await stays == b"fine"
            assert given_up.cancelled()

    _run(test)


def test_the_servers_end_fails_every_call(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            calls = [_calling(caller), _calling(caller)]
            await server.requests(2)
            server.peer.close()
            why = f"^the connection to {address} was closed by the other side$"
            for call in calls:
                with pytest.raises(errors.UnavailableError, match=why):
                    await call
            await caller.wait_closed()
            assert caller.closed
            with pytest.raises(errors.UnavailableError, match=why):
                await caller.call("s", "m", b"")

    _run(test)


def test_a_connection_that_is_reset_says_so(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            call = _calling(caller)
            await asyncio.sleep(0.02)
            server.peer.close()  # with our request unread: the kernel resets the connection
            with pytest.raises(errors.UnavailableError, match=r"was lost: .*reset"):
                await call

    _run(test)


def test_closing_fails_the_calls_in_progress(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            call = _calling(caller)
            await server.requests(1)
            await caller.close()
            await caller.close()
            with pytest.raises(errors.UnavailableError, match="was closed on this side"):
                await call

    _run(test)


def test_an_answer_that_is_too_long_or_senseless_fails_its_call_only(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            too_long, senseless, fine = _calling(caller), _calling(caller), _calling(caller)
            await server.requests(3)
            size = MAX_DATA_SIZE + 1
            await server.send(size.to_bytes(4, "big") + b"\x00\x00\x00\x01\x02\x00" + bytes(size))
            await server.send(encode_frame(Frame(3, FrameType.RESPONSE, b"\xff")))
            await server.send(encode_frame(Frame(5, FrameType.RESPONSE, encode_response(b"fine"))))
            with pytest.raises(errors.ResourceExhaustedError, match="the response of 4194305 bytes"):
                await too_long
            with pytest.raises(errors.InternalError, match="cannot be decoded"):
                await senseless
            assert await fine == b"fine"

    _run(test)


def test_a_request_that_is_too_long_is_not_sent(address: str) -> None:
    async def test() -> None:
        async with _scripted(address) as (server, caller):
            with pytest.raises(errors.ResourceExhaustedError, match="longer than ttrpc's limit"):
                await caller.call("s", "m", bytes(MAX_DATA_SIZE))
            call = _calling(caller)
            await server.requests(1)
            await server.send(server.core.send_response(1, b"fine"))
            assert await call == b"fine"

    _run(test)


def test_a_server_that_does_not_read_is_not_written_to_without_end(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_UNSENT", 1 << 20)

    async def test() -> None:
        async with _scripted(address) as (server, caller):
            calls = [_calling(caller, bytes(1 << 20)) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(errors.ResourceExhaustedError, match=r"does not read: [0-9]+ bytes wait to be sent"):
                await caller.call("s", "m", b"")
            for request in await server.requests(2):
                await server.send(server.core.send_response(request.stream_id, b"read"))
            assert await asyncio.gather(*calls[:2]) == [b"read", b"read"]
            with pytest.raises(errors.ResourceExhaustedError):
                await calls[2]

    _run(test)


def test_a_connect_that_is_cancelled_leaves_no_socket(address: str) -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(address)
            listener.listen(0)
            first = await Client.connect(address)
            connecting = asyncio.ensure_future(Client.connect(address))
            await asyncio.sleep(0.03)
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
            await first.close()

    _run(test)
