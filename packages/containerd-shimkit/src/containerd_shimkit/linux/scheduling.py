"""How the kernel serves a process: with the CPU and with its disks, by the names that its headers have.

Source: sched_setattr(2), ioprio_set(2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from .libc import syscall

__all__ = ["IO_CLASSES", "POLICIES", "POLICY_FLAGS", "set_io_priority", "set_scheduler"]

# include/uapi/linux/sched.h
POLICIES: Final[Mapping[str, int]] = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
POLICY_FLAGS: Final[Mapping[str, int]] = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
}
# include/uapi/linux/ioprio.h
IO_CLASSES: Final[Mapping[str, int]] = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_CLASS_SHIFT: Final = 13
_WHO_PROCESS: Final = 1
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")  # struct sched_attr: its own size comes first


def set_scheduler(
    policy: str,
    nice: int,
    priority: int,
    flags: Iterable[str],
    runtime: int,
    deadline: int,
    period: int,
    pid: int = 0,
) -> None:
    """Have the process *pid* (0: this thread) scheduled by *policy*; times in nanoseconds.

    Raises: OSError (EPERM: the policy, or the negative nice value, needs CAP_SYS_NICE; EBUSY: the CPUs' time is
    promised to others already). Source: sched_setattr(2).
    """
    bits = sum(POLICY_FLAGS[flag] for flag in frozenset(flags))
    size = _ATTRIBUTES.size
    attributes = _ATTRIBUTES.pack(size, POLICIES[policy], bits, nice, priority, runtime, deadline, period)
    syscall("sched_setattr", pid, attributes, 0)


def set_io_priority(io_class: str, priority: int, pid: int = 0) -> None:
    """Have the process *pid* (0: this thread) served by disks in *io_class*, there with *priority*, 0 (first) to 7.

    Raises: OSError (EPERM: the real-time class needs CAP_SYS_ADMIN or CAP_SYS_NICE). Source: ioprio_set(2).
    """
    syscall("ioprio_set", _WHO_PROCESS, pid, IO_CLASSES[io_class] << _CLASS_SHIFT | priority)
