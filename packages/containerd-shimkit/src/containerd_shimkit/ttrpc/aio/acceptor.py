"""Accepting connections on a unix socket that somebody else bound, from peers that may connect."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from ...errors import UnimplementedError

__all__ = ["Acceptor"]

_log = logging.getLogger(__name__)

_BURST: Final = 16  # connections taken before the loop's other work gets its turn
_PAUSE: Final = 0.1  # seconds, after an error that trying again at once would only repeat, such as EMFILE
_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid; unix(7)


class Acceptor:
    """Hands each new connection, non-blocking, to *on_connection*. Nothing but `stop` ends it.

    The listener stays its owner's: it is never unlinked or closed here, and must not be closed before `stop`.
    """

    def __init__(
        self, listener: socket.socket, on_connection: Callable[[socket.socket], None], *, check_peer: bool
    ) -> None:
        if check_peer and not hasattr(socket, "SO_PEERCRED"):
            raise UnimplementedError(
                "this system has no SO_PEERCRED to tell who connects: pass check_peer=False, and guard the socket by "
                "the permissions of its directory"
            )
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._on_connection = on_connection
        self._check_peer = check_peer
        self._fd = listener.fileno()
        self._resumption: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._loop.add_reader(self._fd, self._accept)

    def stop(self) -> None:
        """Accept no more. What waits in the backlog stays there until the owner closes the listener."""
        if self._resumption is not None:
            self._resumption.cancel()
        self._loop.remove_reader(self._fd)

    def _accept(self) -> None:
        for _ in range(_BURST):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._admit(connection)

    def _pause(self, error: OSError) -> None:
        _log.warning("cannot accept a connection, trying again in %g s: %s", _PAUSE, error)
        self._loop.remove_reader(self._fd)
        self._resumption = self._loop.call_later(_PAUSE, self._loop.add_reader, self._fd, self._accept)

    def _admit(self, connection: socket.socket) -> None:
        try:
            if self._check_peer and not _is_our_own(connection):
                connection.close()
                return
            connection.setblocking(False)
        except OSError as error:  # the peer may have gone
            _log.warning("cannot tell who connected: %s", error)
            connection.close()
            return
        self._on_connection(connection)


def _is_our_own(connection: socket.socket) -> bool:
    """Whether the peer has our effective user and group, as containerd and its own shims demand of theirs."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return True
    _log.warning("refused a connection of process %d: it runs as user %d, group %d, which are not ours", pid, uid, gid)
    return False
