"""This process's own terminal as a container's: for `run` and `exec` that somebody types."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

from ..container.terminal import TerminalStreams
from ..errors import FailedPreconditionError

__all__ = ["own_size", "own_terminal", "raw"]


def own_terminal() -> TerminalStreams:
    """Streams that copy between a container's terminal and this process's. Raises: FailedPreconditionError."""
    try:
        # opened anew: what is made non-blocking must not be what this process's own parent reads from
        name = os.ttyname(0)
        return TerminalStreams(name, name)
    except OSError:
        raise FailedPreconditionError(
            "process.terminal is true, but the standard input of this command is no terminal; give it one, or "
            "--console-socket, or make process.terminal false"
        ) from None


def own_size() -> tuple[int, int] | None:
    """Height and width of this process's terminal, for the container's to begin with; None when it has none."""
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return None
    return size.lines, size.columns


@contextmanager
def raw(streams: TerminalStreams) -> Generator[None, None, None]:
    """Hand on what is typed as it is typed, and the window's size whenever it changes; all is put back at the end."""
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(0)

    def resize() -> None:
        size = os.get_terminal_size(0)
        streams.resize(size.columns, size.lines)

    tty.setraw(0)
    loop.add_signal_handler(signal.SIGWINCH, resize)
    try:
        resize()
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        termios.tcsetattr(0, termios.TCSADRAIN, before)
