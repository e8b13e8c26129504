"""Chooses the version of control groups that this host has.

What is of version 2 or of systemd alone is loaded only where it is used, for the sake of commands that live for a
moment. A shim can load nothing any more when it makes containers: `container.closed_world` has loaded it before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import FailedPreconditionError, UnimplementedError
from .booted import require_systemd
from .cgroup import Cgroup, is_scope_path
from .cgroup_mounts import UNIFIED, read_hierarchies
from .cgroup_v1 import CgroupV1
from .user_namespaces import own_standing

__all__ = ["cgroup_for", "cgroup_from", "cgroup_of"]


def cgroup_for(cgroups_path: str, id: str = "", *, by_systemd: bool = False) -> Cgroup:  # noqa: A002
    """The group that `linux.cgroupsPath` names, or *id* when that is empty; nothing is made yet.

    A path of the form slice:prefix:name is a scope of systemd's, and *by_systemd* says that it has to be one.
    An absolute path counts from the root of what is mounted; a relative one from the group that this process is in or,
    with version 2, where a group with processes cannot have limited groups in it, from the group above.
    Raises: InvalidArgumentError, UnimplementedError, naming the field and its value; FailedPreconditionError when this
    host has no control groups.

    Who is not the host's root and may make no group there gets a `NoCgroup`; but FailedPreconditionError for a
    *cgroups_path* of the container's own choice.
    """
    if not own_standing().is_hosts_root:
        return _cgroup_of_others(cgroups_path, id, by_systemd=by_systemd)
    return _cgroup_for(cgroups_path, id, by_systemd=by_systemd)


def _cgroup_of_others(cgroups_path: str, id: str, *, by_systemd: bool) -> Cgroup:  # noqa: A002
    from .cgroup_none import NoCgroup, may_make

    if by_systemd or is_scope_path(cgroups_path):
        if os.geteuid() == 0:
            return _cgroup_for(cgroups_path, id, by_systemd=by_systemd)
        raise UnimplementedError(
            f"linux.cgroupsPath is {cgroups_path!r}, for the systemd cgroup driver, but user {os.geteuid()} is not "
            "root and may not ask for scopes; leave it and --systemd-cgroup out"
        )
    try:
        cgroup = _cgroup_for(cgroups_path, id)
    except FailedPreconditionError:  # there is none on this host
        if cgroups_path:
            raise
        return NoCgroup()
    denied = may_make(cgroup)
    if not denied:
        return cgroup
    if cgroups_path:
        raise FailedPreconditionError(
            f"linux.cgroupsPath is {cgroups_path!r}, but user {os.geteuid()} may make no cgroup in {denied}; leave it "
            "out, which means no cgroup and no limits, or have that directory delegated to you"
        )
    return NoCgroup()


def _cgroup_for(cgroups_path: str, id: str, *, by_systemd: bool = False) -> Cgroup:  # noqa: A002
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
    if not paths:
        from .cgroup_none import NoCgroup

        return NoCgroup()
    if UNIFIED in paths:
        from .cgroup_v2 import CgroupV2

        return CgroupV2(paths)
    return CgroupV1(paths)
