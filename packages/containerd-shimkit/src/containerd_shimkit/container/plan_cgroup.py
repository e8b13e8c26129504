"""The part of a plan that is about the container's control group. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..oci.resources import DeviceRule, Resources
from .default_devices import DEFAULT_DEVICES

__all__ = ["with_default_devices"]

# making any node is allowed, for only opening one has an effect; then the default devices, terminals and /dev/pts,
# and the tunnels of whoever may make one
_ALLOWED_DEVICES: Final = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(DeviceRule(True, "c", major, minor, "rwm") for _name, major, minor in DEFAULT_DEVICES),
    *(DeviceRule(True, "c", major, minor, "rwm") for major, minor in ((5, 2), (136, None), (10, 200))),
)


def with_default_devices(resources: Resources | None) -> Resources:
    """Allow what every container has, behind the rules of the spec, which may deny everything (pause's does).

    A container without rules of its own has these alone.
    """
    resources = resources or Resources()
    return replace(resources, devices=(*resources.devices, *_ALLOWED_DEVICES))
