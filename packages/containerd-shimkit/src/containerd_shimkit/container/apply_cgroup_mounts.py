"""Carries out mounts of type cgroup and cgroup2: what the container sees of control groups is its own.

Source: cgroups(7), cgroup_namespaces(7).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Final

from ..errors import FailedPreconditionError
from ..linux import mounts, paths
from ..oci import mount_options as ms
from .apply_mounts import bind, by_descriptor, propagate, propagate_at, refuse_procfs, remount
from .operations import CgroupMount, Operation
from .site import Site

__all__ = ["WORK", "controllers_by_directory"]

_SAFE: Final = ms.MS_NOSUID | ms.MS_NODEV | ms.MS_NOEXEC
_UNIFIED: Final = "unified"  # what stands for a controller in the paths of a group of version 2
_NOT_ALLOWED: Final = (errno.EPERM, errno.EBUSY)


def controllers_by_directory(directories: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    """Which controllers share which directory, from the group's *directories* by controller."""
    found: dict[str, tuple[str, ...]] = {}
    for controller, directory in directories.items():
        if directory.startswith("/"):  # else a note for whoever cleans up
            found[directory] = (*found.get(directory, ()), controller)
    return found


def _mount_cgroups(
    site: Site,
    target: str,
    unified: bool,
    namespaced: bool,
    flags: int,
    data: str,
    propagation: tuple[int, ...],
) -> None:
    if unified or _UNIFIED in site.cgroup.paths:
        _mount_unified(site, target, namespaced, flags, data, propagation)
    else:
        _mount_hierarchies(site, target, namespaced, flags, propagation)


def _mount_unified(
    site: Site, target: str, namespaced: bool, flags: int, data: str, propagation: tuple[int, ...]
) -> None:
    if namespaced:
        try:
            place = paths.make_directory_in_root(site.root_fd, target, 0o755)
            try:
                refuse_procfs(place, site.root_fd, target)
                mounts.mount("cgroup", by_descriptor(place), "cgroup2", flags, data)
            finally:
                os.close(place)
            propagate_at(site, target, propagation)
            return
        except OSError as error:
            if error.errno not in _NOT_ALLOWED:
                raise
    bind(site, _own_directory(site), target, False, flags, 0, propagation)


def _own_directory(site: Site) -> str:
    """The directory of this process's own group in the version 2 hierarchy."""
    if _UNIFIED in site.cgroup.paths:
        return site.cgroup.paths[_UNIFIED]
    with open("/proc/self/cgroup", "rb") as file:
        own = next((line[3:] for line in os.fsdecode(file.read()).splitlines() if line.startswith("0::")), None)
    found = next(iter(mounts.read_mountinfo("cgroup2")), None)
    if own is None or found is None:
        raise FailedPreconditionError(
            "config.json: mounts has one of type cgroup2, but this host has no cgroup version 2 hierarchy mounted; "
            "use the type cgroup"
        )
    inside = os.path.relpath(own, found.root)
    return found.mount_point if inside.startswith("..") else os.path.normpath(os.path.join(found.mount_point, inside))


def _mount_hierarchies(site: Site, target: str, namespaced: bool, flags: int, propagation: tuple[int, ...]) -> None:
    place = paths.make_directory_in_root(site.root_fd, target, 0o755)
    try:
        refuse_procfs(place, site.root_fd, target)
        mounts.mount("tmpfs", by_descriptor(place), "tmpfs", _SAFE, "mode=755")
    finally:
        os.close(place)
    tmpfs = paths.open_in_root(site.root_fd, target, os.O_PATH | os.O_DIRECTORY)
    try:
        for directory, controllers in controllers_by_directory(site.cgroup.paths).items():
            names = [controller.removeprefix("name=") for controller in controllers]
            name = ",".join(names)
            os.mkdir(name, 0o755, dir_fd=tmpfs)
            if namespaced:
                _mount_at(tmpfs, name, "cgroup", "cgroup", _SAFE | flags, ",".join(controllers))
            else:
                _mount_at(tmpfs, name, directory, "", ms.MS_BIND, "")
                _remount_at(tmpfs, name, flags)
            for alias in names if len(names) > 1 else ():
                os.symlink(name, alias, dir_fd=tmpfs)
        if flags & ms.MS_RDONLY:
            remount(tmpfs, ms.MS_RDONLY, 0)
        propagate(tmpfs, propagation)
    finally:
        os.close(tmpfs)


def _mount_at(tmpfs: int, name: str, source: str, fstype: str, flags: int, data: str) -> None:
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmpfs)
    try:
        mounts.mount(source, by_descriptor(place), fstype, flags, data)
    finally:
        os.close(place)


def _remount_at(tmpfs: int, name: str, flags: int) -> None:
    if flags:
        mounted = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmpfs)
        try:
            remount(mounted, flags, 0)
        finally:
            os.close(mounted)


WORK: Final[dict[type[Operation], Callable[..., None]]] = {CgroupMount: _mount_cgroups}
"""What carries each operation of this topic out, given the site and the operation's values."""
