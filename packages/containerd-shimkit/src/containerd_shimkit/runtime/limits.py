"""`update`: flags and files as limits."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Final

from ..errors import InvalidArgumentError
from ..oci.resources import Resources, parse_resources

__all__ = ["FLAGS", "resources_of"]

FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "blkio-weight": ("blockIO.weight", "weight of block I/O, 10 to 1000"),
    "cpu-period": ("cpu.period", "length of a period, microseconds"),
    "cpu-quota": ("cpu.quota", "time in each period, microseconds"),
    "cpu-burst": ("cpu.burst", "time that may be saved up, microseconds"),
    "cpu-share": ("cpu.shares", "share of the processors among others"),
    "cpu-rt-period": ("cpu.realtimePeriod", "period of real-time scheduling, microseconds"),
    "cpu-rt-runtime": ("cpu.realtimeRuntime", "real time in each period, microseconds"),
    "cpu-idle": ("cpu.idle", "1: run only where nobody else wants to"),
    "cpuset-cpus": ("cpu.cpus", "processors, as 0-2,4"),
    "cpuset-mems": ("cpu.mems", "memory nodes, as 0-1"),
    "memory": ("memory.limit", "limit of memory, bytes; 512M is understood"),
    "memory-reservation": ("memory.reservation", "what it is shrunk to when memory is short"),
    "memory-swap": ("memory.swap", "limit of memory and swap together; -1: none"),
    "pids-limit": ("pids.limit", "most processes"),
}
_TEXTS: Final = ("cpuset-cpus", "cpuset-mems")
_SIZES: Final = ("memory", "memory-reservation", "memory-swap")
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def resources_of(chosen: Namespace) -> Resources:
    """The limits in the file of `--resources` (`-`: standard input), or in the flags. Raises: ShimError, OSError."""
    if chosen.resources:
        if chosen.resources == "-":
            return parse_resources(sys.stdin.buffer.read())
        with open(chosen.resources, "rb") as file:
            return parse_resources(file.read())
    found: dict[str, dict[str, Any]] = {}
    for flag, (field, _help) in FLAGS.items():
        text: str | None = getattr(chosen, flag.replace("-", "_"))
        if text is not None:
            section, _, name = field.partition(".")
            found.setdefault(section, {})[name] = text if flag in _TEXTS else _number(flag, text)
    if not found:
        raise InvalidArgumentError("there is nothing to change: give --resources, or a flag for a limit")
    return parse_resources(json.dumps(found).encode())


def _number(flag: str, text: str) -> int:
    found = re.fullmatch(r"(-?\d+)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if found is None or (found[2] and flag not in _SIZES):
        raise InvalidArgumentError(f"--{flag} is {text!r}, which is not a number")
    return int(found[1]) << _UNITS[found[2].upper()]
