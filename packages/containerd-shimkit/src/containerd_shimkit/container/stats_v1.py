"""The figures of a version 1 control group, complete with the fields that callers dereference.

Source: kernel, admin-guide/cgroup-v1; containerd/cgroups, cgroup1/stats.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from ..proto import cgroups_v1_pb2 as v1
from .figures import UINT32_MAX, Figures, pairs_of

__all__ = ["TYPE", "read_metrics"]

TYPE: Final = "io.containerd.cgroups.v1.Metrics"

_NANOSECONDS_PER_TICK: Final = 10_000_000  # USER_HZ is 100 on every architecture that Python runs on
_MEMORY_NAMES: Final = {
    "pg_pg_in": "pgpgin",
    "pg_pg_out": "pgpgout",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
}
_MEMORY_SPECIAL: Final = {
    "hierarchical_memory_limit": "hierarchical_memory_limit",
    "hierarchical_swap_limit": "hierarchical_memsw_limit",
}
# what throttling counts is there with every scheduler; then BFQ's own figures, then CFQ's, of kernels before 5.0
_BLKIO_PREFIXES: Final = ("blkio.throttle", "blkio.bfq", "blkio")
_BLKIO_FILES: Final = {
    "io_service_bytes_recursive": "io_service_bytes_recursive",
    "io_serviced_recursive": "io_serviced_recursive",
    "io_queued_recursive": "io_queued_recursive",
    "io_service_time_recursive": "io_service_time_recursive",
    "io_wait_time_recursive": "io_wait_time_recursive",
    "io_merged_recursive": "io_merged_recursive",
    "io_time_recursive": "time_recursive",
    "sectors_recursive": "sectors_recursive",
}


def read_metrics(paths: Mapping[str, str]) -> v1.Metrics:
    """The figures of the group whose directories *paths* gives by controller.

    Raises: OSError (ENOENT, ENODEV) when it is gone.
    """
    metrics = v1.Metrics()
    readers = {
        "hugetlb": _hugetlb,
        "pids": _pids,
        "cpu": _throttling,
        "cpuacct": _cpu_usage,
        "memory": _memory,
        "blkio": _blkio,
        "rdma": _rdma,
    }
    for controller, reader in readers.items():
        if controller in paths:
            os.stat(paths[controller])  # a missing file says nothing: the group may be gone
            reader(metrics, Figures(paths[controller]))
    return metrics


def _hugetlb(metrics: v1.Metrics, figures: Figures) -> None:
    for size in (name.split(".")[1] for name in figures.names() if _is_page_limit(name)):
        usage, most, failures = (
            figures.number(f"hugetlb.{size}.{file}") or 0
            for file in ("usage_in_bytes", "max_usage_in_bytes", "failcnt")
        )
        metrics.hugetlb.add(pagesize=size, usage=usage, max=most, failcnt=failures)


def _is_page_limit(name: str) -> bool:
    """Whether a file is `hugetlb.2MB.limit_in_bytes`, and not the one of its reservations (`.rsvd.`)."""
    words = name.split(".")
    return len(words) == 3 and words[0] == "hugetlb" and words[2] == "limit_in_bytes"


def _rdma(metrics: v1.Metrics, figures: Figures) -> None:
    for field, file in (("current", "rdma.current"), ("limit", "rdma.max")):
        for device, values in pairs_of(figures.text(file) or ""):
            handles, objects = (_rdma_number(values.get(key, "0")) for key in ("hca_handle", "hca_object"))
            getattr(metrics.rdma, field).add(device=device, hca_handles=handles, hca_objects=objects)


def _rdma_number(word: str) -> int:
    return UINT32_MAX if word == "max" else int(word)


def _pids(metrics: v1.Metrics, figures: Figures) -> None:
    metrics.pids.current = figures.number("pids.current") or 0
    metrics.pids.limit = figures.number("pids.max", no_limit=0) or 0


def _cpu_usage(metrics: v1.Metrics, figures: Figures) -> None:
    usage = metrics.cpu.usage
    usage.SetInParent()
    usage.total = figures.number("cpuacct.usage") or 0
    ticks = figures.table("cpuacct.stat") or {}
    usage.user = ticks.get("user", 0) * _NANOSECONDS_PER_TICK
    usage.kernel = ticks.get("system", 0) * _NANOSECONDS_PER_TICK
    usage.per_cpu.extend(int(word) for word in (figures.text("cpuacct.usage_percpu") or "").split())


def _throttling(metrics: v1.Metrics, figures: Figures) -> None:
    table = figures.table("cpu.stat") or {}
    metrics.cpu.usage.SetInParent()  # callers read through it whenever there is a `cpu`
    throttling = metrics.cpu.throttling
    throttling.SetInParent()
    throttling.periods = table.get("nr_periods", 0)
    throttling.throttled_periods = table.get("nr_throttled", 0)
    throttling.throttled_time = table.get("throttled_time", 0)


def _memory(metrics: v1.Metrics, figures: Figures) -> None:
    memory, table = metrics.memory, figures.table("memory.stat") or {}
    for field in v1.MemoryStat.DESCRIPTOR.fields:
        if field.message_type is not None:
            continue
        name = _MEMORY_SPECIAL.get(field.name) or _memory_name(field.name)
        setattr(memory, field.name, table.get(name, 0))
    _entry(memory.usage, figures, "memory")
    _entry(memory.swap, figures, "memory.memsw")
    _entry(memory.kernel, figures, "memory.kmem")
    _entry(memory.kernel_tcp, figures, "memory.kmem.tcp")
    control = figures.table("memory.oom_control") or {}
    metrics.memory_oom_control.oom_kill_disable = control.get("oom_kill_disable", 0)
    metrics.memory_oom_control.under_oom = control.get("under_oom", 0)
    metrics.memory_oom_control.oom_kill = control.get("oom_kill", 0)


def _memory_name(field: str) -> str:
    """The kernel's name for a field: its words have no underscores where the message's have."""
    total, name = ("total_", field[6:]) if field.startswith("total_") else ("", field)
    return total + _MEMORY_NAMES.get(name, name)


def _entry(entry: v1.MemoryEntry, figures: Figures, prefix: str) -> None:
    entry.SetInParent()
    for field, file in (("limit", "limit"), ("usage", "usage"), ("max", "max_usage")):
        setattr(entry, field, figures.number(f"{prefix}.{file}_in_bytes") or 0)
    entry.failcnt = figures.number(f"{prefix}.failcnt") or 0


def _blkio(metrics: v1.Metrics, figures: Figures) -> None:
    metrics.blkio.SetInParent()
    names, there = dict[str, str](), frozenset(figures.names())
    for field, file in _BLKIO_FILES.items():
        for prefix in _BLKIO_PREFIXES:
            name = f"{prefix}.{file}"
            if name not in there:
                continue
            entries = [words for line in (figures.text(name) or "").splitlines() if ":" in (words := line.split())[0]]
            for number, *operation, value in entries:
                if number not in names:
                    names[number] = _device_name(number)
                major, _, minor = number.partition(":")
                getattr(metrics.blkio, field).add(
                    op=operation[0] if operation else "",
                    device=names[number],
                    major=int(major),
                    minor=int(minor),
                    value=int(value),
                )
            if entries:
                break


def _device_name(number: str) -> str:
    """The path of the block device `major:minor`; empty when it is gone."""
    try:
        return f"/dev/{os.path.basename(os.readlink(f'/sys/dev/block/{number}'))}"
    except OSError:
        return ""
