"""Forks that write less: what the standard library does in each child for the sake of threads is left out.

After a fork `threading` and `logging` make new locks for everything they know, in Python: half a megabyte of memory
that the child no longer shares with its parent, and the time for copying it, in every container. A process that has
one thread whenever it forks has no lock that another could hold.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import FunctionType

__all__ = ["quieten_forks"]


def quieten_forks() -> None:
    """Leave that out in the children of this process from now on, which may fork only while it has one thread.

    Theirs is lost: in a child, threads that the parent had still look alive. Python has no way to take back what was
    registered for forks, but the functions themselves can be given other work.
    """
    _replace(threading, "_after_fork", _nothing)
    # the lock was taken before the fork, by the thread that there is in the child
    _replace(logging, "_after_at_fork_child_reinit_locks", _release)


def _replace(module: object, name: str, replacement: Callable[[], None]) -> None:
    function = getattr(module, name, None)
    if isinstance(function, FunctionType) and isinstance(replacement, FunctionType):
        function.__code__ = replacement.__code__


def _nothing() -> None:
    pass


def _release() -> None:
    _lock.release()  # type: ignore[name-defined]  # noqa: F821  (runs with the names of `logging`)
