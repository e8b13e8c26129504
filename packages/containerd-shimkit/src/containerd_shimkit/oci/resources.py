"""`linux.resources` of a config.json: the limits of a container, as typed values. Pure.

Source: OCI runtime specification 1.2, config-linux.md, "Control groups".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .strict_json import INT64, UINT32, UINT64, JsonObject, decode_object

__all__ = ["Cpu", "DeviceRule", "Memory", "Pids", "Resources", "parse_resources", "resources_of"]


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """One of `linux.resources.devices`, in force in their order; None for a number means any."""

    allow: bool
    type: str = ""  # a, b or c; absent is a
    major: int | None = None
    minor: int | None = None
    access: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """`linux.resources.memory`, in bytes; -1 is no limit. `swap` is memory and swap together."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    """`linux.resources.cpu`; times in microseconds, `cpus` and `mems` as lists like `0-3,7`."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


@dataclass(frozen=True, slots=True)
class Pids:
    """`linux.resources.pids`; below 0 is no limit."""

    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """`linux.resources`."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: Mapping[str, object] | None = None
    network: Mapping[str, object] | None = None
    hugepage_limits: tuple[object, ...] | None = None
    rdma: Mapping[str, object] | None = None
    unified: Mapping[str, object] | None = None


def parse_resources(data: bytes | str, source: str = "resources") -> Resources:
    """Parse a `linux.resources` object that stands alone, as an Update sends it. Raises: InvalidArgumentError."""
    return resources_of(decode_object(data, source))


def resources_of(resources: JsonObject) -> Resources:
    """Read the fields of a `linux.resources` object. Raises: InvalidArgumentError."""
    memory, cpu, pids = resources.child("memory"), resources.child("cpu"), resources.child("pids")
    return Resources(
        devices=tuple(_device_rule(rule) for rule in resources.children("devices")),
        memory=_memory(memory) if memory else None,
        cpu=_cpu(cpu) if cpu else None,
        pids=Pids(pids.optional_integer("limit", INT64)) if pids else None,
        block_io=resources.raw_object("blockIO"),
        network=resources.raw_object("network"),
        hugepage_limits=resources.raw_array("hugepageLimits"),
        rdma=resources.raw_object("rdma"),
        unified=resources.raw_object("unified"),
    )


def _device_rule(rule: JsonObject) -> DeviceRule:
    kind, access = rule.text("type"), rule.text("access")
    if kind not in ("", "a", "b", "c"):
        raise rule.error("type", "a, b or c")
    if set(access) - set("rwm"):
        raise rule.error("access", "made of the letters r, w and m")
    return DeviceRule(rule.flag("allow"), kind, _device_number(rule, "major"), _device_number(rule, "minor"), access)


def _device_number(rule: JsonObject, key: str) -> int | None:
    number = rule.optional_integer(key, (-1, UINT32[1]))
    return None if number == -1 else number  # the kernel's own word for any, before there was one


def _memory(memory: JsonObject) -> Memory:
    return Memory(
        limit=memory.optional_integer("limit", INT64),
        reservation=memory.optional_integer("reservation", INT64),
        swap=memory.optional_integer("swap", INT64),
        kernel=memory.optional_integer("kernel", INT64),
        kernel_tcp=memory.optional_integer("kernelTCP", INT64),
        swappiness=memory.optional_integer("swappiness", UINT64),
        disable_oom_killer=memory.optional_flag("disableOOMKiller"),
        use_hierarchy=memory.optional_flag("useHierarchy"),
    )


def _cpu(cpu: JsonObject) -> Cpu:
    return Cpu(
        shares=cpu.optional_integer("shares", UINT64),
        quota=cpu.optional_integer("quota", INT64),
        burst=cpu.optional_integer("burst", UINT64),
        period=cpu.optional_integer("period", UINT64),
        realtime_runtime=cpu.optional_integer("realtimeRuntime", INT64),
        realtime_period=cpu.optional_integer("realtimePeriod", UINT64),
        cpus=cpu.text("cpus"),
        mems=cpu.text("mems"),
        idle=cpu.optional_integer("idle", INT64),
    )
