"""Attributes of a process that the kernel schedules, counts and places it by: strictly parsed, in the kernel's words.

What contradicts itself is refused here, before anything is made. Pure.
Source: OCI runtime specification 1.3, config.md ("Scheduler", "IOPriority", "ExecCPUAffinity") and config-linux.md
("Personality", "Time offsets", "Memory policy", "Network devices"); sched(7), ioprio_set(2), set_mempolicy(2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import UnimplementedError
from .strict_json import INT64, UINT64, JsonObject

__all__ = [
    "IO_CLASSES",
    "MEMORY_FLAGS",
    "MEMORY_MODES",
    "SCHEDULER_FLAGS",
    "SCHEDULER_POLICIES",
    "ExecCpuAffinity",
    "IoPriority",
    "MemoryPolicy",
    "Personality",
    "Scheduler",
    "TimeOffset",
    "exec_cpu_affinity_of",
    "io_priority_of",
    "memory_policy_of",
    "net_devices_of",
    "personality_of",
    "scheduler_of",
    "time_offsets_of",
]

SCHEDULER_POLICIES: Final = (
    *("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE"),
    "SCHED_DEADLINE",
)
SCHEDULER_FLAGS: Final = (
    *("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"),
    *("SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"),
)
_WITHOUT_VALUES: Final = ("SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX")
_REAL_TIME: Final = ("SCHED_FIFO", "SCHED_RR")
IO_CLASSES: Final = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
_DOMAINS: Final = ("LINUX", "LINUX32")
MEMORY_MODES: Final = (
    *("MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED_MANY"),
    "MPOL_WEIGHTED_INTERLEAVE",
)
MEMORY_FLAGS: Final = ("MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING")
_NODELESS: Final = ("MPOL_DEFAULT", "MPOL_LOCAL")
_CLOCKS: Final = ("monotonic", "boottime")
_MOST_CPUS: Final = 8192  # CONFIG_NR_CPUS at its largest
_MOST_NODES: Final = 1024  # MAX_NUMNODES at its largest
_SECOND: Final = 1_000_000_000
_LIST: Final = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")
_INTERFACE: Final = re.compile(r"[^/:\s]+")  # dev_valid_name() in net/core/dev.c
_LONGEST_NAME: Final = 15  # bytes: IFNAMSIZ without its NUL


@dataclass(frozen=True, slots=True)
class Scheduler:
    """`process.scheduler`; times in nanoseconds."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


@dataclass(frozen=True, slots=True)
class IoPriority:
    """`process.ioPriority`; within a class 0 is served first, 7 last."""

    io_class: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ExecCpuAffinity:
    """`process.execCPUAffinity`: the CPUs of an exec'd process before and after it enters the cgroup; empty: any."""

    initial: tuple[int, ...] = ()
    final: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Personality:
    """`linux.personality`: LINUX, or LINUX32 for a 64-bit kernel that shows itself as a 32-bit one."""

    domain: str


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """`linux.memoryPolicy`: from which NUMA nodes memory is taken."""

    mode: str
    nodes: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeOffset:
    """One of `linux.timeOffsets`: what a clock (`monotonic`, `boottime`) is ahead of the host's by."""

    clock: str
    secs: int = 0
    nanosecs: int = 0


def scheduler_of(found: JsonObject) -> Scheduler:
    """Read `process.scheduler`. Raises: InvalidArgumentError, UnimplementedError."""
    policy = _word(found, "policy", SCHEDULER_POLICIES)
    if policy == "SCHED_ISO":
        raise UnimplementedError(f"config.json: {found.place('policy')} is 'SCHED_ISO', which no kernel has yet")
    flags = _words(found, "flags", SCHEDULER_FLAGS)
    if without := [flag for flag in flags if flag in _WITHOUT_VALUES]:
        raise UnimplementedError(
            f"config.json: {found.place('flags')} has {without[0]!r}, for whose value the specification has "
            "no field; leave it out"
        )
    if policy in _REAL_TIME:
        priority = found.required_integer("priority", (1, 99))
    elif priority := found.integer("priority", INT64):
        raise found.error("priority", f"absent, for it belongs to SCHED_FIFO and SCHED_RR and policy is {policy}")
    times = {key: found.integer(key, UINT64) for key in ("runtime", "deadline", "period")}
    if policy == "SCHED_DEADLINE":
        if not 0 < times["runtime"] <= times["deadline"]:
            raise found.error("runtime", f"from 1 to deadline, {times['deadline']}, for SCHED_DEADLINE")
        if times["period"] and times["period"] < times["deadline"]:
            raise found.error("period", f"absent, or no less than deadline, {times['deadline']}")
    else:
        for key, value in times.items():
            if value:
                raise found.error(key, f"absent, for it belongs to SCHED_DEADLINE and policy is {policy}")
    return Scheduler(policy, found.integer("nice", (-20, 19)), priority, flags, **times)


def io_priority_of(found: JsonObject) -> IoPriority:
    """Read `process.ioPriority`. Raises: InvalidArgumentError."""
    return IoPriority(_word(found, "class", IO_CLASSES), found.integer("priority", (0, 7)))


def exec_cpu_affinity_of(found: JsonObject) -> ExecCpuAffinity:
    """Read `process.execCPUAffinity`. Raises: InvalidArgumentError."""
    return ExecCpuAffinity(_numbers(found, "initial", _MOST_CPUS), _numbers(found, "final", _MOST_CPUS))


def personality_of(found: JsonObject) -> Personality:
    """Read `linux.personality`. Raises: InvalidArgumentError."""
    if found.texts("flags"):
        raise found.error("flags", "absent, for the specification knows of none")
    return Personality(_word(found, "domain", _DOMAINS))


def memory_policy_of(found: JsonObject) -> MemoryPolicy:
    """Read `linux.memoryPolicy`. Raises: InvalidArgumentError."""
    mode, nodes = _word(found, "mode", MEMORY_MODES), _numbers(found, "nodes", _MOST_NODES)
    if mode in _NODELESS and nodes:
        raise found.error("nodes", f"absent, for mode is {mode}")
    if mode not in _NODELESS and not nodes:
        raise found.error("nodes", f"a list of nodes like 0-3,7, for mode is {mode}")
    return MemoryPolicy(mode, nodes, _words(found, "flags", MEMORY_FLAGS))


def time_offsets_of(found: JsonObject) -> tuple[TimeOffset, ...]:
    """Read `linux.timeOffsets`. Raises: InvalidArgumentError."""
    for clock in found.values:
        if clock not in _CLOCKS:
            raise found.error(clock, f"absent: the clocks of a time namespace are {' and '.join(_CLOCKS)}")
    offsets = ((clock, found.child(clock)) for clock in _CLOCKS)
    return tuple(
        TimeOffset(clock, offset.integer("secs", INT64), offset.integer("nanosecs", (0, _SECOND - 1)))
        for clock, offset in offsets
        if offset
    )


def net_devices_of(found: JsonObject) -> Mapping[str, str]:
    """Read `linux.netDevices`: for each of the host's interfaces its name in the container.

    Raises: InvalidArgumentError.
    """
    names: dict[str, str] = {}
    for name in found.values:
        device = found.child(name)
        inside = (device.text("name") if device else "") or name
        for each in (name, inside):
            if not _INTERFACE.fullmatch(each) or len(each.encode()) > _LONGEST_NAME or each in (".", ".."):
                raise found.error(name, f"about an interface with a possible name, which {each!r} is not")
        if inside in names.values():
            raise found.error(name, f"an interface with a name of its own: another is called {inside!r} as well")
        names[name] = inside
    return names


def _word(found: JsonObject, key: str, known: tuple[str, ...]) -> str:
    word = found.required_text(key)
    if word not in known:
        raise found.error(key, f"one of {', '.join(known)}")
    return word


def _words(found: JsonObject, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = found.texts(key)
    if any(word not in known for word in words):
        raise found.error(key, f"made of {', '.join(known)}")
    return words


def _numbers(found: JsonObject, key: str, limit: int) -> tuple[int, ...]:
    """A list of numbers below *limit* as the kernel prints them: `0-3,7`."""
    text = found.text(key)
    if not text:
        return ()
    numbers: set[int] = set()
    if _LIST.fullmatch(text):
        for part in text.split(","):
            first, _, last = part.partition("-")
            if int(first) > int(last or first) or int(last or first) >= limit:
                break
            numbers.update(range(int(first), int(last or first) + 1))
        else:
            return tuple(sorted(numbers))
    raise found.error(key, f"a list of numbers below {limit} like 0-3,7")
