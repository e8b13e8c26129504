"""From `linux.resources` to what is written to which file of a version 1 control group. Pure: a table, in its order.

0 means "not set" for every number whose 0 would make no sense, as all who write these files understand it.
Source: OCI runtime specification, config-linux.md; kernel, admin-guide/cgroup-v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..errors import FailedPreconditionError, InvalidArgumentError
from ..oci.resources import BlockIo, Cpu, DeviceRule, HugepageLimit, Memory, Network, RdmaLimit, Resources

__all__ = ["THROTTLES", "Setting", "compile_resources", "is_everything", "rdma_line"]

THROTTLES: Final = (
    ("throttle_read_bps_device", "throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("throttle_write_bps_device", "throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("throttle_read_iops_device", "throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("throttle_write_iops_device", "throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)
"""Each list of rates: our name, the specification's, the version 1 file's, and version 2's key."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One write: *value* to *file* of the controller's directory, because of *field* of `linux.resources`."""

    controller: str
    file: str
    value: str
    field: str
    instead: tuple[str, str] | None = None  # file and value for a kernel that does not have the first file
    may_lack: bool = False  # a kernel without the file does anyhow what the value says


@lru_cache(maxsize=64)
def compile_resources(resources: Resources) -> tuple[Setting, ...]:
    """The writes that limit a group to *resources*, in the order in which the kernel accepts them for a new group.

    Computed once for equal limits. Raises: InvalidArgumentError, FailedPreconditionError with field and value.
    """
    if resources.unified:
        raise FailedPreconditionError(
            f"linux.resources.unified has {resources.unified[0][0]!r}, but this host uses cgroup version 1; leave it "
            "out, or boot with systemd.unified_cgroup_hierarchy=1"
        )
    return tuple(_settings(resources))


def _settings(resources: Resources) -> Iterator[Setting]:
    yield from _devices(resources.devices)
    if resources.cpu is not None:
        yield from _cpu(resources.cpu)
    if resources.memory is not None:
        yield from _memory(resources.memory)
    if resources.pids is not None and resources.pids.limit:
        limit = resources.pids.limit
        yield Setting("pids", "pids.max", "max" if limit < 0 else str(limit), "pids.limit")
    if resources.block_io is not None:
        yield from _block_io(resources.block_io)
    for index, huge in enumerate(resources.hugepage_limits):
        yield from _hugepages(huge, f"hugepageLimits[{index}]")
    for each in resources.rdma:
        yield Setting("rdma", "rdma.max", rdma_line(each), f"rdma[{each.device!r}]")
    if resources.network is not None:
        yield from _network(resources.network)


def is_everything(rule: DeviceRule) -> bool:
    """Whether the rule is of every device and all that can be done with one."""
    everything = rule.type in ("", "a") and rule.major is None and rule.minor is None
    return everything and (set(rule.access) == set("rwm") or not (rule.access or rule.allow))


def _devices(rules: tuple[DeviceRule, ...]) -> Iterator[Setting]:
    """The rules say what is allowed: what no rule names is not, nor what a parent or an earlier list allowed."""
    if rules and not is_everything(rules[0]):
        yield from _device(DeviceRule(allow=False), "devices")
    for index, rule in enumerate(rules):
        yield from _device(rule, f"devices[{index}]")


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
        # an idle group has no shares, and takes none
        ("cpu", "cpu.idle", cpu.idle, "cpu.idle"),
        ("cpu", "cpu.shares", None if cpu.idle else cpu.shares, "cpu.shares"),
        ("cpu", "cpu.rt_period_us", cpu.realtime_period, "cpu.realtimePeriod"),
        ("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime, "cpu.realtimeRuntime"),
        ("cpu", "cpu.cfs_period_us", cpu.period, "cpu.period"),  # before the quota, which counts in it
        ("cpu", "cpu.cfs_quota_us", cpu.quota, "cpu.quota"),
        ("cpu", "cpu.cfs_burst_us", cpu.burst, "cpu.burst"),
    )
    for controller, file, value, field in table:
        if value:
            yield Setting(controller, file, str(value), field)
        elif value == 0 and field in ("cpu.idle", "cpu.burst"):
            yield Setting(controller, file, "0", field, may_lack=True)


def _memory(memory: Memory) -> Iterator[Setting]:
    limits = [
        ("limit_in_bytes", memory.limit, "memory.limit"),
        ("memsw.limit_in_bytes", memory.swap, "memory.swap"),
    ]
    if memory.limit == -1:
        limits.reverse()  # the sum's limit may at no moment be below the memory's
    limits += [
        ("soft_limit_in_bytes", memory.reservation, "memory.reservation"),
        ("kmem.limit_in_bytes", memory.kernel, "memory.kernel"),
        ("kmem.tcp.limit_in_bytes", memory.kernel_tcp, "memory.kernelTCP"),
    ]
    if memory.use_hierarchy is not None:
        yield Setting("memory", "memory.use_hierarchy", str(int(memory.use_hierarchy)), "memory.useHierarchy")
    yield from (Setting("memory", f"memory.{file}", str(value), field) for file, value, field in limits if value)
    if memory.swappiness is not None:
        yield Setting("memory", "memory.swappiness", str(memory.swappiness), "memory.swappiness")
    if memory.disable_oom_killer is not None:
        yield Setting("memory", "memory.oom_control", str(int(memory.disable_oom_killer)), "memory.disableOOMKiller")


def _block_io(block_io: BlockIo) -> Iterator[Setting]:
    if block_io.weight:
        weight = str(block_io.weight)
        yield Setting("blkio", "blkio.weight", weight, "blockIO.weight", instead=("blkio.bfq.weight", weight))
    if block_io.leaf_weight:
        yield Setting("blkio", "blkio.leaf_weight", str(block_io.leaf_weight), "blockIO.leafWeight")
    for index, device in enumerate(block_io.weight_device):
        field, numbers = f"blockIO.weightDevice[{index}]", f"{device.major}:{device.minor}"
        if device.weight:
            value = f"{numbers} {device.weight}"
            instead = ("blkio.bfq.weight_device", value)
            yield Setting("blkio", "blkio.weight_device", value, f"{field}.weight", instead=instead)
        if device.leaf_weight:
            value = f"{numbers} {device.leaf_weight}"
            yield Setting("blkio", "blkio.leaf_weight_device", value, f"{field}.leafWeight")
    for name, field, file, _key in THROTTLES:
        for index, rate in enumerate(getattr(block_io, name)):
            value = f"{rate.major}:{rate.minor} {rate.rate}"  # 0 takes the limit away
            yield Setting("blkio", f"blkio.throttle.{file}", value, f"blockIO.{field}[{index}]")


def _hugepages(limit: HugepageLimit, field: str) -> Iterator[Setting]:
    # what is reserved counts as well where the kernel can: a fault beyond the first limit ends the process
    for file, may_lack in (("limit_in_bytes", False), ("rsvd.limit_in_bytes", True)):
        yield Setting("hugetlb", f"hugetlb.{limit.page_size}.{file}", str(limit.limit), field, may_lack=may_lack)


def rdma_line(limit: RdmaLimit) -> str:
    """What is written to `rdma.max`."""
    handles, objects = ("max" if each is None else str(each) for each in (limit.hca_handles, limit.hca_objects))
    return f"{limit.device} hca_handle={handles} hca_object={objects}"


def _network(network: Network) -> Iterator[Setting]:
    if network.class_id:
        yield Setting("net_cls", "net_cls.classid", str(network.class_id), "network.classID")
    for index, (name, priority) in enumerate(network.priorities):
        yield Setting("net_prio", "net_prio.ifpriomap", f"{name} {priority}", f"network.priorities[{index}]")
