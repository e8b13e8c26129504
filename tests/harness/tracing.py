"""Killing a process between two of its system calls: the one way to meet it at a moment of its work, and at each."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

# include/uapi/linux/ptrace.h, wait.h
_DETACH = 17
_SYSCALL = 24
_SEIZE = 0x4206
_INTERRUPT = 0x4207
_TRACE_SYSTEM_CALLS = 1
_KILL_WITH_TRACER = 1 << 20
_ANY_THREAD = 0x40000000  # __WALL
_IS_SYSTEM_CALL = 0x80
_EVENT_STOP = 128


class Traced:
    """A process, not a child of this one perhaps, that stops at its system calls; used in one thread only."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ptrace(_SEIZE, _TRACE_SYSTEM_CALLS | _KILL_WITH_TRACER)
        self._ptrace(_INTERRUPT)
        os.waitpid(pid, _ANY_THREAD)

    def pass_calls(self, count: int, is_enough: Callable[[], bool]) -> int:
        """Have it come to the beginning of its *count*th system call, or until *is_enough*; how many it began."""
        begun, enters = 0, True
        pending = 0
        while begun < count:
            self._ptrace(_SYSCALL, pending)
            status = self._wait(is_enough)
            if status is None:
                return begun
            pending = 0
            if os.WSTOPSIG(status) == signal.SIGTRAP | _IS_SYSTEM_CALL:
                begun += enters
                enters = not enters
            elif status >> 16 != _EVENT_STOP:
                pending = os.WSTOPSIG(status)  # a signal of its own: it is to have it
        return begun

    def let_go(self) -> None:
        """Have it go on alone, from a stop."""
        self._ptrace(_DETACH)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        while not os.WIFSIGNALED(os.waitpid(self._pid, _ANY_THREAD)[1]):
            pass

    def _wait(self, is_enough: Callable[[], bool]) -> int | None:
        while True:
            pid, status = os.waitpid(self._pid, _ANY_THREAD | os.WNOHANG)
            if pid:
                assert os.WIFSTOPPED(status), f"it has ended: {status:#x}"
                return status
            if is_enough():
                return None
            time.sleep(0.0005)

    def _ptrace(self, request: int, data: int = 0) -> None:
        if _libc.ptrace(request, self._pid, None, data) < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"ptrace {request:#x}: {os.strerror(error)}")


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
_libc.ptrace.restype = ctypes.c_long
