"""A ttrpc client on asyncio: any number of calls at once over one connection to a unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final, cast

from ...errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ShimError,
    UnavailableError,
)
from ..connection import Connection, ResponseReceived, Role
from ..status import Status, error_of

__all__ = ["Client", "parse_address"]

MAX_UNSENT: Final = 64 << 20  # bytes of requests that a server has not read; beyond, calls are refused
_MAX_PATH: Final = 107  # sockaddr_un has 108 bytes, and the last is NUL; unix(7)
_DIAL_RETRY: Final = 0.02
_MAX_INT64: Final = (1 << 63) - 1


def parse_address(address: str) -> str:
    """Take a socket's address as containerd writes it, give it as `socket.connect` wants it.

    `unix:///run/x.sock` and `/run/x.sock` are paths; `@x`, or `x` with a NUL in front, is in the abstract namespace.
    Raises: InvalidArgumentError for anything else, and for what is too long for the kernel.
    """
    path = address.removeprefix("unix://")
    name = "\0" + path[1:] if path[:1] in ("@", "\0") else path
    if name[:1] not in ("/", "\0") or "\0" in name[1:] or len(name) < 2:
        cure = "give unix:///path, /path, or @name for an abstract socket"
        raise InvalidArgumentError(f"{address!r} is not the address of a unix socket: {cure}")
    if (size := len(os.fsencode(name))) > _MAX_PATH:
        raise InvalidArgumentError(f"the socket address {address!r} has {size} bytes: the kernel takes {_MAX_PATH}")
    return name


class Client:
    """One connection to a ttrpc server. Made by `connect`; once it is closed, every call fails and a new one is due."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    @classmethod
    async def connect(cls, address: str, timeout: float = 5.0) -> Client:
        """Connect to *address* (see `parse_address`).

        A socket that nobody listens on fails at once; one whose backlog is full is tried for *timeout* seconds.
        Raises: UnavailableError; InvalidArgumentError for an address that cannot be.
        """
        target = parse_address(address)
        try:
            connection = await _dial(address, target, timeout)
            loop = asyncio.get_running_loop()
            _, link = await loop.create_connection(lambda: _Link(address), sock=connection)
        except OSError as error:
            raise UnavailableError(f"cannot connect to {address}: {error}") from error
        return cls(link)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, from either side."""
        return self._link.closed

    async def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] = {},
    ) -> bytes:
        """Call a method; gives the response's payload. The server is told *timeout*, in seconds, and may keep to it.

        Raises: the ShimError that the server's answer means; DeadlineExceededError once *timeout* has passed;
        UnavailableError when the connection has ended or ends before the answer; ResourceExhaustedError for a request
        that is too long.
        """
        return await self._link.call(service, method, payload, timeout, metadata)

    async def wait_closed(self) -> None:
        """Wait until the connection has ended."""
        await self._link.lost.wait()

    async def close(self) -> None:
        """End the connection; calls in progress fail."""
        self._link.close()
        await self.wait_closed()


class _Link(asyncio.Protocol):
    """The connection's protocol: calls out, answers in."""

    _transport: asyncio.Transport

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._core = Connection(Role.CLIENT)
        self._pending: dict[int, asyncio.Future[bytes | ShimError]] = {}
        self._why_closed = "closed by the other side"
        self.closed = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for event in self._core.receive_data(data):
            assert isinstance(event, ResponseReceived)  # a client's core gives nothing else
            self._settle(event.stream_id, error_of(event.answer) if isinstance(event.answer, Status) else event.answer)

    def eof_received(self) -> bool:
        self._end()
        self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._why_closed = f"lost: {exc}"
        self._end()
        self.lost.set()

    def close(self) -> None:
        """End the connection from this side; nothing that was not sent matters any more."""
        if not self.closed:
            self._why_closed = "closed on this side"
            self._end()
        self._transport.abort()

    async def call(
        self, service: str, method: str, payload: bytes, timeout: float | None, metadata: Mapping[str, str]
    ) -> bytes:
        if timeout is not None and timeout <= 0:
            raise self._expired(service, method)
        self._require_room()
        # Allocating the id and writing the request happen in one go, so that ids reach the server in order.
        stream_id, data = self._core.send_request(
            service, method, payload, timeout_nano=_nanoseconds(timeout), metadata=metadata
        )
        answer = self._pending[stream_id] = self._loop.create_future()
        self._transport.write(data)
        timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            timer = self._loop.call_later(timeout, self._settle, stream_id, self._expired(service, method))
        try:
            return _result_of(await answer)
        finally:
            if timer is not None:
                timer.cancel()
            self._pending.pop(stream_id, None)
            self._core.forget(stream_id)

    def _require_room(self) -> None:
        if self.closed:
            raise self._gone()
        if (unsent := self._transport.get_write_buffer_size()) > MAX_UNSENT:
            raise ResourceExhaustedError(f"{self._address} does not read: {unsent} bytes wait to be sent to it")

    def _settle(self, stream_id: int, answer: bytes | ShimError) -> None:
        # The error is a result here: an exception that nobody comes to fetch would be reported as lost.
        waiting = self._pending.get(stream_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _end(self) -> None:
        self.closed = True
        for stream_id in tuple(self._pending):
            self._settle(stream_id, self._gone())

    def _gone(self) -> UnavailableError:
        return UnavailableError(f"the connection to {self._address} was {self._why_closed}")

    def _expired(self, service: str, method: str) -> DeadlineExceededError:
        return DeadlineExceededError(f"{service}/{method} at {self._address} did not answer in time")


async def _dial(address: str, target: str, timeout: float) -> socket.socket:
    """Connect without the loop's own means, which take a full backlog (EAGAIN) for a connection under way."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        while not _is_connected(connection, target):
            if loop.time() >= deadline:
                raise UnavailableError(f"cannot connect to {address}: its backlog stayed full for {timeout:g} s")
            await asyncio.sleep(_DIAL_RETRY)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_connected(connection: socket.socket, target: str) -> bool:
    try:
        connection.connect(target)
    except BlockingIOError:
        return False
    return True


def _nanoseconds(timeout: float | None) -> int:
    return 0 if timeout is None else min(max(1, int(timeout * 1e9)), _MAX_INT64)


def _result_of(answer: bytes | ShimError) -> bytes:
    if isinstance(answer, ShimError):
        raise answer
    return answer
