"""Who asks a zygote for something: its connection, and its request as that comes in."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from typing import Final

from . import messages

__all__ = ["Caller"]

_REQUEST_SECONDS: Final = 2.0  # that a caller has for sending its request
_UCRED: Final = struct.Struct("3i")
_ROOM: Final = socket.CMSG_SPACE(messages.DESCRIPTORS * 4)
_PIECE: Final = 1 << 16


class Caller:
    """One connection whose request is on its way, or has come and waits for its turn."""

    __slots__ = ("_descriptors", "_since", "connection", "data")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.data = bytearray()
        self._descriptors: list[int] = []
        self._since = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds that are left for its request; 0 when they are over."""
        return max(0.0, self._since + _REQUEST_SECONDS - time.monotonic())

    @property
    def is_our_own(self) -> bool:
        """Whether it runs as this process's user and group."""
        credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _pid, uid, gid = _UCRED.unpack(credentials)
        return (uid, gid) == (os.geteuid(), os.getegid())

    @property
    def directory(self) -> int:
        """Its current directory, once the request is whole."""
        return self._descriptors[0]

    @property
    def stdin(self) -> int:
        """Its standard input, once the request is whole."""
        return self._descriptors[1]

    def receive(self) -> bool:
        """Take what has come; whether the request is whole. Raises: OSError, ShimError, EOFError."""
        while True:
            try:
                data, ancillary, flags, _address = self.connection.recvmsg(_PIECE, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return False
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._descriptors += array.array("i", content[: len(content) - len(content) % 4])
            # what has been cut was more than belongs here, or than this process may have open
            if not data or flags & socket.MSG_CTRUNC or len(self._descriptors) > messages.DESCRIPTORS:
                raise EOFError
            self.data += data
            if len(self.data) < messages.HEADER_SIZE:
                continue
            size = messages.request_size(bytes(self.data[: messages.HEADER_SIZE]))
            if len(self.data) >= size:
                if len(self.data) > size or len(self._descriptors) != messages.DESCRIPTORS:
                    raise EOFError
                return True

    def close(self) -> None:
        """Let it go, with all that it has sent."""
        self.connection.close()
        while self._descriptors:
            os.close(self._descriptors.pop())
