"""The figures of a version 2 control group.

Source: kernel, admin-guide/cgroup-v2, accounting/psi; containerd/cgroups, cgroup2/stats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from ..linux.cgroup_mounts import UNIFIED
from ..proto import cgroups_v2_pb2 as v2
from .figures import UINT32_MAX, Figures, pairs_of

__all__ = ["TYPE", "read_metrics"]

TYPE: Final = "io.containerd.cgroups.v2.Metrics"

_WithPressure: TypeAlias = v2.CPUStat | v2.MemoryStat | v2.IOStat
_MEMORY_FILES: Final = {
    "usage": "memory.current",
    "usage_limit": "memory.max",
    "swap_usage": "memory.swap.current",
    "swap_limit": "memory.swap.max",
    "max_usage": "memory.peak",
    "swap_max_usage": "memory.swap.peak",
}


def read_metrics(paths: Mapping[str, str]) -> v2.Metrics:
    """The figures of the group whose only directory *paths* gives. Raises: OSError (ENOENT, ENODEV) when it is gone."""
    metrics, figures = v2.Metrics(), Figures(paths[UNIFIED])
    there = frozenset(figures.names())
    if "pids.current" in there:
        metrics.pids.current = figures.number("pids.current") or 0
        metrics.pids.limit = figures.number("pids.max") or 0
    if "cpu.stat" in there:
        _take(metrics.cpu, figures.table("cpu.stat"))
        _pressure(metrics.cpu, figures, "cpu.pressure")
    if "memory.current" in there:
        _take(metrics.memory, figures.table("memory.stat"))
        for field, file in _MEMORY_FILES.items():
            setattr(metrics.memory, field, figures.number(file) or 0)
        _pressure(metrics.memory, figures, "memory.pressure")
        _take(metrics.memory_events, figures.table("memory.events"))
    if "io.stat" in there:
        _io(metrics.io, figures)
    for size in _page_sizes(there):
        current, most = (figures.number(f"hugetlb.{size}.{file}") or 0 for file in ("current", "max"))
        metrics.hugetlb.add(pagesize=size, current=current, max=most)
    if "rdma.current" in there:
        _rdma(metrics.rdma, figures)
    return metrics


def _take(message: v2.CPUStat | v2.MemoryStat | v2.MemoryEvents, table: Mapping[str, int] | None) -> None:
    """Fill the fields that are named as the kernel's words are."""
    message.SetInParent()
    names = message.DESCRIPTOR.fields_by_name
    for name, value in (table or {}).items():
        if name in names:
            setattr(message, name, value)


def _pressure(message: _WithPressure, figures: Figures, file: str) -> None:
    for kind, values in pairs_of(figures.text(file) or ""):
        if kind not in ("some", "full"):
            continue
        stalled = message.psi.some if kind == "some" else message.psi.full
        stalled.avg10, stalled.avg60, stalled.avg300 = (float(values[key]) for key in ("avg10", "avg60", "avg300"))
        stalled.total = int(values["total"])


def _io(io: v2.IOStat, figures: Figures) -> None:
    io.SetInParent()
    for number, values in pairs_of(figures.text("io.stat") or ""):
        major, colon, minor = number.partition(":")
        if colon:
            counts = {key: int(values.get(key, "0")) for key in ("rbytes", "wbytes", "rios", "wios")}
            io.usage.add(major=int(major), minor=int(minor), **counts)
    _pressure(io, figures, "io.pressure")


def _page_sizes(names: frozenset[str]) -> Iterator[str]:
    for name in sorted(names):
        words = name.split(".")
        if len(words) == 3 and words[0] == "hugetlb" and words[2] == "max":
            yield words[1]


def _rdma(rdma: v2.RdmaStat, figures: Figures) -> None:
    for field, file in (("current", "rdma.current"), ("limit", "rdma.max")):
        for device, values in pairs_of(figures.text(file) or ""):
            handles, objects = (
                UINT32_MAX if word == "max" else int(word)
                for word in (values.get(key, "0") for key in ("hca_handle", "hca_object"))
            )
            getattr(rdma, field).add(device=device, hca_handles=handles, hca_objects=objects)
