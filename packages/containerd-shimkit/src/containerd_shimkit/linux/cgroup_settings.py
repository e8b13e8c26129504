"""From `linux.resources` to what is written to which file of a version 1 control group. Pure: a table, in its order.

0 means "not set" for every number whose 0 would make no sense, as all who write these files understand it.
Source: OCI runtime specification, config-linux.md; kernel, admin-guide/cgroup-v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ..errors import InvalidArgumentError, UnimplementedError
from ..oci.resources import Cpu, DeviceRule, Memory, Pids, Resources

__all__ = ["Setting", "compile_resources"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One write: *value* to *file* of the controller's directory, because of *field* of `linux.resources`."""

    controller: str
    file: str
    value: str
    field: str


def compile_resources(resources: Resources) -> tuple[Setting, ...]:
    """The writes that limit a group to *resources*, in the order in which the kernel accepts them for a new group.

    Computed once for equal limits. Raises: InvalidArgumentError, UnimplementedError with field and value.
    """
    _refuse_unsupported(resources)
    return _compile(resources.devices, resources.cpu, resources.memory, resources.pids)


@lru_cache(maxsize=64)
def _compile(
    devices: tuple[DeviceRule, ...], cpu: Cpu | None, memory: Memory | None, pids: Pids | None
) -> tuple[Setting, ...]:
    settings = [setting for index, rule in enumerate(devices) for setting in _device(rule, f"devices[{index}]")]
    if cpu is not None:
        settings += _cpu(cpu)
    if memory is not None:
        settings += _memory(memory)
    if pids is not None and pids.limit:
        settings.append(Setting("pids", "pids.max", "max" if pids.limit < 0 else str(pids.limit), "pids.limit"))
    return tuple(settings)


def _refuse_unsupported(resources: Resources) -> None:
    cpu, memory = resources.cpu, resources.memory
    asked = {
        "blockIO": resources.block_io,
        "network": resources.network,
        "hugepageLimits": resources.hugepage_limits,
        "rdma": resources.rdma,
        "unified": resources.unified,
        "cpu.realtimeRuntime": cpu and cpu.realtime_runtime,
        "cpu.realtimePeriod": cpu and cpu.realtime_period,
        "cpu.idle": cpu and cpu.idle,
        "memory.kernel": memory and memory.kernel,
    }
    for field, value in asked.items():
        if value:
            raise UnimplementedError(
                f"linux.resources.{field} is {value!r}, which this version of the shim cannot limit; leave it out"
            )


def _device(rule: DeviceRule, field: str) -> Iterator[Setting]:
    """One write, or two: the kernel takes type `a` to mean all devices, whatever numbers and access stand behind it."""
    file = "devices.allow" if rule.allow else "devices.deny"
    if rule.allow and not rule.access:
        raise InvalidArgumentError(f"linux.resources.{field}.access is empty; an allow rule needs some of r, w and m")
    access = rule.access or "rwm"
    numbers = ":".join("*" if number is None else str(number) for number in (rule.major, rule.minor))
    kinds = (rule.type,) if rule.type in ("b", "c") else ("b", "c")
    if len(kinds) == 2 and numbers == "*:*" and set(access) == set("rwm"):
        kinds = ("a",)
    for kind in kinds:
        yield Setting("devices", file, f"{kind} {numbers} {access}", field)


def _cpu(cpu: Cpu) -> Iterator[Setting]:
    table = (
        ("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus"),
        ("cpuset", "cpuset.mems", cpu.mems, "cpu.mems"),
        ("cpu", "cpu.shares", cpu.shares, "cpu.shares"),
        ("cpu", "cpu.cfs_period_us", cpu.period, "cpu.period"),  # before the quota, which counts in it
        ("cpu", "cpu.cfs_quota_us", cpu.quota, "cpu.quota"),
        ("cpu", "cpu.cfs_burst_us", cpu.burst, "cpu.burst"),
    )
    return (Setting(controller, file, str(value), field) for controller, file, value, field in table if value)


def _memory(memory: Memory) -> Iterator[Setting]:
    limits = [
        ("limit_in_bytes", memory.limit, "memory.limit"),
        ("memsw.limit_in_bytes", memory.swap, "memory.swap"),
    ]
    if memory.limit == -1:
        limits.reverse()  # the sum's limit may at no moment be below the memory's
    limits += [
        ("soft_limit_in_bytes", memory.reservation, "memory.reservation"),
        ("kmem.tcp.limit_in_bytes", memory.kernel_tcp, "memory.kernelTCP"),
    ]
    if memory.use_hierarchy is not None:
        yield Setting("memory", "memory.use_hierarchy", str(int(memory.use_hierarchy)), "memory.useHierarchy")
    yield from (Setting("memory", f"memory.{file}", str(value), field) for file, value, field in limits if value)
    if memory.swappiness is not None:
        yield Setting("memory", "memory.swappiness", str(memory.swappiness), "memory.swappiness")
    if memory.disable_oom_killer is not None:
        yield Setting("memory", "memory.oom_control", str(int(memory.disable_oom_killer)), "memory.disableOOMKiller")
