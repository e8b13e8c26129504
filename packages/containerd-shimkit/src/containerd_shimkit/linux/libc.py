"""The C library: prototypes of what Python does not offer on every version, and errno as OSError.

The only use of ctypes here: structures go in and come back as bytes, which the callers pack with `struct`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from ctypes import c_char, c_char_p, c_int, c_long, c_size_t, c_uint32, c_ulong
from typing import Final

__all__ = ["SYSCALLS", "encode", "last_error", "libc", "syscall"]

# one table, as the newer calls have one number everywhere. Source: arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h of the kernel
_COMMON: Final = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "pidfd_open": 434,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
_BY_MACHINE: Final = {
    "x86_64": {
        "clone": 56,
        "personality": 135,
        "fstatfs": 138,
        "capget": 125,
        "capset": 126,
        "pivot_root": 155,
        "prctl": 157,
        "set_mempolicy": 238,
        "keyctl": 250,
        "ioprio_set": 251,
        "prlimit64": 302,
        "sched_setattr": 314,
        "seccomp": 317,
        "bpf": 321,
        **_COMMON,
    },
    "aarch64": {
        "clone": 220,
        "ioprio_set": 30,
        "fstatfs": 44,
        "pivot_root": 41,
        "capget": 90,
        "capset": 91,
        "personality": 92,
        "prctl": 167,
        "keyctl": 219,
        "set_mempolicy": 237,
        "prlimit64": 261,
        "sched_setattr": 274,
        "seccomp": 277,
        "bpf": 280,
        **_COMMON,
    },
}


def _syscalls(machine: str) -> dict[str, int]:
    if machine not in _BY_MACHINE:
        raise ImportError(
            f"containerd_shimkit.linux does not know the system calls' numbers of {machine!r}; "
            f"it runs on {' and '.join(_BY_MACHINE)}"
        )
    return _BY_MACHINE[machine]


SYSCALLS: Final = _syscalls(platform.machine())

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
libc.umount2.argtypes = (c_char_p, c_int)
libc.unshare.argtypes = (c_int,)
libc.setns.argtypes = (c_int, c_int)
libc.sethostname.argtypes = (c_char_p, c_size_t)
libc.setdomainname.argtypes = (c_char_p, c_size_t)
libc.inotify_init1.argtypes = (c_int,)
libc.inotify_add_watch.argtypes = (c_int, c_char_p, c_uint32)
libc.prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
libc.syscall.restype = c_long


def last_error(call: str, *names: str) -> OSError:
    """The error of the C call that has just failed: errno's subclass of OSError, with *call* and at most two names."""
    number = ctypes.get_errno()
    first, second = (*names, None, None)[:2]
    return OSError(number, f"{call}: {os.strerror(number)}", first, None, second)


def encode(text: str) -> bytes:
    """*text* as the kernel takes it. Raises: OSError (EINVAL) for a NUL in it, behind which nothing would be read."""
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "a NUL character in a name", text)
    return encoded


def syscall(call: str, *arguments: int | bytes | bytearray) -> int:
    """Make the system call named *call*: numbers by value, bytes by reference, a bytearray to be written to.

    Raises: OSError. Source: syscall(2).
    """
    result = int(libc.syscall(c_long(SYSCALLS[call]), *map(_argument, arguments)))
    if result < 0:
        raise last_error(call)
    return result


def _argument(value: int | bytes | bytearray) -> c_ulong | bytes | ctypes.Array[c_char]:
    if isinstance(value, int):
        return c_ulong(value)
    return value if isinstance(value, bytes) else (c_char * len(value)).from_buffer(value)
