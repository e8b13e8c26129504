"""`events`: a container's figures and what the kernel did to it, a JSON object a line, in the form of runc's."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..container import stats_v1, stats_v2
from ..errors import FailedPreconditionError
from ..proto import cgroups_v1_pb2 as v1
from ..proto import cgroups_v2_pb2 as v2
from .store import Entry

__all__ = ["as_line", "figures", "follow"]

_NANOSECONDS_PER_MICROSECOND = 1000


def figures(entry: Entry) -> dict[str, Any]:
    """The figures as one event. Raises: FailedPreconditionError, OSError."""
    cgroup = entry.cgroup
    cgroup.require_figures()
    if not entry.pid:
        raise FailedPreconditionError(f"container {entry.id!r} is {entry.status}: it uses nothing")
    data = (
        _of_version_2(stats_v2.read_metrics(cgroup.paths))
        if cgroup.version == 2
        else _of_version_1(stats_v1.read_metrics(cgroup.paths))
    )
    return {"type": "stats", "id": entry.id, "data": data}


def follow(entry: Entry, seconds: float) -> Iterator[dict[str, Any]]:
    """An event with figures each *seconds*, and one for each kill for want of memory, until the container ends."""
    with entry.cgroup.watch_oom() as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        following = time.monotonic()
        while entry.pid:
            if time.monotonic() >= following:
                yield figures(entry)
                following += seconds
            # a container's end shows by its pid alone: it is looked for once a second
            poll.poll(max(0.0, min(1.0, following - time.monotonic())) * 1000)
            if watch.was_killed():
                yield {"type": "oom", "id": entry.id}


def _of_version_1(found: v1.Metrics) -> dict[str, Any]:
    return {
        "cpu": {
            "usage": {
                "total": found.cpu.usage.total,
                "percpu": list(found.cpu.usage.per_cpu),
                "kernel": found.cpu.usage.kernel,
                "user": found.cpu.usage.user,
            },
            "throttling": {
                "periods": found.cpu.throttling.periods,
                "throttledPeriods": found.cpu.throttling.throttled_periods,
                "throttledTime": found.cpu.throttling.throttled_time,
            },
        },
        "memory": {
            "cache": found.memory.cache,
            "usage": _entry(found.memory.usage),
            "swap": _entry(found.memory.swap),
            "kernel": _entry(found.memory.kernel),
            "kernelTCP": _entry(found.memory.kernel_tcp),
        },
        "pids": _pids(found.pids.current, found.pids.limit),
        "blkio": {
            "ioServiceBytesRecursive": _blocks(found.blkio.io_service_bytes_recursive),
            "ioServicedRecursive": _blocks(found.blkio.io_serviced_recursive),
        },
        "hugetlb": {
            each.pagesize: {"usage": each.usage, "max": each.max, "failcnt": each.failcnt} for each in found.hugetlb
        },
    }


def _of_version_2(found: v2.Metrics) -> dict[str, Any]:
    cpu, memory = found.cpu, found.memory
    return {
        "cpu": {
            "usage": {
                "total": cpu.usage_usec * _NANOSECONDS_PER_MICROSECOND,
                "kernel": cpu.system_usec * _NANOSECONDS_PER_MICROSECOND,
                "user": cpu.user_usec * _NANOSECONDS_PER_MICROSECOND,
            },
            "throttling": {
                "periods": cpu.nr_periods,
                "throttledPeriods": cpu.nr_throttled,
                "throttledTime": cpu.throttled_usec * _NANOSECONDS_PER_MICROSECOND,
            },
        },
        "memory": {
            "cache": memory.file,
            "usage": _figures(memory.usage_limit, memory.usage, memory.max_usage),
            "swap": _figures(memory.swap_limit, memory.swap_usage, memory.swap_max_usage),
        },
        "pids": _pids(found.pids.current, found.pids.limit),
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": each.major, "minor": each.minor, "op": op, "value": value}
                for each in found.io.usage
                for op, value in (("Read", each.rbytes), ("Write", each.wbytes))
            ]
        },
        "hugetlb": {each.pagesize: {"usage": each.current, "max": each.max, "failcnt": 0} for each in found.hugetlb},
    }


def _entry(entry: v1.MemoryEntry) -> Mapping[str, int]:
    return {"limit": entry.limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt}


def _figures(limit: int, usage: int, most: int) -> Mapping[str, int]:
    return {"limit": limit, "usage": usage, "max": most, "failcnt": 0}


def _pids(current: int, limit: int) -> Mapping[str, int]:
    return {"current": current} | ({"limit": limit} if limit else {})


def _blocks(entries: Any) -> list[dict[str, Any]]:
    return [{"major": each.major, "minor": each.minor, "op": each.op, "value": each.value} for each in entries]


def as_line(event: Mapping[str, Any]) -> str:
    """An event as it is printed."""
    return json.dumps(event, separators=(",", ":"))
