"""Whether systemd is this host's init. Source: sd_booted(3)."""

from __future__ import annotations

import os

from ..errors import FailedPreconditionError

__all__ = ["is_systemd_init", "require_systemd"]

_DIRECTORY = "/run/systemd/system"


def is_systemd_init() -> bool:
    """Whether it is."""
    return os.path.isdir(_DIRECTORY)


def require_systemd(cgroups_path: str) -> None:
    """Raises: FailedPreconditionError, about *cgroups_path*, where it is not."""
    if not is_systemd_init():
        raise FailedPreconditionError(
            f"linux.cgroupsPath is {cgroups_path!r}, which is for the systemd cgroup driver, but systemd is not this "
            "host's init; set the kubelet's cgroupDriver, or the runtime's, to cgroupfs"
        )
