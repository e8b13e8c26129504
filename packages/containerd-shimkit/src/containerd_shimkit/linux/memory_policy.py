"""From which NUMA nodes a process takes its memory. Source: set_mempolicy(2); include/uapi/linux/mempolicy.h."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .libc import syscall

__all__ = ["MODES", "MODE_FLAGS", "set_memory_policy"]

MODES: Final[Mapping[str, int]] = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MODE_FLAGS: Final[Mapping[str, int]] = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_BITS: Final = 1024  # no kernel has more nodes


def set_memory_policy(mode: str, nodes: Iterable[int], flags: Iterable[str]) -> None:
    """Make this process, and what it executes, take its memory as *mode* says from *nodes*, numbers below 1024.

    Raises: OSError (ENOSYS: a kernel without NUMA; EINVAL: one without this mode, these flags or these nodes).
    """
    value = MODES[mode] | sum(MODE_FLAGS[flag] for flag in frozenset(flags))
    mask = sum(1 << node for node in frozenset(nodes))
    if mask:
        # the kernel takes one off the number of bits
        syscall("set_mempolicy", value, mask.to_bytes(_BITS // 8, "little"), _BITS + 1)
    else:
        syscall("set_mempolicy", value, 0, 0)
