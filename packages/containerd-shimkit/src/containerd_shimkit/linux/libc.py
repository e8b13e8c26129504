"""The C library by ctypes: prototypes, system call numbers, errno as OSError. The only ctypes outside of engines."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

__all__ = ["SYS_CAPGET", "SYS_CAPSET", "SYS_OPENAT2", "SYS_PIDFD_SEND_SIGNAL", "SYS_PIVOT_ROOT", "last_error", "libc"]

libc: Final = ctypes.CDLL(None, use_errno=True)

_int, _uint, _ulong, _text = ctypes.c_int, ctypes.c_uint, ctypes.c_ulong, ctypes.c_char_p

libc.mount.argtypes = [_text, _text, _text, _ulong, _text]
libc.umount2.argtypes = [_text, _int]
libc.unshare.argtypes = [_int]
libc.setns.argtypes = [_int, _int]
libc.prctl.argtypes = [_int, _ulong, _ulong, _ulong, _ulong]
libc.sethostname.argtypes = [_text, ctypes.c_size_t]
libc.setdomainname.argtypes = [_text, ctypes.c_size_t]
libc.syscall.restype = ctypes.c_long

SYS_OPENAT2: Final = 437  # the same on every architecture, like all calls since Linux 5.1
SYS_PIDFD_SEND_SIGNAL: Final = 424
SYS_PIVOT_ROOT: Final = {"x86_64": 155}.get(platform.machine(), 41)  # 41: asm-generic, as aarch64 and riscv64
SYS_CAPSET: Final = {"x86_64": 126}.get(platform.machine(), 91)
SYS_CAPGET: Final = {"x86_64": 125}.get(platform.machine(), 90)


def last_error(call: str, *names: str) -> OSError:
    """The error that the last call through `libc` left, with the call's name and what it was about."""
    number = ctypes.get_errno()
    about = " ".join(name for name in names if name)
    return OSError(number, f"{call}: {os.strerror(number)}", about or None)
