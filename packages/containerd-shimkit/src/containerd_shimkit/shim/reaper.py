"""The one place of a shim that collects children: its own, by pid, and strangers', which a subreaper is handed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from ..instance import ExitStatus

__all__ = ["Reaper", "run_collecting"]

T = TypeVar("T")


class Reaper:
    """Exit statuses of forked children.

    A pid given to `watch` right after the fork cannot have been collected before: both happen in the loop's thread.
    Signals go through `kill`, for only the reaper knows whether a pid is still the child's.
    """

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Reaper]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._watched: dict[int, asyncio.Future[ExitStatus]] = {}
        self._expecting = 0
        self._early: dict[int, ExitStatus] = {}  # of children that somebody is about to watch

    @classmethod
    def current(cls) -> Reaper:
        """The running loop's reaper, started if need be: a process collects its children in one place or loses them."""
        loop = asyncio.get_running_loop()
        reaper = cls._of_loop.get(loop)
        if reaper is None:
            reaper = cls._of_loop[loop] = cls()
            reaper.start()
        return reaper

    def start(self) -> None:
        """Begin to collect, on the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._collect)

    def stop(self) -> None:
        """Stop collecting; what still lives is left alone."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    async def finish(self) -> None:
        """Wait for all that are watched, and stop."""
        while self._watched:
            await asyncio.wait(self._watched.values())
        self.stop()

    def watch(self, pid: int) -> asyncio.Future[ExitStatus]:
        """A future of the end of the child *pid*, to be asked for before control goes back to the loop."""
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        if (ended := self._early.pop(pid, None)) is not None:
            future.set_result(ended)
        else:
            self._watched[pid] = future
        return future

    @contextmanager
    def expecting(self) -> Generator[None, None, None]:
        """While another process forks children for this one: they may be watched as soon as their pid is known."""
        self._expecting += 1
        try:
            yield
        finally:
            self._expecting -= 1
            if not self._expecting:
                self._early.clear()

    def kill(self, pid: int, signal: int) -> bool:
        """Send *signal* to the child *pid*; False when it has been collected, so that the pid may be a stranger's."""
        if pid not in self._watched:
            return False
        os.kill(pid, signal)
        return True

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            future = self._watched.pop(pid, None)
            if future is None and not self._expecting:
                continue
            ended = ExitStatus(exit_status_of(status), datetime.now(timezone.utc))
            if future is None:
                self._early[pid] = ended
            elif not future.done():
                future.set_result(ended)


def run_collecting(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` for a program that is no shim but forks as one does: its children are collected to the end.

    Those that are watched have ended when it returns. asyncio closes what a signal writes to before it gives up the
    signal: a child that ended in between would have Python complain of a bad descriptor.
    """

    async def whole() -> T:
        reaper = Reaper.current()
        try:
            return await main
        finally:
            await reaper.finish()

    return asyncio.run(whole())


def exit_status_of(wait_status: int) -> int:
    """waitpid's status as containerd counts: the exit status, or 128 + the signal that ended it."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
