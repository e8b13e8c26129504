"""What a command hands on to the process that it starts: streams, descriptors, signals; and its pid to a file."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from ..container.stdio import InheritedStdio, Streams
from ..container.terminal import TerminalStreams
from ..errors import InvalidArgumentError, NotFoundError
from .own_terminal import own_terminal, raw

__all__ = ["handing_on_signals", "preserved_descriptors", "raw_if_needed", "streams_of", "write_pid"]

_FIRST_PRESERVED: Final = 3
_OWN: Final = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
}


def streams_of(*, terminal: bool, console_socket: str, stays: bool) -> Streams:
    """The streams of a process: this one's own, or a terminal that goes to a socket or to this process's terminal.

    Raises: InvalidArgumentError, FailedPreconditionError.
    """
    if not terminal:
        if console_socket:
            raise InvalidArgumentError(
                f"--console-socket is {console_socket!r}, but the process has no terminal; leave it out, or ask for a "
                "terminal (process.terminal, or --tty)"
            )
        return InheritedStdio()
    if console_socket:
        return TerminalStreams("", "", console_socket)
    if not stays:
        raise InvalidArgumentError(
            "the process is to have a terminal, and nobody who stays takes it: give --console-socket, or make "
            "process.terminal false"
        )
    return own_terminal()


def raw_if_needed(streams: Streams) -> AbstractContextManager[None]:
    """This process's terminal in raw mode, if it is the other end of *streams*."""
    return raw(streams) if isinstance(streams, TerminalStreams) and streams.copies else nullcontext()


def preserved_descriptors(count: int) -> tuple[int, ...]:
    """The *count* descriptors from 3 on, to be handed on. Raises: InvalidArgumentError for one that is not open."""
    preserved = tuple(range(_FIRST_PRESERVED, _FIRST_PRESERVED + count))
    for descriptor in preserved:
        try:
            os.set_inheritable(descriptor, True)
        except OSError:
            raise InvalidArgumentError(
                f"--preserve-fds asks for descriptor {descriptor}, which is not open; ask for as many as are"
            ) from None
    return preserved


def write_pid(path: str, pid: int) -> None:
    """Write the pid file, whole from the moment when it is there. Raises: OSError."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
    with open(temporary, "w", encoding="ascii") as file:
        file.write(str(pid))
    os.rename(temporary, path)


@contextmanager
def handing_on_signals(kill: Callable[[int], None], ended: asyncio.Future[Any]) -> Generator[None, None, None]:
    """Hand every signal that arrives on by *kill*, until the process has *ended*."""
    loop = asyncio.get_running_loop()
    handed_on = set(signal.Signals) - _OWN

    def hand_on(number: int) -> None:
        if not ended.done():
            with suppress(NotFoundError):  # it has just ended
                kill(number)

    for each in handed_on:
        loop.add_signal_handler(each, hand_on, each)
    try:
        yield
    finally:
        for each in handed_on:
            loop.remove_signal_handler(each)
