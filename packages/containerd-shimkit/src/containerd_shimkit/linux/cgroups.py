"""Chooses the version of control groups that this host has.

What is of version 2 or of systemd alone is loaded only where it is used, for the sake of commands that live for a
moment. A shim can load nothing any more when it makes containers: `container.closed_world` has loaded it before.
"""

from __future__ import annotations

from collections.abc import Mapping

from .booted import require_systemd
from .cgroup import Cgroup, is_scope_path
from .cgroup_mounts import UNIFIED, read_hierarchies
from .cgroup_v1 import CgroupV1

__all__ = ["cgroup_for", "cgroup_from", "cgroup_of"]


def cgroup_for(cgroups_path: str, id: str = "", *, by_systemd: bool = False) -> Cgroup:  # noqa: A002
    """The group that `linux.cgroupsPath` names, or *id* when that is empty; nothing is made yet.

    A path of the form slice:prefix:name is a scope of systemd's, and *by_systemd* says that it has to be one.
    An absolute path counts from the root of what is mounted; a relative one from the group that this process is in or,
    with version 2, where a group with processes cannot have limited groups in it, from the group above.
    Raises: InvalidArgumentError, UnimplementedError, naming the field and its value; FailedPreconditionError when this
    host has no control groups.
    """
    if by_systemd or is_scope_path(cgroups_path):
        require_systemd(cgroups_path)  # first: the driver is loaded where it can be used
        from .systemd_cgroups import scope_for

        return scope_for(cgroups_path, id)
    if read_hierarchies().is_unified:
        from .cgroup_v2 import CgroupV2

        return CgroupV2.for_path(cgroups_path, id)
    return CgroupV1.for_path(cgroups_path, id)


def cgroup_from(paths: Mapping[str, str]) -> Cgroup:
    """The group whose `paths` were noted down earlier. Raises: InvalidArgumentError for what cannot be ones."""
    if "scope" in paths:
        from .systemd_cgroups import scope_from

        return scope_from(paths)
    if UNIFIED in paths:
        from .cgroup_v2 import CgroupV2

        return CgroupV2.from_paths(paths)
    return CgroupV1.from_paths(paths)


def cgroup_of(paths: Mapping[str, str]) -> Cgroup:
    """The same for `paths` that come from a group of this program: as they are."""
    if UNIFIED in paths:
        from .cgroup_v2 import CgroupV2

        return CgroupV2(paths)
    return CgroupV1(paths)
