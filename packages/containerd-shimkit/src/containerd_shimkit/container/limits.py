"""Changing a container's limits while its shim's loop goes on: the kernel may reclaim memory first, in a child.

What is sent is the specification's `linux.resources`; what it leaves out stays as it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from ..errors import UnimplementedError
from ..instance import Encoded
from ..linux.cgroup import Cgroup
from ..oci.resources import DeviceRule, Resources, parse_resources
from ..shim.reaper import Reaper
from .plan_cgroup import with_default_devices
from .worker import run_in_child

__all__ = ["Limits", "parse_update"]

_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
_TIMEOUT: Final = 30.0  # seconds; what is written then stays written


class Limits:
    """The limits of one container. Changes are made one after the other."""

    def __init__(self, id: str, cgroup: Cgroup, devices: tuple[DeviceRule, ...], reaper: Reaper) -> None:  # noqa: A002
        """*devices* are the rules that the container was made with, which are in force."""
        self._id = id
        self._cgroup = cgroup
        self._devices = devices
        self._reaper = reaper
        self._turn = asyncio.Lock()

    async def update(self, update: Encoded) -> None:
        """Change what *update* names. Raises: as `parse_update`, and as `Cgroup.update`."""
        wanted = parse_update(update)
        async with self._turn:
            # CRI sends all that a container has. To write the rules anew would deny every device for a moment
            has_new_devices = wanted.devices not in ((), self._devices)
            resources = with_default_devices(wanted) if has_new_devices else replace(wanted, devices=())
            if resources == Resources():
                return
            await run_in_child(
                lambda: self._cgroup.update(resources),
                self._reaper,
                what=f"changing the limits of container {self._id!r}",
                timeout=_TIMEOUT,
            )
            if has_new_devices:
                self._devices = wanted.devices


def parse_update(update: Encoded) -> Resources:
    """The limits that an Update asks for; none of an empty one.

    Raises: InvalidArgumentError by the field's name, UnimplementedError for what are no limits of Linux.
    """
    if not update.type_url and not update.value:
        return Resources()
    if update.type_url != _TYPE:
        raise UnimplementedError(f"resources of the type {update.type_url!r} cannot be set; this shim takes {_TYPE}")
    return parse_resources(update.value, "resources")
