"""Where this host's control groups are, and of which version: read from its mounts, once in a process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .mounts import MountInfo, read_mountinfo

__all__ = [
    "UNIFIED",
    "Hierarchies",
    "Hierarchy",
    "find_hierarchies",
    "own_directory",
    "own_groups",
    "read_hierarchies",
]

UNIFIED: Final = "unified"
"""The name of the only one of a version 2 group's paths."""


_MOUNT_WORDS: Final = frozenset(
    ("rw", "ro", "noprefix", "xattr", "clone_children", "none", "all", "cpuset_v2_mode", "favordynmods")
)
_PLACE: Final = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where one controller's groups are: the mount, and which group of the hierarchy it shows as its root."""

    mount_point: str
    root: str


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The host's version 1 hierarchies by controller, a named one by `name=systemd`, and its version 2 hierarchy."""

    v1: Mapping[str, Hierarchy]
    v2: Hierarchy | None = None
    is_unified: bool = False
    """Whether version 2 is to be used: where both are, the version 1 hierarchies have taken the controllers away.

    But not when version 2 stands at the place of all: what is mounted elsewhere then serves somebody's own ends.
    """


def find_hierarchies(mounts: Iterable[MountInfo]) -> Hierarchies:
    """What there is among *mounts*."""
    found: dict[str, Hierarchy] = {}
    unified: Hierarchy | None = None
    for mount in mounts:
        if mount.fstype == "cgroup2" and (unified is None or mount.mount_point == _PLACE):
            unified = Hierarchy(mount.mount_point, mount.root)
        if mount.fstype != "cgroup":
            continue
        for word in mount.super_options.split(","):
            if word not in _MOUNT_WORDS and ("=" not in word or word.startswith("name=")):
                found.setdefault(word, Hierarchy(mount.mount_point, mount.root))
    is_unified = unified is not None and (
        unified.mount_point == _PLACE or all(name.startswith("name=") for name in found)
    )
    return Hierarchies(found, unified, is_unified)


@lru_cache(maxsize=1)
def read_hierarchies() -> Hierarchies:
    """What this host has. Read once in a process: a host does not change it, and its table of mounts is long."""
    return find_hierarchies(read_mountinfo())


def own_groups() -> Mapping[str, str]:
    """The group that this process is in, by controller; that of version 2 by an empty name. Source: cgroups(7)."""
    with open("/proc/self/cgroup", "rb") as file:
        lines = [line.split(":", 2) for line in os.fsdecode(file.read()).splitlines()]
    return {name: path for _number, names, path in lines for name in names.split(",")}


def own_directory(own: str, hierarchy: Hierarchy) -> str:
    """The directory of the group *own* of the hierarchy, or its root for one outside of what is mounted here."""
    inside = os.path.relpath(own, hierarchy.root)
    if inside.startswith(".."):
        inside = "."
    return os.path.normpath(os.path.join(hierarchy.mount_point, inside))
