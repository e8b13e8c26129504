"""Which zygotes live: those whose sockets answer, by the name of their runtime."""

from __future__ import annotations

import enum
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..zygote.naming import DIRECTORY
from .programs import runtime_name

__all__ = ["Health", "Zygote", "zygotes"]

_TIMEOUT: Final = 1.0
_TIMEVAL: Final = struct.Struct("2l")
_UCRED: Final = struct.Struct("3i")


class Health(enum.Enum):
    """How a zygote's socket answers."""

    ALIVE = "alive"
    HANGS = "hangs"


@dataclass(frozen=True, slots=True)
class Zygote:
    """A process that listens at `socket`; `runtime` is the NAME of its shim, "" when it does not say."""

    socket: str
    pid: int
    runtime: str
    health: Health


def zygotes(directory: str = DIRECTORY) -> list[Zygote]:
    """All that listen in *directory*, not what is left of dead ones. Takes up to a second for one that hangs.

    Raises: PermissionError, for who may not look.
    """
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [found for name in names if name.endswith(".sock") for found in _at(os.path.join(directory, name))]


def _at(path: str) -> Iterator[Zygote]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        limit = _TIMEVAL.pack(*divmod(round(_TIMEOUT * 1e6), 1_000_000))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # unlike settimeout they wait for room in a full queue
            connection.setsockopt(socket.SOL_SOCKET, option, limit)
        try:
            connection.connect(path)
            pid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
        except BlockingIOError:  # how such a timeout shows
            yield Zygote(path, 0, "", Health.HANGS)
            return
        except OSError:
            return  # nobody is there any more
        yield Zygote(path, pid, _runtime_of(pid), _health(connection))


def _health(connection: socket.socket) -> Health:
    """Send the end of an empty request: who lives sees it and hangs up."""
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    except BlockingIOError:
        return Health.HANGS
    except OSError:
        pass  # it hung up before it had read all
    return Health.ALIVE


def _runtime_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b" ", b"\0").split(b"\0")
    except OSError:
        return ""
    return next((name for word in words if (name := runtime_name(os.path.basename(os.fsdecode(word))))), "")
