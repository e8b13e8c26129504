"""A container's configuration for a user who is not root: in a user namespace where this user is root. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["as_ordinary_user"]


def as_ordinary_user(spec: Mapping[str, Any], uid: int, gid: int) -> dict[str, Any]:
    """*spec*, JSON values of a config.json, as the host's user *uid* with the group *gid* can have it.

    Its container has one user and one group, 0, who are these. Options of devpts that name another group are left out,
    and so is the path of a control group. What is limited stays limited: making the container says what cannot be had.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(spec))
    linux = changed.setdefault("linux", {})
    namespaces = linux.setdefault("namespaces", [])
    linux["namespaces"] = [each for each in namespaces if each["type"] != "user"] + [{"type": "user"}]
    for kind, own in (("uidMappings", uid), ("gidMappings", gid)):
        linux[kind] = [{"containerID": 0, "hostID": own, "size": 1}]
    linux.pop("cgroupsPath", None)
    for mount in changed.get("mounts", ()):
        if mount.get("type") == "devpts":
            mount["options"] = [option for option in mount.get("options", ()) if not option.startswith("gid=")]
    return changed
