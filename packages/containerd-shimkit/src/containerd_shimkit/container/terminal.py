"""The shim's end of a terminal: copies between its master and the client's FIFOs, and never waits for either.

What one side does not take is kept, up to a bound, and then the other is not read: so a client that is away holds its
own container up and nothing else. Both FIFOs stay open here at both ends, so that clients may come and go.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import termios
from collections.abc import Callable
from typing import Final

from ..errors import FailedPreconditionError
from ..linux.terminals import set_size
from .stdio import open_input, open_output, refuse_uris

__all__ = ["TerminalStreams", "send_to_console_socket"]

_CHUNK: Final = 16384
_MOST_KEPT: Final = 65536  # bytes, in each direction
_RETRY: Final = 0.1  # seconds until a terminal that nobody has open is looked at again
_QUIET: Final = 0.2  # seconds without a byte, after which nothing is on its way from a process that has ended
_MOST_DRAIN: Final = 10.0


class TerminalStreams:
    """The streams of one process with a terminal: like `Stdio`, but stderr does not exist."""

    def __init__(self, stdin: str, stdout: str, console_socket: str = "") -> None:
        """Open the client's streams. With a *console_socket* the master goes there instead of being copied.

        Raises: ShimError that names the stream and its path.
        """
        self._console_socket = console_socket
        self._input: _Copier | None = None
        self._output: _Copier | None = None
        self._master = -1
        self._kept: list[int] = []
        self._stdin = self._stdin_writer = self._stdout = -1
        refuse_uris(stdin, stdout)
        self._child = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        try:
            if stdin and not console_socket:
                self._stdin, self._stdin_writer = open_input(stdin)
                os.set_blocking(self._stdin, False)
            if not console_socket:
                self._stdout, kept = open_output("stdout", stdout)
                os.set_blocking(self._stdout, False)
                self._kept += kept
        except BaseException:
            self.close()
            raise

    @property
    def child(self) -> tuple[int, int, int]:
        """What the child has for 0, 1 and 2 until it has made its terminal."""
        (null,) = self._child
        return null, null, null

    @property
    def copies(self) -> bool:
        """Whether the terminal is copied from and to, and has not been handed over."""
        return not self._console_socket

    def close_child(self) -> None:
        """Let go of `child`, once it has been forked."""
        while self._child:
            os.close(self._child.pop())

    def attach(self, master: int, name: str) -> None:
        """Begin to copy, or hand the master over; it belongs to this object. Raises: FailedPreconditionError."""
        if self._console_socket:
            try:
                send_to_console_socket(self._console_socket, master, name)
            finally:
                os.close(master)
            return
        os.set_blocking(master, False)
        self._master = master
        self._output = _Copier(master, self._stdout, retry=True)
        self._output.finished.add_done_callback(lambda _: self._end_output())
        if self._stdin >= 0:
            self._input = _Copier(self._stdin, master, self._end_input)

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal its size, in characters; nothing when there is none (any more)."""
        if self._master >= 0:
            set_size(self._master, height, width)

    def close_stdin(self) -> None:
        """Let the input end as soon as its other writers have closed it."""
        if self._stdin_writer >= 0:
            os.close(self._stdin_writer)
            self._stdin_writer = -1

    async def drain(self) -> None:
        """Wait until all that the process, which has ended, wrote is with the client.

        A client that takes nothing, or another process that goes on writing, is waited for within bounds only.
        """
        output = self._output
        if output is None:
            return
        give_up = asyncio.get_running_loop().time() + _MOST_DRAIN
        output.end_at_hangup()
        while not output.ended and asyncio.get_running_loop().time() < give_up:
            before = output.copied
            await asyncio.wait({output.finished}, timeout=_QUIET)
            if output.copied == before:
                return

    def close(self) -> None:
        """Stop copying and close all that is open. May be called twice."""
        self.close_child()
        self.close_stdin()
        for copier in (self._input, self._output):
            if copier is not None:
                copier.stop()
        self._input = self._output = None
        for descriptor in (self._stdin, self._stdout, self._master, *self._kept):
            if descriptor >= 0:
                os.close(descriptor)
        self._stdin = self._stdout = self._master = -1
        self._kept.clear()

    def _end_input(self, last: bytes) -> bytes:
        """What the terminal is told when there will be no more input: the character that means that to its reader."""
        try:
            settings = termios.tcgetattr(self._master)
        except termios.error:
            return b""
        if not settings[3] & termios.ICANON:
            return b""  # such a reader takes characters as they are
        end: bytes = settings[6][termios.VEOF]
        return end if last == b"\n" or not last else end * 2  # the first one ends the line that was begun

    def _end_output(self) -> None:
        """Let the client see the end of the output; what it has not read yet stays in the FIFO."""
        if self._stdout >= 0:
            os.close(self._stdout)
            self._stdout = -1


def _nothing(last: bytes) -> bytes:
    del last
    return b""


class _Copier:
    """One direction. Reads while there is room, writes while there is something, and is asleep otherwise."""

    def __init__(
        self, source: int, target: int, at_end: Callable[[bytes], bytes] = _nothing, *, retry: bool = False
    ) -> None:
        """*at_end* gives the last bytes, from the last one read. With *retry* a hang-up is not the end yet."""
        self._loop = asyncio.get_running_loop()
        self._source, self._target = source, target
        self._at_end = at_end
        self._retries = retry
        self._kept = bytearray()
        self._last = b""
        self._source_ended = False
        self._reading = self._writing = False
        self._timer: asyncio.Handle | None = None
        self.copied = 0
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._arrange()

    @property
    def ended(self) -> bool:
        return self.finished.done()

    def end_at_hangup(self) -> None:
        """Take the next hang-up for the end: the process is gone."""
        self._retries = False
        if self._timer is not None:
            self._wake()

    def stop(self) -> None:
        """Leave both descriptors alone."""
        self._source_ended = True
        self._kept.clear()
        self._arrange()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arrange(self) -> None:
        """Have the loop watch what there is to do something about."""
        wants_read = not self._source_ended and len(self._kept) < _MOST_KEPT and self._timer is None
        wants_write = bool(self._kept)
        if wants_read != self._reading:
            self._reading = wants_read
            if not wants_read:
                self._loop.remove_reader(self._source)
            else:
                try:
                    self._loop.add_reader(self._source, self._read)
                except PermissionError:  # a file: always ready, and nothing that epoll(7) takes
                    self._reading = False
                    self._timer = self._loop.call_soon(self._wake_and_read)
        if wants_write != self._writing:
            self._writing = wants_write
            if not wants_write:
                self._loop.remove_writer(self._target)
            else:
                try:
                    self._loop.add_writer(self._target, self._write)
                except PermissionError:
                    self._writing = False
                    self._write()
        if self._source_ended and not self._kept and not self.finished.done():
            self.finished.set_result(None)

    def _wake(self) -> None:
        self._timer = None
        self._arrange()

    def _wake_and_read(self) -> None:
        self._timer = None
        self._read()

    def _read(self) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # a master whose slave nobody has open
            if self._retries:
                # a program may close its terminal and open it again
                self._timer = self._loop.call_later(_RETRY, self._wake)
                self._arrange()
                return
        if not data:
            self._source_ended = True
            data = self._at_end(self._last)
        self._last = data[-1:] or self._last
        was_empty = not self._kept
        self._kept += data
        if was_empty and data:
            self._write()
        else:
            self._arrange()

    def _write(self) -> None:
        try:
            count = os.write(self._target, self._kept) if self._kept else 0
        except BlockingIOError:
            count = 0
        except OSError:
            # a terminal that has hung up, a file system that is full: it takes nothing any more
            count = len(self._kept)
        self.copied += count
        del self._kept[:count]
        self._arrange()


def send_to_console_socket(path: str, master: int, name: str) -> None:
    """Hand the terminal *master*, whose slave is called *name*, to whoever listens at the socket *path*.

    As `--console-socket` of runtimes has it: one message on a stream, the name with the descriptor.
    Raises: FailedPreconditionError.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as line:
            line.connect(path)
            socket.send_fds(line, [name.encode()], [master])
    except OSError as error:
        raise FailedPreconditionError(
            f"the terminal cannot be handed to the console socket {path!r}: {error.strerror or error}; "
            "whoever wants it has to listen there before the container is created"
        ) from error
