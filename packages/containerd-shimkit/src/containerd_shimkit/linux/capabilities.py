"""Capabilities: names, masks (bit n is capability n) and the five sets of the calling thread.

A name that this kernel does not know is left out, as the runtime specification wants it, and for callers to report; a
capability that this process does not have itself cannot be given, and asking for it is an error that names it.
Source: capabilities(7), capset(2), prctl(2); include/uapi/linux/capability.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from .libc import last_error, libc, syscall

__all__ = [
    "CAPABILITIES",
    "capability_mask",
    "capability_names",
    "drop_bounding",
    "last_capability",
    "permitted_mask",
    "set_ambient",
    "set_capabilities",
    "set_keep_caps",
    "unknown_capabilities",
]

_NAMES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE"),
    *("AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM"),
    *("BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
CAPABILITIES: Final[Mapping[str, int]] = {f"CAP_{name}": number for number, name in enumerate(_NAMES)}
"""Numbers by name, in the kernel's order."""

_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_HEADER: Final = struct.pack("=Ii", 0x20080522, 0)  # version 3: 64 bits; of the calling thread
_UNKNOWN: Final = 64  # one more than a mask can hold
_WORD: Final = 0xFFFFFFFF
_SETS: Final = struct.Struct("=6I")  # effective, permitted, inheritable: the low halves, then the high ones


@lru_cache(maxsize=1)
def last_capability() -> int:
    """The highest capability that this kernel knows. Asked of the kernel itself: a container may have no /proc."""
    return next((n for n in range(63, -1, -1) if libc.prctl(_PR_CAPBSET_READ, n, 0, 0, 0) >= 0), -1)


def capability_mask(names: Iterable[str]) -> int:
    """The mask of *names* (`CAP_KILL`); those that this kernel does not know, `unknown_capabilities`, are left out."""
    mask = 0
    for name in names:
        number = CAPABILITIES.get(name.upper(), _UNKNOWN)
        if number <= last_capability():
            mask |= 1 << number
    return mask


def capability_names(mask: int) -> tuple[str, ...]:
    """The names of the capabilities in *mask*."""
    return tuple(map(_name, _numbers(mask)))


def unknown_capabilities(names: Iterable[str]) -> tuple[str, ...]:
    """Those of *names* that `capability_mask` leaves out: this kernel has no such capability."""
    return tuple(name for name in names if CAPABILITIES.get(name.upper(), _UNKNOWN) > last_capability())


def drop_bounding(keep_mask: int) -> None:
    """Take every capability that is not in *keep_mask* off the bounding set. Raises: OSError. Source: prctl(2)."""
    for number in range(last_capability() + 1):
        if keep_mask >> number & 1:
            continue
        # what is gone already can be dropped again, which is cheaper than asking first; it takes the privilege, though
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            error = last_error("prctl(PR_CAPBSET_DROP)", _name(number))
            if libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) != 0:
                raise error


def permitted_mask() -> int:
    """The calling thread's permitted set. Raises: OSError. Source: capset(2)."""
    data = bytearray(_SETS.size)
    syscall("capget", _HEADER, data)
    sets = _SETS.unpack(data)
    return int(sets[1] | sets[4] << 32)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets to these masks.

    Raises: PermissionError that names what this thread does not have itself; OSError. Source: capset(2).
    """
    if missing := (effective | permitted | inheritable) & ~permitted_mask():
        names = ", ".join(map(_name, _numbers(missing)))
        raise PermissionError(errno.EPERM, f"capset: this process does not have {names} itself, so it cannot give it")
    masks = (effective, permitted, inheritable)
    syscall("capset", _HEADER, _SETS.pack(*(mask & _WORD for mask in masks), *(mask >> 32 for mask in masks)))


def set_ambient(mask: int) -> None:
    """Make *mask* the ambient set. Raises: OSError; EPERM for one not permitted and inheritable. Source: prctl(2)."""
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0:
        raise last_error("prctl(PR_CAP_AMBIENT_CLEAR_ALL)")
    for number in _numbers(mask):
        if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0) < 0:
            raise last_error("prctl(PR_CAP_AMBIENT_RAISE)", _name(number))


def set_keep_caps(keep: bool) -> None:
    """Whether the permitted set survives the change from uid 0 to others. Raises: OSError. Source: prctl(2)."""
    if libc.prctl(_PR_SET_KEEPCAPS, int(keep), 0, 0, 0) < 0:
        raise last_error("prctl(PR_SET_KEEPCAPS)")


def _numbers(mask: int) -> Iterator[int]:
    return (number for number in range(mask.bit_length()) if mask >> number & 1)


def _name(number: int) -> str:
    return f"CAP_{_NAMES[number]}" if number < len(_NAMES) else f"capability {number}"
