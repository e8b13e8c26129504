"""The asyncio server over real unix sockets: calls, deadlines, bounds, and what one peer cannot do to another."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from containerd_shimkit import errors
from containerd_shimkit.proto import task_pb2
from containerd_shimkit.ttrpc import (
    MAX_DATA_SIZE,
    Code,
    Flag,
    Frame,
    FrameDecoder,
    FrameType,
    OversizeFrame,
    Request,
    Status,
    encode_frame,
)
from containerd_shimkit.ttrpc.aio import Call, Client, Handler, Server, server
from containerd_shimkit.ttrpc.envelope import decode_response, encode_request

SERVICE = "containerd.task.v2.Task"


async def _echo(call: Call, payload: bytes) -> bytes:
    del call
    return payload


@contextlib.asynccontextmanager
async def _serving(address: str, handlers: Mapping[str, Handler], *, check_peer: bool = True) -> AsyncIterator[Server]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(64)
        serving = Server({SERVICE: {"Echo": _echo, **handlers}}, check_peer=check_peer)
        serving.start(listener)
        try:
            yield serving
        finally:
            await serving.close(0)


@contextlib.asynccontextmanager
async def _served(address: str, **handlers: Handler) -> AsyncIterator[Client]:
    async with _serving(address, handlers):
        client = await Client.connect(address)
        try:
            yield client
        finally:
            await client.close()


class _Raw:
    """A peer that writes any bytes it likes."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.connect(address)
        self._decoder = FrameDecoder()
        self._frames: list[Frame | OversizeFrame] = []

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def answer(self) -> tuple[int, bytes | Status]:
        """The next response's stream id and content. Raises: EOFError at the connection's end."""
        while not self._frames:
            data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)
        frame = self._frames.pop(0)
        assert isinstance(frame, Frame)
        assert frame.type == FrameType.RESPONSE
        return frame.stream_id, decode_response(frame.data)

    def __enter__(self) -> _Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def _request(
    stream_id: int, method: str = "Echo", payload: bytes = b"p", flags: int = 0, timeout_nano: int = 0
) -> bytes:
    data = encode_request(Request(SERVICE, method, payload, timeout_nano))
    return encode_frame(Frame(stream_id, FrameType.REQUEST, data, flags))


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(bounded())


async def _eventually(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_a_handler_gets_the_call_and_its_answer_comes_back(address: str) -> None:
    seen: list[tuple[Call, bytes]] = []

    async def connect(call: Call, payload: bytes) -> bytes:
        seen.append((call, payload))
        return b"answer"

    async def test() -> None:
        async with _served(address, Connect=connect) as client:
            metadata = {"traceparent": "00-1"}
            assert await client.call(SERVICE, "Connect", b"payload", metadata=metadata, timeout=2.5) == b"answer"
            assert await client.call(SERVICE, "Connect", b"") == b"answer"

    _run(test)
    assert seen == [
        (Call(SERVICE, "Connect", {"traceparent": "00-1"}, 2.5), b"payload"),
        (Call(SERVICE, "Connect", {}, None), b""),
    ]


def test_the_first_value_of_a_metadata_key_counts(address: str) -> None:
    seen: list[Mapping[str, str]] = []

    async def look(call: Call, payload: bytes) -> bytes:
        seen.append(call.metadata)
        return payload

    async def test() -> None:
        async with _serving(address, {"Look": look}):
            with _Raw(address) as raw:
                data = encode_request(Request(SERVICE, "Look", metadata=(("k", "1"), ("k", "2"), ("j", "3"))))
                await raw.send(encode_frame(Frame(1, FrameType.REQUEST, data)))
                await raw.answer()

    _run(test)
    assert seen == [{"k": "1", "j": "3"}]


def test_unknown_services_and_methods_are_named(address: str) -> None:
    async def test() -> None:
        async with _served(address) as client:
            with pytest.raises(errors.UnimplementedError, match=r"^service no\.such\.Service$"):
                await client.call("no.such.Service", "Echo", b"")
            with pytest.raises(errors.UnimplementedError, match=r"^method Juggle$"):
                await client.call(SERVICE, "Juggle", b"")

    _run(test)


def test_a_failure_on_purpose_has_its_code_and_no_log_line(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def state(call: Call, payload: bytes) -> bytes:
        raise errors.NotFoundError(f"no task {payload.decode()}")

    async def test() -> None:
        async with _served(address, State=state) as client:
            with pytest.raises(errors.NotFoundError, match=r"^no task c1$"):
                await client.call(SERVICE, "State", b"c1")

    _run(test)
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


def test_a_failure_that_nobody_foresaw_is_logged_once_and_harms_nobody(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def state(call: Call, payload: bytes) -> bytes:
        raise KeyError("id")

    async def test() -> None:
        async with _served(address, State=state) as client:
            with pytest.raises(errors.ShimError, match=r"^KeyError: 'id'$"):
                await client.call(SERVICE, "State", b"")
            assert await client.call(SERVICE, "Echo", b"x") == b"x"

    _run(test)
    (record,) = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert record.getMessage() == "containerd.task.v2.Task/State failed unexpectedly"
    assert record.exc_info is not None


def test_a_handler_that_gives_back_nonsense_fails_its_own_call(address: str) -> None:
    async def state(call: Call, payload: bytes) -> bytes:
        return None  # type: ignore[return-value]

    async def test() -> None:
        async with _served(address, State=state) as client:
            with pytest.raises(errors.ShimError, match="TypeError"):
                await client.call(SERVICE, "State", b"")

    _run(test)


def test_a_payload_that_does_not_decode_is_internal(address: str) -> None:
    async def kill(call: Call, payload: bytes) -> bytes:
        return task_pb2.KillRequest.FromString(payload).id.encode()

    async def test() -> None:
        async with _served(address, Kill=kill) as client:
            assert await client.call(SERVICE, "Kill", b"\x0a\x02c1") == b"c1"
            with pytest.raises(errors.InternalError):
                await client.call(SERVICE, "Kill", b"\x0a\x05c1")

    _run(test)


class _Sleeper:
    """A handler that sleeps until it is cancelled, and takes a moment to clean up."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.cleaned = 0

    async def __call__(self, call: Call, payload: bytes) -> bytes:
        self.begun += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0.02)
            self.cleaned += 1
            raise
        return payload


def test_a_deadline_ends_the_handler_and_the_call(address: str) -> None:
    sleeper = _Sleeper()

    async def test() -> None:
        async with _serving(address, {"Wait": sleeper}):
            with _Raw(address) as raw:
                await raw.send(_request(1, "Wait", timeout_nano=30_000_000))
                message = "containerd.task.v2.Task/Wait did not end within its deadline"
                assert await raw.answer() == (1, Status(Code.DEADLINE_EXCEEDED, message))
                await raw.send(_request(3))
                assert await raw.answer() == (3, b"p")

    _run(test)
    assert (sleeper.begun, sleeper.cleaned) == (1, 1)


def test_a_deadline_that_has_passed_keeps_the_handler_from_running(address: str) -> None:
    sleeper = _Sleeper()

    async def test() -> None:
        async with _serving(address, {"Wait": sleeper}):
            with _Raw(address) as raw:
                await raw.send(_request(1, "Wait", timeout_nano=-1))
                _, answer = await raw.answer()
                assert isinstance(answer, Status)
                assert answer.code is Code.DEADLINE_EXCEEDED

    _run(test)
    assert sleeper.begun == 0


def test_a_deadline_in_the_far_future_is_none(address: str) -> None:
    async def test() -> None:
        async with _serving(address, {}):
            with _Raw(address) as raw:
                await raw.send(_request(1, timeout_nano=2**63 - 1))
                assert await raw.answer() == (1, b"p")

    _run(test)


def test_a_handler_that_finishes_in_spite_of_its_deadline_is_heard(address: str) -> None:
    async def create(call: Call, payload: bytes) -> bytes:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return b"done"

    async def test() -> None:
        async with _serving(address, {"Create": create}):
            with _Raw(address) as raw:
                await raw.send(_request(1, "Create", timeout_nano=10_000_000))
                assert await raw.answer() == (1, b"done")

    _run(test)


def test_a_handler_whose_own_work_was_cancelled_answers_so(address: str) -> None:
    async def create(call: Call, payload: bytes) -> bytes:
        work = asyncio.get_running_loop().create_future()
        work.cancel()
        await work
        return b""

    async def test() -> None:
        async with _served(address, Create=create) as client:
            with pytest.raises(errors.AbortedError, match="CancelledError"):
                await client.call(SERVICE, "Create", b"")
            assert await client.call(SERVICE, "Echo", b"x") == b"x"

    _run(test)


def test_calls_run_at_once_and_answer_in_any_order(address: str) -> None:
    async def nap(call: Call, payload: bytes) -> bytes:
        await asyncio.sleep(int(payload) / 1000)
        return payload

    async def test() -> None:
        async with _served(address, Nap=nap) as client:
            ended: list[bytes] = []

            async def one(milliseconds: int) -> None:
                ended.append(await client.call(SERVICE, "Nap", str(milliseconds).encode()))

            begun = time.monotonic()
            await asyncio.gather(*map(one, (300, 150, 0)))
            assert ended == [b"0", b"150", b"300"]
            assert time.monotonic() - begun < 0.45

    _run(test)


def test_many_calls_on_many_connections_get_their_own_answers(address: str) -> None:
    async def test() -> None:
        async with _serving(address, {}):
            clients = [await Client.connect(address) for _ in range(20)]
            payloads = [bytes((index,)) * (1 + index * 977) for index in range(200)]
            calls = [clients[i % 20].call(SERVICE, "Echo", payload) for i, payload in enumerate(payloads)]
            assert await asyncio.gather(*calls) == payloads
            for client in clients:
                await client.close()

    _run(test)


def test_messages_that_are_too_long_cost_their_calls_only(address: str) -> None:
    async def big(call: Call, payload: bytes) -> bytes:
        return bytes(MAX_DATA_SIZE)

    async def test() -> None:
        async with _served(address, Big=big) as client:
            with pytest.raises(errors.ResourceExhaustedError, match=r"^the response of 4194309 bytes"):
                await client.call(SERVICE, "Big", b"")
            with pytest.raises(errors.ResourceExhaustedError, match="longer than ttrpc's limit"):
                await client.call(SERVICE, "Echo", bytes(MAX_DATA_SIZE))
            nearly = bytes(MAX_DATA_SIZE - 100)
            assert await client.call(SERVICE, "Echo", nearly) == nearly
            assert not client.closed

    _run(test)


def test_a_request_that_is_too_long_is_skipped_and_answered(address: str) -> None:
    async def test() -> None:
        async with _serving(address, {}):
            with _Raw(address) as raw:
                size = MAX_DATA_SIZE + 12345
                await raw.send(size.to_bytes(4, "big") + b"\x00\x00\x00\x01\x01\x00" + bytes(size) + _request(3))
                stream_id, answer = await raw.answer()
                assert isinstance(answer, Status)
                assert (stream_id, answer.code) == (1, Code.RESOURCE_EXHAUSTED)
                assert await raw.answer() == (3, b"p")

    _run(test)


def test_what_is_no_call_is_refused_and_the_connection_goes_on(address: str) -> None:
    async def test() -> None:
        async with _serving(address, {}):
            with _Raw(address) as raw:
                junk = encode_frame(Frame(1, FrameType.REQUEST, b"\xff"))
                unknown = encode_frame(Frame(7, 99, b"x"))
                stream = _request(5, flags=Flag.REMOTE_OPEN) + encode_frame(Frame(5, FrameType.DATA, b"x"))
                await raw.send(junk + _request(2) + unknown + stream + _request(9))
                answers = [await raw.answer() for _ in range(4)]
                assert answers[3] == (9, b"p")
                codes = [(i, answer.code) for i, answer in answers if isinstance(answer, Status)]
                assert codes == [(1, Code.INVALID_ARGUMENT), (2, Code.INVALID_ARGUMENT), (5, Code.UNIMPLEMENTED)]

    _run(test)


@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_goes_away_cancels_its_handlers_once_and_no_others(address: str, half: bool) -> None:
    sleeper, other = _Sleeper(), _Sleeper()

    async def test() -> None:
        async with _serving(address, {"Wait": sleeper, "Other": other}):
            with _Raw(address) as raw, _Raw(address) as stays:
                await stays.send(_request(1, "Other"))
                await raw.send(_request(1, "Wait") + _request(3, "Wait"))
                await _eventually(lambda: sleeper.begun + other.begun == 3)
                if half:
                    raw.socket.shutdown(socket.SHUT_WR)
                else:
                    raw.socket.close()
                await _eventually(lambda: sleeper.cleaned == 2)
                assert (sleeper.cancelled, other.cancelled) == (2, 0)
                await stays.send(_request(3))
                assert await stays.answer() == (3, b"p")

    _run(test)


def test_a_client_that_goes_before_its_call_begins_leaves_no_trace(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with _serving(address, {}) as serving:
            for _ in range(20):
                with _Raw(address) as raw:
                    await raw.send(_request(1) * 3)
            await asyncio.sleep(0.05)
            await _eventually(lambda: not serving._peers)

    _run(test)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_peer_that_does_not_read_is_not_read_from_and_holds_nobody_up(address: str) -> None:
    megabyte = bytes(1 << 20)

    async def big(call: Call, payload: bytes) -> bytes:
        return megabyte

    async def test() -> None:
        async with _serving(address, {"Big": big}):
            with _Raw(address) as slow:
                await slow.send(b"".join(_request(stream_id, "Big") for stream_id in range(1, 21, 2)))
                client = await Client.connect(address)
                assert await client.call(SERVICE, "Echo", b"x") == b"x"
                more = b"".join(_request(stream_id, payload=megabyte) for stream_id in range(21, 31, 2))
                sending = asyncio.ensure_future(slow.send(more))
                await asyncio.sleep(0.1)
                assert not sending.done()
                assert await client.call(SERVICE, "Echo", b"x") == b"x"
                answers = dict([await slow.answer() for _ in range(15)])
                assert answers == dict.fromkeys(range(1, 31, 2), megabyte)
                await sending
                await client.close()

    _run(test)


def test_a_peer_that_never_reads_is_cut_off_in_the_end(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "MAX_UNSENT", 3 << 20)

    async def big(call: Call, payload: bytes) -> bytes:
        return bytes(1 << 20)

    async def test() -> None:
        async with _serving(address, {"Big": big}):
            client = await Client.connect(address)
            with _Raw(address) as slow:
                await slow.send(b"".join(_request(stream_id, "Big") for stream_id in range(1, 21, 2)))
                await _eventually(lambda: "whose other side does not read" in caplog.text)
                with pytest.raises((EOFError, ConnectionResetError)):
                    for _ in range(10):
                        await slow.answer()
            assert await client.call(SERVICE, "Echo", b"x") == b"x"
            await client.close()

    _run(test)


def test_calls_at_once_are_bounded_by_number_and_by_size(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CALLS", 3)
    monkeypatch.setattr(server, "MAX_HELD", 1000)
    sleeper = _Sleeper()

    async def test() -> None:
        async with _serving(address, {"Wait": sleeper}):
            with _Raw(address) as raw:
                await raw.send(_request(1, "Wait", bytes(900)) + _request(3, payload=bytes(101)))
                message = "the calls in progress on this connection hold 900 bytes, of 1000 at most"
                assert await raw.answer() == (3, Status(Code.RESOURCE_EXHAUSTED, message))
                await raw.send(_request(5, "Wait", b"") + _request(7, "Wait", b"") + _request(9))
                message = "3 calls are in progress on this connection already"
                assert await raw.answer() == (9, Status(Code.RESOURCE_EXHAUSTED, message))
            with _Raw(address) as raw:
                await raw.send(_request(1, payload=bytes(1000)))
                assert await raw.answer() == (1, bytes(1000))
                await raw.send(_request(3, payload=bytes(1000)))
                assert await raw.answer() == (3, bytes(1000))

    _run(test)


def test_a_connection_that_breaks_while_it_is_accepted_harms_nobody(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lost(*_: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    async def test() -> None:
        async with _serving(address, {}):
            with monkeypatch.context() as patch:
                patch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", lost)
                with _Raw(address) as raw:
                    with pytest.raises(EOFError):
                        await raw.answer()
            client = await Client.connect(address)
            assert await client.call(SERVICE, "Echo", b"x") == b"x"
            await client.close()

    _run(test)
    assert "a connection was lost as it was accepted: [Errno 104] reset" in caplog.text


def test_strangers_are_not_served_unless_that_is_wanted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(check_peer: bool) -> None:
        async with _serving(f"{address}{check_peer}", {}, check_peer=check_peer):
            client = await Client.connect(f"{address}{check_peer}")
            try:
                assert await client.call(SERVICE, "Echo", b"x") == b"x"
            finally:
                await client.close()

    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    _run(lambda: test(check_peer=False))
    with pytest.raises(errors.UnavailableError):
        _run(lambda: test(check_peer=True))
