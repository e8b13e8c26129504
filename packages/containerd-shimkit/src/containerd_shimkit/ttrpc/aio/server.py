"""A ttrpc server on asyncio: each call a task of its own, on connections that do not disturb each other.

Handlers are given the payload's bytes and give the response's: decoding is theirs, and protobuf's DecodeError may pass.
They raise a ShimError to fail with its code. A handler is cancelled when its deadline passes and when its caller's
connection ends, so what must not stop half way has to be shielded by whoever wrote the handler.

What one peer can make this process hold is bounded: calls, their payloads, and answers that it does not read. A peer
that stops reading is not read from either until it goes on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from ...errors import ShimError
from ..connection import Connection, Refused, RequestReceived, Role
from ..envelope import Request
from ..status import Code, Status, status_of
from .acceptor import Acceptor

__all__ = ["Call", "Handler", "Server"]

_log = logging.getLogger(__name__)

MAX_CALLS: Final = 1024  # at once on one connection; a Wait of every client that waits is one
MAX_HELD: Final = 64 << 20  # bytes of payload of those calls
MAX_UNSENT: Final = 64 << 20  # bytes of answers that a peer has not read; beyond, it is taken for broken
_UNWINDING: Final = 1.0  # seconds that cancelled handlers get when the server closes
_NANOSECOND: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Call:
    """What came with a request beside its payload. *metadata* has the first value of a key that came repeatedly."""

    service: str
    method: str
    metadata: Mapping[str, str]
    timeout: float | None


Handler = Callable[[Call, bytes], Awaitable[bytes]]
_Services = Mapping[str, Mapping[str, Handler]]


class Server:
    """Serves *services*, by full service name and method name, to peers with our own user and group."""

    def __init__(self, services: Mapping[str, Mapping[str, Handler]], *, check_peer: bool = True) -> None:
        self._services = services
        self._check_peer = check_peer
        self._acceptor: Acceptor | None = None
        self._attaching: set[asyncio.Task[None]] = set()
        self._peers: set[_Peer] = set()

    def start(self, listener: socket.socket) -> None:
        """Serve connections to *listener*, a listening unix socket, on the running loop.

        The listener stays the caller's: to close and to unlink, after `stop_accepting` or `close`.
        Raises: ValueError when called twice; UnimplementedError where peers cannot be checked and should be.
        """
        if self._acceptor is not None:
            raise ValueError("the server has been started already: one server has one listener")
        self._acceptor = Acceptor(listener, self._attach, check_peer=self._check_peer)

    def stop_accepting(self) -> None:
        """Take no new connections; those that there are go on. May be called at any time."""
        if self._acceptor is not None:
            self._acceptor.stop()

    async def close(self, grace: float = 5.0) -> None:
        """Stop accepting, let calls end for at most *grace* seconds, then cancel them and close every connection.

        New calls on old connections are refused meanwhile. Not to be awaited by a handler, which it would wait for.
        """
        self.stop_accepting()
        await _wait(self._attaching, None)
        for peer in tuple(self._peers):
            peer.finish()
        await _wait([peer.gone for peer in self._peers], grace)
        for peer in tuple(self._peers):
            peer.abort()
        await _wait([peer.gone for peer in self._peers], _UNWINDING)
        if self._peers:
            _log.error("%d connections were left while their handlers ignore being cancelled", len(self._peers))

    def _attach(self, connection: socket.socket) -> None:
        """Put a protocol on an accepted socket; that takes a turn of the loop."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._make_transport(connection))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    async def _make_transport(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_peer, connection)
        except OSError as error:
            _log.warning("a connection was lost as it was accepted: %s", error)
            connection.close()

    def _make_peer(self) -> _Peer:
        peer = _Peer(self._services, self._peers.discard)
        self._peers.add(peer)
        return peer


class _Peer(asyncio.Protocol):
    """One connection and its calls. It is *gone* when it is closed and the last of its handlers has ended."""

    _transport: asyncio.Transport  # from connection_made on

    def __init__(self, services: _Services, on_gone: Callable[[_Peer], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._services = services
        self._on_gone = on_gone
        self._core = Connection(Role.SERVER)
        self._calls: dict[asyncio.Task[None], int] = {}  # with the bytes of payload that each holds
        self._held = 0
        self._lost = False  # nothing more is to be read, written or begun
        self._closed = False
        self._finishing = False
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def finish(self) -> None:
        """Close the connection as soon as its last call has been answered, and take no more calls."""
        self._finishing = True
        if not self._calls:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection now, and cancel its calls."""
        self._lose()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for event in self._core.receive_data(data):
            if isinstance(event, RequestReceived):
                self._begin(event)
            elif isinstance(event, Refused):
                _log.warning("refused a request on stream %d: %s", event.stream_id, event.status.message)
                self._write(event.reply)

    def eof_received(self) -> bool:
        # Half a connection is none: nobody would be told when the other half ends.
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            _log.debug("a connection was lost: %s", exc)
        self._lose()
        self._closed = True
        self._go_if_done()

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def _lose(self) -> None:
        if self._lost:
            return  # a second cancel would break into the handlers' cleaning up
        self._lost = True
        for task in self._calls:
            task.cancel()

    def _go_if_done(self) -> None:
        if self._closed and not self._calls and not self.gone.done():
            self.gone.set_result(None)
            self._on_gone(self)

    def _begin(self, event: RequestReceived) -> None:
        if self._lost:
            return
        size = len(event.request.payload)
        if (refusal := self._refusal(size)) is not None:
            self._write(self._core.send_response(event.stream_id, refusal))
            return
        task = self._loop.create_task(self._serve(event.stream_id, event.request))
        self._calls[task] = size
        self._held += size
        task.add_done_callback(self._end)

    def _refusal(self, size: int) -> Status | None:
        if self._finishing:
            return Status(Code.UNAVAILABLE, "the shim is shutting down")
        if len(self._calls) >= MAX_CALLS:
            return Status(Code.RESOURCE_EXHAUSTED, f"{MAX_CALLS} calls are in progress on this connection already")
        if self._held + size > MAX_HELD:
            message = f"the calls in progress on this connection hold {self._held} bytes, of {MAX_HELD} at most"
            return Status(Code.RESOURCE_EXHAUSTED, message)
        return None

    def _end(self, task: asyncio.Task[None]) -> None:
        self._held -= self._calls.pop(task)
        if self._finishing and not self._calls:
            self._transport.close()
        self._go_if_done()

    async def _serve(self, stream_id: int, request: Request) -> None:
        answer = await self._answer(request)
        self._write(self._core.send_response(stream_id, answer))

    async def _answer(self, request: Request) -> bytes | Status:
        """Run the handler of *request* to its end or its deadline. Only the loss of the connection cancels this."""
        if (methods := self._services.get(request.service)) is None:
            return Status(Code.UNIMPLEMENTED, f"service {request.service}")
        if (handler := methods.get(request.method)) is None:
            return Status(Code.UNIMPLEMENTED, f"method {request.method}")
        call = _call_of(request)
        deadline = _Deadline(call.timeout)
        if deadline.has_passed:
            return _expired(call)
        try:
            return bytes(await handler(call, request.payload))
        except asyncio.CancelledError as error:
            if self._lost:
                raise
            return _expired(call) if deadline.has_passed else status_of(error)
        except Exception as error:
            return _failed(call, error)
        finally:
            deadline.cancel()

    def _write(self, data: bytes) -> None:
        if self._lost:
            return
        unsent = self._transport.get_write_buffer_size() + len(data)
        if unsent > MAX_UNSENT:
            _log.error("closing a connection whose other side does not read: %d bytes wait to be sent", unsent)
            self.abort()
            return
        self._transport.write(data)


class _Deadline:
    """Cancels the task that makes it after *timeout* seconds (None: never), and knows that it did."""

    def __init__(self, timeout: float | None) -> None:
        self.has_passed = timeout is not None and timeout <= 0
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None and not self.has_passed:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._expire)

    def cancel(self) -> None:
        """Let the task be."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        assert self._task is not None
        self.has_passed = True
        self._task.cancel()


def _call_of(request: Request) -> Call:
    metadata = dict(reversed(request.metadata))  # the first value of a key is the one that stays
    timeout = request.timeout_nano * _NANOSECOND if request.timeout_nano else None
    return Call(request.service, request.method, metadata, timeout)


def _expired(call: Call) -> Status:
    return Status(Code.DEADLINE_EXCEEDED, f"{call.service}/{call.method} did not end within its deadline")


def _failed(call: Call, error: Exception) -> Status:
    status = status_of(error)
    if not isinstance(error, ShimError):
        _log.error("%s/%s failed unexpectedly", call.service, call.method, exc_info=error)
    return status


async def _wait(things: Iterable[asyncio.Future[None]], timeout: float | None) -> None:
    """Wait until all *things* are done, at most *timeout* seconds (None: as long as it takes)."""
    if pending := list(things):
        await asyncio.wait(pending, timeout=timeout)
