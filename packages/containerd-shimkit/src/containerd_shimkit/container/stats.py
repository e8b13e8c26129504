"""A cgroup's figures as containerd's `Metrics` message.

A host with cgroup version 1 gets the message of version 1, complete with the fields that callers dereference.
Source: kernel, admin-guide/cgroup-v1; containerd/cgroups, cgroup1/stats.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

from ..errors import NotFoundError
from ..instance import Encoded
from ..linux.cgroups import CgroupV1
from ..proto import cgroups_v1_pb2 as v1

__all__ = ["read_stats"]

_TYPE: Final = "io.containerd.cgroups.v1.Metrics"
_NANOSECONDS_PER_TICK: Final = 10_000_000  # USER_HZ is 100 on every architecture that Python runs on
_UINT32_MAX: Final = (1 << 32) - 1
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
_BLKIO_FILES: Final = {
    "io_service_bytes_recursive": "blkio.throttle.io_service_bytes_recursive",
    "io_serviced_recursive": "blkio.throttle.io_serviced_recursive",
}


def read_stats(cgroup: CgroupV1) -> Encoded:
    """What the kernel counts for *cgroup* now; a controller that the host does not have is left out.

    Raises: NotFoundError when the control group is gone.
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
    try:
        for controller, reader in readers.items():
            if controller in cgroup.paths:
                reader(metrics, cgroup.paths[controller])
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # the second: removed while it was read
            raise
        raise NotFoundError(
            f"the container's cgroup is gone: {', '.join(sorted(set(cgroup.paths.values())))}"
        ) from error
    return Encoded(_TYPE, metrics.SerializeToString())


def _hugetlb(metrics: v1.Metrics, path: str) -> None:
    sizes = sorted(name.split(".")[1] for name in os.listdir(path) if _is_page_limit(name))
    for size in sizes:
        prefix = f"{path}/hugetlb.{size}"
        usage, most, failures = (
            int(_read(f"{prefix}.{file}")) for file in ("usage_in_bytes", "max_usage_in_bytes", "failcnt")
        )
        metrics.hugetlb.add(pagesize=size, usage=usage, max=most, failcnt=failures)


def _is_page_limit(name: str) -> bool:
    """Whether a file is `hugetlb.2MB.limit_in_bytes`, and not the one of its reservations (`.rsvd.`)."""
    words = name.split(".")
    return len(words) == 3 and words[0] == "hugetlb" and words[2] == "limit_in_bytes"


def _rdma(metrics: v1.Metrics, path: str) -> None:
    for field, file in (("current", "rdma.current"), ("limit", "rdma.max")):
        for line in _read(f"{path}/{file}").splitlines():
            device, *pairs = line.split()
            values = dict(pair.split("=", 1) for pair in pairs)
            handles, objects = (_rdma_number(values.get(key, "0")) for key in ("hca_handle", "hca_object"))
            getattr(metrics.rdma, field).add(device=device, hca_handles=handles, hca_objects=objects)


def _rdma_number(word: str) -> int:
    return _UINT32_MAX if word == "max" else int(word)


def _pids(metrics: v1.Metrics, path: str) -> None:
    limit = _read(f"{path}/pids.max").strip()
    metrics.pids.current = int(_read(f"{path}/pids.current"))
    metrics.pids.limit = 0 if limit == "max" else int(limit)


def _cpu_usage(metrics: v1.Metrics, path: str) -> None:
    usage = metrics.cpu.usage
    usage.SetInParent()
    usage.total = int(_read(f"{path}/cpuacct.usage"))
    ticks = _table(f"{path}/cpuacct.stat")
    usage.user = ticks.get("user", 0) * _NANOSECONDS_PER_TICK
    usage.kernel = ticks.get("system", 0) * _NANOSECONDS_PER_TICK
    usage.per_cpu.extend(int(word) for word in _read(f"{path}/cpuacct.usage_percpu").split())


def _throttling(metrics: v1.Metrics, path: str) -> None:
    table = _table(f"{path}/cpu.stat")
    metrics.cpu.usage.SetInParent()  # callers read through it whenever there is a `cpu`
    throttling = metrics.cpu.throttling
    throttling.SetInParent()
    throttling.periods = table.get("nr_periods", 0)
    throttling.throttled_periods = table.get("nr_throttled", 0)
    throttling.throttled_time = table.get("throttled_time", 0)


def _memory(metrics: v1.Metrics, path: str) -> None:
    memory, table = metrics.memory, _table(f"{path}/memory.stat")
    for field in v1.MemoryStat.DESCRIPTOR.fields:
        if field.message_type is not None:
            continue
        name = _MEMORY_SPECIAL.get(field.name) or _memory_name(field.name)
        setattr(memory, field.name, table.get(name, 0))
    _entry(memory.usage, f"{path}/memory")
    _entry(memory.swap, f"{path}/memory.memsw")
    _entry(memory.kernel, f"{path}/memory.kmem")
    _entry(memory.kernel_tcp, f"{path}/memory.kmem.tcp")
    control = _table(f"{path}/memory.oom_control")
    metrics.memory_oom_control.oom_kill_disable = control.get("oom_kill_disable", 0)
    metrics.memory_oom_control.under_oom = control.get("under_oom", 0)
    metrics.memory_oom_control.oom_kill = control.get("oom_kill", 0)


def _memory_name(field: str) -> str:
    """The kernel's name for a field: its words have no underscores where the message's have."""
    total, name = ("total_", field[6:]) if field.startswith("total_") else ("", field)
    return total + _MEMORY_NAMES.get(name, name)


def _entry(entry: v1.MemoryEntry, prefix: str) -> None:
    entry.SetInParent()
    for field, file in (("limit", "limit"), ("usage", "usage"), ("max", "max_usage")):
        setattr(entry, field, _optional(f"{prefix}.{file}_in_bytes"))
    entry.failcnt = _optional(f"{prefix}.failcnt")


def _blkio(metrics: v1.Metrics, path: str) -> None:
    for field, file in _BLKIO_FILES.items():
        try:
            lines = _read(f"{path}/{file}").splitlines()
        except FileNotFoundError:
            continue  # of another I/O policy
        for line in lines:
            words = line.split()
            if len(words) != 3:
                continue  # the total, at the end
            major, _, minor = words[0].partition(":")
            getattr(metrics.blkio, field).add(op=words[1], major=int(major), minor=int(minor), value=int(words[2]))


def _table(path: str) -> Mapping[str, int]:
    pairs = (line.split(" ", 1) for line in _read(path).splitlines())
    return {key: int(value) for key, value in pairs if value.strip().isdigit()}


def _optional(path: str) -> int:
    """A figure that not every kernel keeps (swap and kernel memory are options)."""
    try:
        return int(_read(path))
    except OSError:  # absent, or there but switched off
        return 0


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
