"""A container as a unit of systemd: names and properties. Pure.

Source: systemd.unit(5), systemd.slice(5), systemd.resource-control(5); org.freedesktop.systemd1(5) for the types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidArgumentError
from ..oci.resources import Cpu, DeviceRule, Memory, Resources
from .cgroup import is_scope_path
from .cgroup_settings_v2 import weight_of_shares

__all__ = ["Property", "ScopeName", "parse_scope_path", "properties_of"]

Property = tuple[str, tuple[str, object]]
"""A property's name, and its value behind the value's D-Bus signature."""

_DEFAULT_SLICE: Final = "system.slice"
_DEFAULT_PREFIX: Final = "containerd-shimkit"
_LONGEST: Final = 255
_WORD: Final = re.compile(r"[A-Za-z0-9:_.\\-]+")
_INFINITY: Final = (1 << 64) - 1
_SECOND: Final = 1_000_000  # in microseconds
_PERIOD: Final = 100_000  # the kernel's own
_STEP: Final = 10_000  # systemd keeps a quota in whole percents: rounded up, ours is the one that counts
_KINDS: Final = {"b": "block", "c": "char"}


@dataclass(frozen=True, slots=True)
class ScopeName:
    """Which unit a container is: *unit* in *slice_name*, both with their suffixes."""

    slice_name: str
    unit: str

    @property
    def path(self) -> str:
        """The unit's control group below the root of the hierarchy: a-b.slice lies in a.slice."""
        name = self.slice_name.removesuffix(".slice")
        if name == "-":
            return f"/{self.unit}"
        words = name.split("-")
        above = "".join(f"/{'-'.join(words[: count + 1])}.slice" for count in range(len(words)))
        return f"{above}/{self.unit}"


def parse_scope_path(cgroups_path: str, id: str) -> ScopeName:  # noqa: A002
    """What slice:prefix:name names; an empty path is the container *id* in system.slice.

    Raises: InvalidArgumentError with the field, its value and what it should be.
    """
    slice_name, prefix, name = _DEFAULT_SLICE, _DEFAULT_PREFIX, id
    if cgroups_path:
        if not is_scope_path(cgroups_path):
            raise _wrong(cgroups_path, "the systemd cgroup driver takes slice:prefix:name")
        slice_name, prefix, name = cgroups_path.split(":")
    slice_name = slice_name or _DEFAULT_SLICE
    unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if not name or not _WORD.fullmatch(unit) or len(unit) > _LONGEST:
        raise _wrong(cgroups_path, f"{unit!r} cannot be the name of a systemd unit")
    if name.endswith(".slice"):
        raise _wrong(cgroups_path, "a container is a scope of its own, not a slice")
    words = slice_name.removesuffix(".slice").split("-")
    is_root = slice_name == "-.slice"
    if not slice_name.endswith(".slice") or not _WORD.fullmatch(slice_name) or not (is_root or all(words)):
        raise _wrong(cgroups_path, f"{slice_name!r} cannot be the name of a systemd slice, such as a-b.slice")
    if len(slice_name) > _LONGEST:
        raise _wrong(cgroups_path, f"{slice_name!r} is too long for the name of a systemd slice")
    return ScopeName(slice_name, unit)


def _wrong(path: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"linux.cgroupsPath is {path!r}: {reason}")


def properties_of(resources: Resources, version: int) -> Iterator[Property]:
    """The limits that systemd keeps too, and would set to its own idea of them at its next reload.

    *version* is that of the host's control groups. What systemd has no property for it leaves alone.
    """
    if resources.cpu is not None:
        yield from _cpu(resources.cpu, version)
    if resources.memory is not None:
        yield from _memory(resources.memory, version)
    if resources.pids is not None and resources.pids.limit:
        yield _number("TasksMax", resources.pids.limit)
    if resources.block_io is not None and resources.block_io.weight:
        weight = resources.block_io.weight
        yield _number("IOWeight" if version == 2 else "BlockIOWeight", weight)
    if version == 1 and resources.devices:  # with version 2, systemd's program comes beside ours, and none is needed
        yield from _devices(resources.devices)


def _number(name: str, value: int) -> Property:
    return name, ("t", _INFINITY if value < 0 else value)


def _cpu(cpu: Cpu, version: int) -> Iterator[Property]:
    if cpu.shares and not cpu.idle:
        shares = ("CPUWeight", weight_of_shares(cpu.shares)) if version == 2 else ("CPUShares", cpu.shares)
        yield _number(*shares)
    if cpu.quota or cpu.period:
        period = cpu.period or _PERIOD
        if cpu.period:
            yield _number("CPUQuotaPeriodUSec", period)
        quota = -1
        if cpu.quota and cpu.quota > 0:
            quota = -(-cpu.quota * _SECOND // period)
            quota = -(-quota // _STEP) * _STEP
        yield _number("CPUQuotaPerSecUSec", quota)
    if version == 2:
        for name, field, numbers in (("AllowedCPUs", "cpus", cpu.cpus), ("AllowedMemoryNodes", "mems", cpu.mems)):
            if numbers:
                yield name, ("ay", _mask(numbers, f"linux.resources.cpu.{field}"))


def _mask(numbers: str, field: str) -> bytes:
    """A list such as 0-3,7 as bits, the lowest number first."""
    bits = 0
    for part in numbers.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) >= 1 << 13:
            raise InvalidArgumentError(f"{field} is {numbers!r}; it must be a list like 0-3,7")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _memory(memory: Memory, version: int) -> Iterator[Property]:
    if memory.limit:
        yield _number("MemoryMax" if version == 2 else "MemoryLimit", memory.limit)
    if version == 1:
        return
    if memory.reservation:
        yield _number("MemoryLow", memory.reservation)
    swap, limit = memory.swap or 0, memory.limit or 0
    if swap < 0 or (swap == 0 and limit < 0):
        yield _number("MemorySwapMax", -1)
    elif 0 < limit <= swap:
        yield _number("MemorySwapMax", swap - limit)


def _devices(rules: tuple[DeviceRule, ...]) -> Iterator[Property]:
    """As far as systemd's list of what is allowed can say it; it knows no exceptions, which our own rules make."""
    policy, allowed = "auto", list[tuple[str, str]]()
    for rule in rules:
        if _is_everything(rule):
            policy, allowed = ("auto" if rule.allow else "strict"), []
        elif rule.allow and policy == "strict":
            allowed += _entries(rule)
    yield "DevicePolicy", ("s", policy)
    yield "DeviceAllow", ("a(ss)", allowed)


def _is_everything(rule: DeviceRule) -> bool:
    return rule.type in ("", "a") and rule.major is None and rule.minor is None


def _entries(rule: DeviceRule) -> Iterator[tuple[str, str]]:
    for kind in (rule.type,) if rule.type in _KINDS else tuple(_KINDS):
        word = _KINDS[kind]
        if rule.major is None:
            yield f"{word}-*", rule.access
        elif rule.minor is None:
            yield f"{word}-{rule.major}", rule.access
        else:
            yield f"/dev/{word}/{rule.major}:{rule.minor}", rule.access
