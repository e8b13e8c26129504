"""Resource limits by their names, in the whole range of the kernel's numbers. Source: getrlimit(2)."""

from __future__ import annotations

import resource
import struct
from collections.abc import Mapping
from typing import Final

from ..errors import InvalidArgumentError
from .libc import syscall

__all__ = [
    "RLIMITS",
    "RLIM_INFINITY",
    "raise_descriptor_limit",
    "raise_hard_limit",
    "restore_descriptor_limit",
    "set_rlimit",
]

RLIM_INFINITY: Final = (1 << 64) - 1

_LIMITS: Final = struct.Struct("=QQ")  # soft, hard
# include/uapi/asm-generic/resource.h
_NAMES: Final = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING"),
    *("MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
RLIMITS: Final[Mapping[str, int]] = {f"RLIMIT_{name}": number for number, name in enumerate(_NAMES)}
"""Numbers by name."""


def set_rlimit(type: str, soft: int, hard: int) -> None:  # noqa: A002  (the specification's word)
    """Set this process's limit named *type* (`RLIMIT_NOFILE`).

    Raises: InvalidArgumentError for an unknown name or a number out of range; OSError (EPERM: the hard limit may be
    raised with CAP_SYS_RESOURCE only).
    """
    if type not in RLIMITS:
        raise InvalidArgumentError(f"process.rlimits has the unknown type {type!r}; known are {', '.join(RLIMITS)}")
    # resource.setrlimit() cannot take numbers of 2^63 and more
    for name, value in (("soft", soft), ("hard", hard)):
        if not 0 <= value <= RLIM_INFINITY:
            raise InvalidArgumentError(
                f"process.rlimits: {type} has the {name} limit {value}; 0 to 2^64-1 are possible"
            )
    try:
        syscall("prlimit64", 0, RLIMITS[type], _LIMITS.pack(soft, hard), 0)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({type}, soft {soft}, hard {hard})") from None


def raise_hard_limit(type: str, hard: int) -> None:  # noqa: A002
    """Raise this process's hard limit named *type* to *hard*, if it is lower; the soft one stays.

    Raises: as `set_rlimit`.
    """
    found = bytearray(_LIMITS.size)
    if type in RLIMITS:  # what is none is an error there
        syscall("prlimit64", 0, RLIMITS[type], 0, found)
    soft, there = _LIMITS.unpack(found)
    if there < hard:
        set_rlimit(type, soft, hard)


_descriptor_limit: tuple[int, int] | None = None


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as its hard limit allows; `restore_descriptor_limit` undoes it.

    Done by a process and again by what it forks, the limit that there was first counts.
    """
    global _descriptor_limit  # (a process has one limit, and what it forks must find the old one)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _descriptor_limit is None:
        _descriptor_limit = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))


def restore_descriptor_limit() -> None:
    """Give a forked child the limit that its parent had before `raise_descriptor_limit`, if it called that."""
    if _descriptor_limit is not None:
        # the hard limit was never changed, but may have been raised since
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (_descriptor_limit[0], hard))
