"""The line between a shim and a container's init: whole messages, with descriptors, in both directions.

The end of the line is a message too: an init whose shim has died reads it and leaves, and a native program's execve
closes its end, which tells the shim that the program runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from ..errors import InternalError

__all__ = ["Channel", "FifoLine", "Line", "Message"]

_MAX_MESSAGE: Final = 128 * 1024
_encoder: Final = json.JSONEncoder(separators=(",", ":"))
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(8 * 4)  # eight descriptors

Message = Mapping[str, Any]
"""One message: JSON, its kind under "kind". Only the shim and its own init ever write one."""


class Line(Protocol):
    """What an init hears its Start by, and says why there will be none."""

    def send(self, message: Message) -> None:
        """Send *message*. Raises: OSError."""
        ...

    def receive_plain(self) -> Message | None:
        """Wait for a message; None when nobody can send one any more. Raises: ValueError for what is none."""
        ...


_buffer: Final = bytearray(_MAX_MESSAGE)  # one for all: what is received is copied out at once


class Channel:
    """One end of the line. What is sent is JSON: of an init that has run somebody's guest nothing else is believed."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends: the shim's (non-blocking) and the init's (blocking)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        ours.setblocking(False)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """The end's descriptor; -1 when closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end, for whoever waits at it too. May be called twice."""
        if self._waiter is not None:
            self._stop_waiting(self._waiter)
        self._socket.close()

    def hang_up(self) -> None:
        """Let the other side read the end of the line, and go on listening to it."""
        if self._socket.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_WR)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send *message* with *descriptors*. Raises: BrokenPipeError when the other side has gone."""
        data = self.encode(message)
        if len(data) > _MAX_MESSAGE:
            raise InternalError(f"a message of {len(data)} bytes between a shim and a container's init is too long")
        if descriptors:
            socket.send_fds(self._socket, [data], list(descriptors))
        else:
            # write(2), which a filter of system calls allows that allows a program anything
            os.write(self._socket.fileno(), data)

    def receive(self) -> tuple[Message | None, list[int]]:
        """The next message and its descriptors (which the caller owns); None when either side has closed.

        Raises: BlockingIOError on the shim's end when there is none yet; ValueError for what is no message.
        """
        if self._socket.fileno() < 0:
            return None, []
        try:
            # not socket.recv_fds, which drops its flags: close-on-exec must be there from the start
            size, ancillary, _flags, _address = self._socket.recvmsg_into(
                [_buffer], _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None, []
        descriptors = array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        try:
            return (self.decode(bytes(_buffer[:size])) if size else None), list(descriptors)
        except (ValueError, RecursionError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ValueError(f"not a message: {error}") from error

    def receive_plain(self) -> Message | None:
        """`receive` for an end that waits, without descriptors, and by read(2): under a filter of system calls."""
        try:
            data = os.read(self._socket.fileno(), _MAX_MESSAGE)
        except ConnectionResetError:
            return None
        return self.decode(data) if data else None

    @staticmethod
    def encode(message: Message) -> bytes:
        """A message's bytes."""
        return _encoder.encode(message).encode()

    @staticmethod
    def decode(data: bytes) -> Message:
        """The message in *data*. Raises: ValueError for what is none."""
        message: object = json.loads(data)
        if not isinstance(message, dict) or not isinstance(cast("Message", message).get("kind"), str):
            raise ValueError(f"{data[:40]!r} says of no kind that it is one")
        return cast("Message", message)

    async def receive_async(self) -> tuple[Message | None, list[int]]:
        """`receive` for the shim's event loop; when cancelled, no message is lost."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return self.receive()
            except BlockingIOError:
                pass
            waiter = self._waiter = loop.create_future()
            loop.add_reader(self._socket.fileno(), _wake, waiter)
            try:
                await waiter
            finally:
                self._stop_waiting(waiter)

    def _stop_waiting(self, waiter: asyncio.Future[None]) -> None:
        """Take the socket off the loop: while it is open, for its number is soon another file's."""
        if self._waiter is waiter:
            self._waiter = None
            waiter.get_loop().remove_reader(self._socket.fileno())
            _wake(waiter)


class FifoLine:
    """A line of two FIFOs, at which an init waits that nobody accompanies: whoever may open them is its shim.

    Both are open for reading and writing, so that neither ends while the init lives; an execve closes them.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = replies

    @property
    def descriptors(self) -> tuple[int, int]:
        """What must stay open."""
        return self._requests, self._replies

    def send(self, message: Message) -> None:
        os.write(self._replies, Channel.encode(message))

    def receive_plain(self) -> Message | None:
        return Channel.decode(os.read(self._requests, _MAX_MESSAGE))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
