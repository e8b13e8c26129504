"""A fork whose child is not the caller's but its parent's: for a process that forks on behalf of another.

Source: clone(2), CLONE_PARENT; CPython, Include/cpython/pylifecycle.h.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Final

from .libc import SYSCALLS, last_error, libc

__all__ = ["fork_sibling"]

_CLONE_PARENT: Final = 0x00008000  # include/uapi/linux/sched.h

_before_fork: Final = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_in_parent: Final = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_in_child: Final = ctypes.pythonapi.PyOS_AfterFork_Child


def fork_sibling() -> int:
    """Like os.fork(), but the new process is a child of this process's parent, which collects it. One thread only.

    The C library is not told, which matters to threads alone: there are none, and those that the child starts get
    numbers of their own. Raises: OSError.
    """
    _before_fork()
    pid = int(libc.syscall(ctypes.c_long(SYSCALLS["clone"]), _CLONE_PARENT | signal.SIGCHLD.value, 0, 0, 0, 0))
    if pid == 0:
        _after_fork_in_child()
        return 0
    error = last_error("clone") if pid < 0 else None
    _after_fork_in_parent()
    if error is not None:
        raise error
    return pid
