"""Resource limits by name. Source: getrlimit(2)."""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["set_rlimit"]

_INFINITY: Final = (1 << 64) - 1
_NAMES: Final = (
    *("AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO"),
    *("SIGPENDING", "STACK"),
)
_NUMBERS: Final[dict[str, int]] = {
    f"RLIMIT_{name}": getattr(resource, f"RLIMIT_{name}") for name in _NAMES if hasattr(resource, f"RLIMIT_{name}")
}
_NUMBERS.update(RLIMIT_LOCKS=10, RLIMIT_RTTIME=15)  # asm-generic/resource.h: not in Python's module


def set_rlimit(type: str, soft: int, hard: int) -> None:  # noqa: A002  (the specification's word)
    """Limit this process; 2^64-1 is infinity. Raises: OSError; ValueError for an unknown name or soft above hard."""
    if type not in _NUMBERS:
        raise ValueError(f"{type!r} is not a resource limit; known are {', '.join(sorted(_NUMBERS))}")
    limits = tuple(resource.RLIM_INFINITY if value == _INFINITY else value for value in (soft, hard))
    resource.setrlimit(_NUMBERS[type], (limits[0], limits[1]))
