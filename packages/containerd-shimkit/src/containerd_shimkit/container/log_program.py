"""A logging program: started before its container, which writes into its pipes, and ended after it.

The shim keeps an end of each pipe for reading. So when the program dies, its container does not get SIGPIPE; what it
writes from then on is thrown away, or it would wait for ever.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import termios
from contextlib import suppress
from typing import Final

from ..errors import AbortedError, DeadlineExceededError, InvalidArgumentError
from ..instance import ExitStatus
from ..shim.reaper import Reaper
from .plan_logging import LogCommand

__all__ = ["LogProgram", "start_logging"]

_log = logging.getLogger(__name__)

_READY_TIMEOUT: Final = 10.0  # seconds until it has to say that it is ready
_DRAIN_TIMEOUT: Final = 10.0  # for it to take what is in its pipes when the container has gone
_LEAVE_TIMEOUT: Final = 1.0  # to end by itself then: both pipes have
_TERM_TIMEOUT: Final = 12.0  # to end when it is told to, as with containerd's own shim
_POLL: Final = 0.01
_CHUNK: Final = 65536
_STDOUT, _STDERR, _READY = 3, 4, 5  # its descriptors, as containerd has them
_ABOVE: Final = 6


class LogProgram:
    """The program that takes the output of one process."""

    def __init__(self, command: LogCommand, id: str, namespace: str, reaper: Reaper) -> None:  # noqa: A002
        """Start it for the process *id*. Raises: InvalidArgumentError when it cannot be executed, OSError."""
        self._command = command
        self._id = id
        self._reaper = reaper
        self._is_wanted = True
        self._readers: list[int] = []
        self._writers: list[int] = []
        self._ready = -1
        theirs: list[int] = []
        try:
            for _ in (_STDOUT, _STDERR):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                self._writers.append(writer)
                theirs.append(_raised(reader))
                # a file description of its own: the program's stays blocking
                self._readers.append(os.open(f"/proc/self/fd/{theirs[-1]}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._ready, said = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            theirs.append(_raised(said))
            os.set_blocking(theirs[-1], True)
            self.pid = _spawn(command, id, namespace, theirs)
        except BaseException:
            self._close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._ended = reaper.watch(self.pid)
        self._ended.add_done_callback(self._notice_end)

    @property
    def paths(self) -> tuple[str, str]:
        """Where to write what it is to log: stdout, stderr. To be opened before `release`."""
        stdout, stderr = (f"/proc/self/fd/{descriptor}" for descriptor in self._readers)
        return stdout, stderr

    async def await_ready(self) -> None:
        """Wait until it says that it is ready. Raises: AbortedError when it ends instead, DeadlineExceededError."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._ready, _wake, readable)
        try:
            waiting: set[asyncio.Future[None] | asyncio.Future[ExitStatus]] = {readable, self._ended}
            await asyncio.wait(waiting, timeout=_READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._ready)
            readable.cancel()
        heard = self._hear()
        if heard:
            return
        if self._ended.done() or (heard is not None and _is_dying(self.pid)):
            status = (await asyncio.shield(self._ended)).status
            raise AbortedError(f"{self._name()} ended with status {status} before it was ready")
        if heard is None:
            raise DeadlineExceededError(f"{self._name()} did not say within {_READY_TIMEOUT:g} s that it is ready")
        if self._command.must_say_ready:
            raise AbortedError(f"{self._name()} has closed its descriptor {_READY} without a word; it must write there")

    def release(self) -> None:
        """Let its input end with whoever has opened `paths` by now."""
        while self._writers:
            os.close(self._writers.pop())

    async def finish(self) -> None:
        """End it, when it has taken all that was written; by force if it will not. May be called twice."""
        self._is_wanted = False
        self.release()
        give_up = asyncio.get_running_loop().time() + _DRAIN_TIMEOUT
        while not self._ended.done() and self._holds_output() and asyncio.get_running_loop().time() < give_up:
            await self._await_end(_POLL)
        await self._await_end(_LEAVE_TIMEOUT)
        if self._reaper.kill(self.pid, signal.SIGTERM):
            await self._await_end(_TERM_TIMEOUT)
        if not self._ended.done():
            _log.warning("%s is killed: it did not end when it was told to", self._name())
        await self.abandon()

    async def abandon(self) -> None:
        """End it at once, with whatever it has begun. May be called twice."""
        self._is_wanted = False
        if self._reaper.kill(self.pid, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await asyncio.shield(self._ended)
        self._close()

    def _hear(self) -> bytes | None:
        """What it says of being ready: nothing yet, or nothing any more, or something."""
        try:
            return os.read(self._ready, 1)
        except BlockingIOError:
            return None

    def _holds_output(self) -> bool:
        return any(int.from_bytes(fcntl.ioctl(each, termios.FIONREAD, bytes(4)), "little") for each in self._readers)

    async def _await_end(self, timeout: float) -> None:
        await asyncio.wait({self._ended}, timeout=timeout)

    def _notice_end(self, ended: asyncio.Future[ExitStatus]) -> None:
        if self._is_wanted:
            status = ended.result().status
            _log.error("%s ended with status %d: what is written from now on is lost", self._name(), status)
            for reader in self._readers:
                asyncio.get_running_loop().add_reader(reader, self._discard, reader)

    def _discard(self, reader: int) -> None:
        with suppress(BlockingIOError):
            if not os.read(reader, _CHUNK):
                asyncio.get_running_loop().remove_reader(reader)

    def _close(self) -> None:
        self.release()
        while self._readers:
            reader = self._readers.pop()
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1

    def _name(self) -> str:
        return f"the logging program {self._command.uri!r} of {self._id}"


def _spawn(command: LogCommand, id: str, namespace: str, theirs: list[int]) -> int:  # noqa: A002
    stdout, stderr, ready = theirs
    try:
        # by vfork, so that nothing is copied; all other descriptors close at the execve
        return os.posix_spawn(
            command.path,
            (command.path, *command.args),
            {"CONTAINER_ID": id, "CONTAINER_NAMESPACE": namespace},
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, stdout, _STDOUT),
                (os.POSIX_SPAWN_DUP2, stderr, _STDERR),
                (os.POSIX_SPAWN_DUP2, ready, _READY),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
        )
    except OSError as error:
        raise InvalidArgumentError(
            f"stdout {command.uri!r}: the logging program {command.path} cannot be executed: {error.strerror}"
        ) from error


def _raised(descriptor: int) -> int:
    """The same above those that the program is given, so that to give one does not close another."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
    finally:
        os.close(descriptor)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _is_dying(pid: int) -> bool:
    """Whether the child *pid* has let go of its descriptors, as a process does first when it ends."""
    try:
        return not os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return True


async def start_logging(command: LogCommand, id: str, namespace: str, reaper: Reaper) -> LogProgram:  # noqa: A002
    """Start a logging program and wait until it is ready. Raises: ShimError, OSError, with nothing left of it."""
    program = LogProgram(command, id, namespace, reaper)
    try:
        await program.await_ready()
    except BaseException:
        await program.abandon()
        raise
    return program
