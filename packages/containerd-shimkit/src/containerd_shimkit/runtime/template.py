"""The config.json that `spec` writes."""

from __future__ import annotations

import os
from typing import Any

from ..oci.defaults import default_spec
from ..oci.rootless import as_ordinary_user

__all__ = ["template"]


def template(*, rootless: bool) -> dict[str, Any]:
    """A shell with a terminal in the root file system `rootfs`; *rootless*: in a user namespace of this user's."""
    spec = default_spec(["sh"], env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"))
    spec["process"]["terminal"] = True
    spec["root"]["readonly"] = True
    spec["hostname"] = "containerd-shimkit"
    del spec["annotations"]
    if rootless:
        spec = as_ordinary_user(spec, os.geteuid(), os.getegid())
        del spec["linux"]["resources"]
        _without_network_namespace(spec)
    return spec


def _without_network_namespace(spec: dict[str, Any]) -> None:
    """A new sysfs belongs to a network namespace: without one the host's is shown."""
    spec["process"]["user"] = {"uid": 0, "gid": 0}
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]
    for mount in spec["mounts"]:
        if mount["type"] == "sysfs":
            mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
