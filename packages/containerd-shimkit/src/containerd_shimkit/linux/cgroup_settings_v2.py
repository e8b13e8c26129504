"""From `linux.resources`, which speaks of version 1, to what is written to a version 2 control group. Pure.

0 means "not set" as in `cgroup_settings`. Conversions are those that runc and crun document: crun(1), "CGROUP V2".
Source: OCI runtime specification, config-linux.md; kernel, admin-guide/cgroup-v2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from ..errors import FailedPreconditionError, InvalidArgumentError
from ..oci.resources import BlockIo, Cpu, Memory, Resources
from .cgroup_settings import THROTTLES, Setting, rdma_line

__all__ = ["compile_unified", "weight_of_shares"]

_PERIOD: Final = 100_000  # the kernel's own
_LEAST_SHARES: Final = 2
_MOST_SHARES: Final = 1 << 18
_MOST_WEIGHT: Final = 10_000
_NOT_LIMITS: Final = frozenset(
    f"cgroup.{name}" for name in ("procs", "threads", "kill", "freeze", "type", "subtree_control")
)


@lru_cache(maxsize=64)
def compile_unified(resources: Resources) -> tuple[Setting, ...]:
    """The writes that limit a group to *resources*, but for its devices, which no file limits.

    Computed once for equal limits. Raises: InvalidArgumentError, FailedPreconditionError with field and value.
    """
    return tuple(_settings(resources))


def weight_of_shares(shares: int) -> int:
    """The `cpu.weight` for *shares*: a curve through the least, the default and the most of both."""
    if shares <= _LEAST_SHARES:
        return 1
    if shares >= _MOST_SHARES:
        return _MOST_WEIGHT
    exponent = math.log2(shares)
    power = (exponent * exponent + 125 * exponent) / 612 - 7 / 34
    # 1024 is to be 100, whatever the last digit of the sums
    return math.ceil(10**power - 1e-9)


def _settings(resources: Resources) -> Iterator[Setting]:
    if resources.cpu is not None:
        yield from _cpu(resources.cpu)
    if resources.memory is not None:
        yield from _memory(resources.memory)
    if resources.pids is not None and resources.pids.limit:
        yield Setting("pids", "pids.max", _or_max(resources.pids.limit), "pids.limit")
    if resources.block_io is not None:
        yield from _block_io(resources.block_io)
    for index, huge in enumerate(resources.hugepage_limits):
        for file, may_lack in (("max", False), ("rsvd.max", True)):
            name = f"hugetlb.{huge.page_size}.{file}"
            yield Setting("hugetlb", name, str(huge.limit), f"hugepageLimits[{index}]", may_lack=may_lack)
    for limit in resources.rdma:
        yield Setting("rdma", "rdma.max", rdma_line(limit), f"rdma[{limit.device!r}]")
    if resources.network is not None and (resources.network.class_id or resources.network.priorities):
        raise _impossible("network", resources.network, "limit its traffic with BPF or nftables")
    for name, value in resources.unified:
        yield from _unified(name, value)


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def _cpu(cpu: Cpu) -> Iterator[Setting]:
    for field, time in (("cpu.realtimeRuntime", cpu.realtime_runtime), ("cpu.realtimePeriod", cpu.realtime_period)):
        if time:
            raise _impossible(field, time)
    for file, value in (("cpus", cpu.cpus), ("mems", cpu.mems)):
        if value:
            yield Setting("cpuset", f"cpuset.{file}", value, f"cpu.{file}")
    if cpu.idle is not None:
        yield Setting("cpu", "cpu.idle", str(cpu.idle), "cpu.idle", may_lack=cpu.idle == 0)
    if cpu.shares and not cpu.idle:  # an idle group has no weight, and takes none
        yield Setting("cpu", "cpu.weight", str(weight_of_shares(cpu.shares)), "cpu.shares")
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        yield Setting("cpu", "cpu.max", f"{quota} {cpu.period or _PERIOD}", "cpu.quota" if cpu.quota else "cpu.period")
    if cpu.burst is not None:
        yield Setting("cpu", "cpu.max.burst", str(cpu.burst), "cpu.burst", may_lack=cpu.burst == 0)


def _memory(memory: Memory) -> Iterator[Setting]:
    for field, value in (("memory.kernel", memory.kernel), ("memory.kernelTCP", memory.kernel_tcp)):
        if value and value > 0:
            raise _impossible(field, value, "memory.limit counts that memory too")
    if memory.swappiness is not None:
        raise _impossible("memory.swappiness", memory.swappiness)
    if memory.disable_oom_killer:
        raise _impossible("memory.disableOOMKiller", True)
    if memory.use_hierarchy is False:
        raise _impossible("memory.useHierarchy", False)
    if memory.limit:
        yield Setting("memory", "memory.max", _or_max(memory.limit), "memory.limit")
    if (swap := _swap(memory)) is not None:
        # where nothing counts swap, none is used and nothing can be limited
        yield Setting("memory", "memory.swap.max", swap, "memory.swap", may_lack=swap in ("0", "max"))
    if memory.reservation:
        yield Setting("memory", "memory.low", _or_max(memory.reservation), "memory.reservation")


def _swap(memory: Memory) -> str | None:
    """Swap by itself, which `memory.swap` holds together with the memory's limit."""
    swap, limit = memory.swap or 0, memory.limit or 0
    if swap < 0 or (swap == 0 and limit < 0):
        return "max"
    if swap == 0:
        return None
    if limit <= 0:
        raise InvalidArgumentError(
            f"linux.resources.memory.swap is {swap}, but memory.limit is {memory.limit}: what is left for swap "
            "cannot be told; set both"
        )
    if swap < limit:
        raise InvalidArgumentError(
            f"linux.resources.memory.swap is {swap}, which is less than memory.limit, {limit}; it is the limit of both "
            "together: raise it"
        )
    return str(swap - limit)


def _block_io(block_io: BlockIo) -> Iterator[Setting]:
    if block_io.leaf_weight:
        raise _impossible("blockIO.leafWeight", block_io.leaf_weight)
    if block_io.weight:
        yield _io_weight("", block_io.weight, "blockIO.weight")
    for index, device in enumerate(block_io.weight_device):
        field = f"blockIO.weightDevice[{index}]"
        if device.leaf_weight:
            raise _impossible(f"{field}.leafWeight", device.leaf_weight)
        if device.weight:
            yield _io_weight(f"{device.major}:{device.minor} ", device.weight, f"{field}.weight")
    for name, field, _file, key in THROTTLES:
        for index, rate in enumerate(getattr(block_io, name)):
            value = f"{rate.major}:{rate.minor} {key}={rate.rate or 'max'}"
            yield Setting("io", "io.max", value, f"blockIO.{field}[{index}]")


def _io_weight(device: str, weight: int, field: str) -> Setting:
    """The BFQ scheduler takes the number as it is; without it, 10 to 1000 becomes 1 to 10000."""
    spread = 1 + max(weight - 10, 0) * (_MOST_WEIGHT - 1) // 990
    return Setting("io", "io.bfq.weight", f"{device}{weight}", field, instead=("io.weight", f"{device}{spread}"))


def _unified(name: str, value: str) -> Iterator[Setting]:
    field = f"unified[{name!r}]"
    controller, dot, rest = name.partition(".")
    if not (controller and dot and rest) or "/" in name or name in _NOT_LIMITS:
        raise InvalidArgumentError(
            f"linux.resources.{field} is {value!r}, but its name is not that of a limit's file; name "
            "one such as memory.high"
        )
    for line in value.splitlines() or [""]:  # the kernel takes one device a write
        yield Setting(controller, name, line, field)


def _impossible(field: str, value: object, instead: str = "") -> FailedPreconditionError:
    return FailedPreconditionError(
        f"linux.resources.{field} is {value!r}, but this host uses cgroup version 2, which has no such limit; leave it "
        "out" + (f": {instead}" if instead else "")
    )
