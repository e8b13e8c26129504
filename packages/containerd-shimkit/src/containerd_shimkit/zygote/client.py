"""Asking a zygote to carry a command out, and having one started where there is none.

Light to import: it stands in the way of every `start` and `delete` that a launcher does not shorten.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from ..errors import ShimError
from ..linux.own_directory import make_own_directory
from .messages import ACCEPTED, COMMITTED, HEADER_SIZE, MAX_BODY, Reply, decode_reply, encode_request
from .naming import DIRECTORY, entry_command, socket_path

__all__ = ["Zygote", "ensure_directory"]

_ACCEPT_TIMEOUT: Final = 1.0  # a zygote answers within a millisecond, or hangs
_START_TIMEOUT: Final = 20.0
_POLL: Final = 0.005
_READY: Final = b"\0ready"
_MANY: Final = 1 << 16  # more descriptors than a program has that has only just started
_TITLE_ROOM: Final = 512  # bytes of command line in which a zygote's children show what they are


class Zygote:
    """The zygote of this program in this process's context, whether it lives or not."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self._command = entry_command()
        self._directory = directory
        self.path = socket_path(self._command, directory)

    def request(self, words: Sequence[str]) -> Reply | None:
        """Have the command *words* (the program's name first) carried out with this process's environment, directory
        and standard input; None when no zygote has done it, and none is about to.

        Raises: UnavailableError when one was killed in the middle of it.
        """
        try:
            request = encode_request(words, os.environ)
        except ShimError:
            return None  # beyond its bounds
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_ACCEPT_TIMEOUT)
                connection.connect(self.path)
                try:
                    _send(connection, request)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it may have answered before it went
                if _receive_first(connection) != ACCEPTED:
                    return None
                connection.settimeout(None)
                return decode_reply(_read_to_end(connection))
        except OSError:
            return None  # it is gone, or hangs

    def start(self) -> str:
        """Start one, unless somebody has done so meanwhile; returns when it listens, with "", or with why it does not.

        Of several callers at once one starts it, and the others wait for it.
        """
        try:
            ensure_directory(self._directory)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            return f"{error.strerror}: {error.filename}"
        try:
            give_up = time.monotonic() + _START_TIMEOUT
            while not _try_lock(lock):
                if time.monotonic() > give_up:
                    return f"another process has held {self.path}.lock for {_START_TIMEOUT:g} s"
                time.sleep(_POLL)
            return "" if self._answers() else self._spawn()
        finally:
            os.close(lock)

    def _answers(self) -> bool:
        """Whether a zygote lives there that takes connections and reads what it is sent."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_ACCEPT_TIMEOUT)
                connection.connect(self.path)
                connection.shutdown(socket.SHUT_WR)
                return connection.recv(1) == b""  # it has seen the end of an empty request
        except OSError:
            return False

    def _spawn(self) -> str:
        """Execute this program as a zygote, with an empty environment; what it has said when it was not ready."""
        ours, theirs = os.pipe()
        command = [*self._command, "-socket", self.path, "-padding", "-" * _TITLE_ROOM, "zygote"]
        try:
            if os.fork() == 0:
                _execute(command, theirs)
        except OSError as error:
            os.close(ours)
            return f"cannot fork: {error.strerror}"
        finally:
            os.close(theirs)
        with open(ours, "rb") as pipe:
            said = _read_until(pipe.fileno(), _START_TIMEOUT)
        return "" if said.endswith(_READY) else said.decode(errors="replace").strip() or "it ended without a word"


def ensure_directory(directory: str) -> None:
    """Make the zygotes' directory, or see that it is ours alone. Raises: OSError."""
    if not make_own_directory(directory, closed=0o077):
        raise PermissionError(1, "not a directory of ours alone; remove it, or give it mode 0700", directory)


def _send(connection: socket.socket, request: bytes) -> None:
    """Send *request*; with its first byte go the current directory and standard input."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptors = array.array("i", [here, _standard_input()])
        sent = connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        if sent < len(request):  # sending nothing would fail when the answer is there and the connection closed
            connection.sendall(request[sent:])
    finally:
        os.close(here)


def _standard_input() -> int:
    try:
        os.fstat(0)
    except OSError:
        os.open("/dev/null", os.O_RDONLY)  # becomes 0, the lowest free number
    return 0


def _receive_first(connection: socket.socket) -> bytes:
    """The first byte of the answer, if it comes in time; after that nobody can send one any more."""
    try:
        return connection.recv(1)
    except TimeoutError:
        connection.shutdown(socket.SHUT_RD)
        return connection.recv(1)  # what has come before


def _read_to_end(connection: socket.socket) -> bytes:
    """All that comes; a connection that is reset has ended too, and what came before counts."""
    data = bytearray()
    try:
        while len(data) <= len(COMMITTED) + HEADER_SIZE + MAX_BODY and (piece := connection.recv(1 << 16)):
            data += piece
    except ConnectionResetError:
        pass
    return bytes(data)


def _execute(command: list[str], said: int) -> NoReturn:
    """In the child: become the program *command*, alone in the world. Its standard error is *said*."""
    # not posix_spawn: with it glibc leaves two signals of its own ignored, in every container to come
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor, target in ((null, 0), (null, 1), (said, 2)):  # a traceback, or the word that it is ready
            os.dup2(descriptor, target)
        os.closerange(3, _MANY)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in range(1, signal.NSIG):
            if signal.getsignal(number) == signal.SIG_IGN:  # by Python, or by whoever started this one caller
                signal.signal(number, signal.SIG_DFL)
        from ..linux.sealed_program import execute_sealed  # only here: it is dear for who finds a zygote

        execute_sealed(command, {})
    except BaseException as error:
        os.write(2, f"{command[0]} cannot be executed: {error}".encode())
    finally:
        os._exit(1)


def _read_until(pipe: int, timeout: float) -> bytes:
    """All that comes until the other end is closed, or so many seconds have passed."""
    import select

    data, give_up = b"", time.monotonic() + timeout
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while len(data) < MAX_BODY and poll.poll(max(0.0, give_up - time.monotonic()) * 1000):
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        data += piece
    return data


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def say_ready() -> None:
    """In the zygote: tell who started it that it listens."""
    os.write(2, _READY)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    os.close(null)
    sys.stderr = None  # nobody reads it
