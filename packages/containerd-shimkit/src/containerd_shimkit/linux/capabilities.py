"""Capabilities: names, and the five sets of the calling thread. Source: capabilities(7), capset(2), prctl(2)."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Iterable
from typing import Final

from .libc import SYS_CAPGET, SYS_CAPSET, last_error, libc

__all__ = [
    "CAPABILITIES",
    "capability_mask",
    "drop_bounding",
    "last_capability",
    "permitted_mask",
    "set_ambient",
    "set_capabilities",
    "set_keep_caps",
]

_log = logging.getLogger(__name__)

CAPABILITIES: Final = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN"),
    *("CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT"),
    *("CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE"),
    *("CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL"),
    *("CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND"),
    *("CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"),
)
"""Names in the order of their numbers, from include/uapi/linux/capability.h."""

_BITS: Final = {name: 1 << number for number, name in enumerate(CAPABILITIES)}
_VERSION_3: Final = 0x20080522
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_AMBIENT_RAISE: Final = 2
_AMBIENT_CLEAR_ALL: Final = 4
_WORD: Final = 0xFFFFFFFF


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@functools.cache
def last_capability() -> int:
    """The highest capability's number that this kernel knows. Asked of the kernel: there may be no /proc any more."""
    number = 0
    while libc.prctl(_PR_CAPBSET_READ, number + 1, 0, 0, 0) >= 0:
        number += 1
    return number


def capability_mask(names: Iterable[str]) -> int:
    """The bits of *names*; a name that this kernel or this table does not know is left out with a word in the log."""
    mask = 0
    known = (1 << last_capability() + 1) - 1
    for name in names:
        bit = _BITS.get(name.upper(), 0) & known
        if not bit:
            _log.warning("the capability %s is unknown here and cannot be granted", name)
        mask |= bit
    return mask


def permitted_mask() -> int:
    """The calling thread's permitted set. Raises: OSError."""
    data = (_Data * 2)()
    if libc.syscall(SYS_CAPGET, ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(data)) < 0:
        raise last_error("capget")
    low, high = int(data[0].permitted), int(data[1].permitted)
    return high << 32 | low


def drop_bounding(keep_mask: int) -> None:
    """Take every capability out of the bounding set that is not in *keep_mask*. Raises: OSError."""
    for number in range(last_capability() + 1):
        if not keep_mask >> number & 1 and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            raise last_error("prctl(PR_CAPBSET_DROP)", CAPABILITIES[number] if number < len(CAPABILITIES) else "")


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets. Raises: PermissionError that names what this thread does not have itself; OSError."""
    missing = permitted & ~permitted_mask()
    if missing:
        names = ", ".join(name for name, bit in _BITS.items() if missing & bit)
        raise PermissionError(1, f"this process does not have {names} itself, so it cannot grant it")
    data = (_Data * 2)()
    for half in (0, 1):
        shift = 32 * half
        data[half] = _Data(effective >> shift & _WORD, permitted >> shift & _WORD, inheritable >> shift & _WORD)
    if libc.syscall(SYS_CAPSET, ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(data)) < 0:
        raise last_error("capset", hex(effective), hex(permitted), hex(inheritable))


def set_ambient(mask: int) -> None:
    """Make *mask* the ambient set: each must be permitted and inheritable. Raises: OSError."""
    if libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0) < 0:
        raise last_error("prctl(PR_CAP_AMBIENT_CLEAR_ALL)")
    for number in range(mask.bit_length()):
        if mask >> number & 1 and libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0) < 0:
            raise last_error("prctl(PR_CAP_AMBIENT_RAISE)", CAPABILITIES[number])


def set_keep_caps(keep: bool) -> None:
    """Whether the permitted set survives a change from root to another user. Raises: OSError."""
    if libc.prctl(_PR_SET_KEEPCAPS, int(keep), 0, 0, 0) < 0:
        raise last_error("prctl(PR_SET_KEEPCAPS)")
