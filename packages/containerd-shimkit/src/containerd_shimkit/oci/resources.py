"""`linux.resources` of a config.json: the limits of a container, as typed values. Pure.

Every value can be hashed: what is made of them is computed once for equal limits.
Source: OCI runtime specification 1.2, config-linux.md, "Control groups".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .strict_json import INT64, UINT32, UINT64, JsonObject, decode_object

__all__ = [
    "BlockIo",
    "Cpu",
    "DeviceRate",
    "DeviceRule",
    "DeviceWeight",
    "HugepageLimit",
    "Memory",
    "Network",
    "Pids",
    "RdmaLimit",
    "Resources",
    "parse_resources",
    "resources_of",
]

_UINT16: Final = (0, (1 << 16) - 1)
_PAGE_SIZE: Final = re.compile(r"[1-9][0-9]*[KMG]B")
_WORD: Final = re.compile(r"[!-~]+")  # what stands in a line of words: no spaces, no line's end


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
    check_before_update: bool | None = None


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
class DeviceWeight:
    """One of `linux.resources.blockIO.weightDevice`."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceRate:
    """One of `linux.resources.blockIO.throttle...`: bytes or operations a second; 0 is no limit."""

    major: int
    minor: int
    rate: int


@dataclass(frozen=True, slots=True)
class BlockIo:
    """`linux.resources.blockIO`."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[DeviceWeight, ...] = ()
    throttle_read_bps_device: tuple[DeviceRate, ...] = ()
    throttle_write_bps_device: tuple[DeviceRate, ...] = ()
    throttle_read_iops_device: tuple[DeviceRate, ...] = ()
    throttle_write_iops_device: tuple[DeviceRate, ...] = ()


@dataclass(frozen=True, slots=True)
class HugepageLimit:
    """One of `linux.resources.hugepageLimits`: bytes in pages of a size that is named like `2MB`."""

    page_size: str
    limit: int


@dataclass(frozen=True, slots=True)
class RdmaLimit:
    """One device of `linux.resources.rdma`; None is no limit."""

    device: str
    hca_handles: int | None = None
    hca_objects: int | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """`linux.resources.network`: the class of its packets, and their priority by interface."""

    class_id: int | None = None
    priorities: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """`linux.resources`. `unified` holds files of a version 2 group with what is written to them."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = None
    network: Network | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    rdma: tuple[RdmaLimit, ...] = ()
    unified: tuple[tuple[str, str], ...] = ()


def parse_resources(data: bytes | str, source: str = "resources") -> Resources:
    """Parse a `linux.resources` object that stands alone, as an Update sends it. Raises: InvalidArgumentError."""
    return resources_of(decode_object(data, source))


def resources_of(resources: JsonObject) -> Resources:
    """Read the fields of a `linux.resources` object. Raises: InvalidArgumentError."""
    memory, cpu, pids = resources.child("memory"), resources.child("cpu"), resources.child("pids")
    block_io, network, rdma = resources.child("blockIO"), resources.child("network"), resources.child("rdma")
    return Resources(
        devices=tuple(_device_rule(rule) for rule in resources.children("devices")),
        memory=_memory(memory) if memory else None,
        cpu=_cpu(cpu) if cpu else None,
        pids=Pids(pids.optional_integer("limit", INT64)) if pids else None,
        block_io=_block_io(block_io) if block_io else None,
        network=_network(network) if network else None,
        hugepage_limits=tuple(_hugepage_limit(limit) for limit in resources.children("hugepageLimits")),
        rdma=tuple(_rdma(rdma)) if rdma else (),
        unified=tuple(resources.text_mapping("unified").items()),
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
        check_before_update=memory.optional_flag("checkBeforeUpdate"),
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


def _block_io(block_io: JsonObject) -> BlockIo:
    def rates(key: str) -> tuple[DeviceRate, ...]:
        return tuple(
            DeviceRate(*_device_numbers(each), each.required_integer("rate", UINT64)) for each in block_io.children(key)
        )

    return BlockIo(
        weight=block_io.optional_integer("weight", _UINT16),
        leaf_weight=block_io.optional_integer("leafWeight", _UINT16),
        weight_device=tuple(
            DeviceWeight(
                *_device_numbers(each),
                each.optional_integer("weight", _UINT16),
                each.optional_integer("leafWeight", _UINT16),
            )
            for each in block_io.children("weightDevice")
        ),
        throttle_read_bps_device=rates("throttleReadBpsDevice"),
        throttle_write_bps_device=rates("throttleWriteBpsDevice"),
        throttle_read_iops_device=rates("throttleReadIOPSDevice"),
        throttle_write_iops_device=rates("throttleWriteIOPSDevice"),
    )


def _device_numbers(device: JsonObject) -> tuple[int, int]:
    return device.required_integer("major", UINT32), device.required_integer("minor", UINT32)


def _network(network: JsonObject) -> Network:
    return Network(
        class_id=network.optional_integer("classID", UINT32),
        priorities=tuple(
            (_word(each, "name"), each.required_integer("priority", UINT32)) for each in network.children("priorities")
        ),
    )


def _hugepage_limit(limit: JsonObject) -> HugepageLimit:
    size = limit.text("pageSize")
    if not _PAGE_SIZE.fullmatch(size):
        raise limit.error("pageSize", "a number with KB, MB or GB behind it, like 2MB")
    return HugepageLimit(size, limit.required_integer("limit", UINT64))


def _rdma(rdma: JsonObject) -> Iterator[RdmaLimit]:
    for device in rdma.values:
        if not _WORD.fullmatch(device):
            raise rdma.error(device, "named by a device: a word without spaces")
        limit = rdma.child(device)
        if limit is not None:
            handles, objects = (limit.optional_integer(key, UINT32) for key in ("hcaHandles", "hcaObjects"))
            yield RdmaLimit(device, handles, objects)


def _word(value: JsonObject, key: str) -> str:
    text = value.text(key)
    if not _WORD.fullmatch(text):
        raise value.error(key, "a word without spaces")
    return text
