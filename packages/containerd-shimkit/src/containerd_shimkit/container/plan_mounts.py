"""From `mounts` of a spec to the steps that carry it out. Pure, like the whole plan.

Source: OCI runtime specification 1.2, config.md, mounts, and config-linux.md, rootfs mount propagation.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Final

from ..errors import InvalidArgumentError
from ..oci import mount_options as ms
from ..oci.mount_options import MountOptions
from ..oci.spec import IdMapping, Linux, Mount, Spec
from .operations import (
    BindMount,
    BindRoot,
    CgroupMount,
    ChangeRoot,
    CopiedTmpfs,
    FilesystemMount,
    IdRange,
    MappedBindMount,
    OpenMappedMount,
    Operation,
    PivotRoot,
    PrepareRoot,
    ReadonlyPath,
    SetMountAttributes,
    SetRootPropagation,
)
from .plan_user import check_ranges
from .refusals import unsupported

__all__ = ["binds_dev", "leave_host", "plan_mappings", "plan_mounts", "prepare_root", "seal_mounts"]

_PROC_FILES: Final = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime")
)
_SLAVE: Final = ("", "slave", "rslave")
_PRIVATE: Final = ("private", "rprivate")
_ROOTS_OWN: Final[Mapping[str, int]] = {
    "shared": ms.MS_SHARED,
    "rshared": ms.MS_SHARED | ms.MS_REC,
    "unbindable": ms.MS_UNBINDABLE,
    "runbindable": ms.MS_UNBINDABLE | ms.MS_REC,
}
_MAPPED: Final = frozenset(("idmap", "ridmap"))
_CGROUPS: Final = ("cgroup", "cgroup2")


def prepare_root(linux: Linux, kinds: Mapping[str, str]) -> PrepareRoot | BindRoot:
    """Plan what the new root and the host have to do with each other. Raises: InvalidArgumentError."""
    if "mount" not in kinds:
        return BindRoot()
    word = linux.rootfs_propagation
    if word not in (*_SLAVE, *_PRIVATE, *_ROOTS_OWN):
        choices = ", ".join((*_SLAVE[1:], *_PRIVATE, *_ROOTS_OWN))
        raise InvalidArgumentError(f"config.json: linux.rootfsPropagation is {word!r}; it must be one of {choices}")
    if _is_shared(linux):
        return PrepareRoot(0)
    # slave, unless asked otherwise: a bind mount that wants the host's later mounts can have them (rslave)
    kind = ms.MS_PRIVATE if word in _PRIVATE else ms.MS_SLAVE
    return PrepareRoot(kind | ms.MS_REC, follows_host=word in _SLAVE[1:])


def leave_host(linux: Linux, kinds: Mapping[str, str]) -> Iterator[Operation]:
    """Plan how the new root becomes `/`, and what propagation it has then."""
    if "mount" not in kinds:
        yield ChangeRoot()
        return
    yield PivotRoot(connected=_is_shared(linux))
    if linux.rootfs_propagation in _ROOTS_OWN:
        yield SetRootPropagation(_ROOTS_OWN[linux.rootfs_propagation])


def _is_shared(linux: Linux) -> bool:
    return linux.rootfs_propagation in ("shared", "rshared")


def plan_mounts(spec: Spec, linux: Linux, bundle: str) -> Iterator[Operation]:
    """Give the steps of the mounts, in their order. Raises: InvalidArgumentError, UnimplementedError."""
    for index, mount in enumerate(spec.mounts):
        options = ms.parse_options(mount.options)
        yield _plan_mount(index, mount, options, linux, bundle)
        if options.extensions and not _is_own_dev(mount):
            yield from _attributes(mount, options)


def plan_mappings(spec: Spec, linux: Linux, kinds: Mapping[str, str], bundle: str) -> Iterator[Operation]:
    """Give the steps that make mounts with mapped ids, as only the host's root can. Raises: as `plan_mounts`."""
    root = prepare_root(linux, kinds)
    hosts = root.hosts & ~ms.MS_REC if isinstance(root, PrepareRoot) else 0
    for number, mount in enumerate(spec.mounts):
        options = ms.parse_options(mount.options)
        if _is_bind(mount) and (options.extensions or mount.uid_mappings or mount.gid_mappings):
            uids, gids = _mappings(mount, options, f"mounts[{number}]", linux)
            if uids:
                below, recursive = "ridmap" in options.extensions, bool(options.flags & ms.MS_REC)
                yield OpenMappedMount(_source(mount, bundle), number, uids, gids, below, recursive, hosts)


def seal_mounts(spec: Spec) -> Iterator[Operation]:
    """Give the steps for what can become read-only only when the root is built."""
    for mount in spec.mounts:
        if _is_own_dev(mount):
            options = ms.parse_options(mount.options)
            if options.flags & ms.MS_RDONLY:
                yield ReadonlyPath("/dev")
            yield from _attributes(mount, options)


def binds_dev(spec: Spec) -> bool:
    """Whether /dev is a bind mount: it has what it has."""
    return any(_target(mount) == "/dev" and _is_bind(mount) for mount in spec.mounts)


def _is_own_dev(mount: Mount) -> bool:
    return _target(mount) == "/dev" and not _is_bind(mount)


def _is_bind(mount: Mount) -> bool:
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def _target(mount: Mount) -> str:
    """A relative destination, which is deprecated, counts from the root."""
    return posixpath.normpath(f"/{mount.destination.lstrip('/')}")


def _plan_mount(number: int, mount: Mount, options: MountOptions, linux: Linux, bundle: str) -> Operation:
    field, target = f"mounts[{number}]", _target(mount)
    if target == "/":
        raise InvalidArgumentError(f"config.json: {field}.destination is '/': the root file system stands there")
    _check_proc(mount, target, field)
    for word in options.extensions:
        if word not in ms.KNOWN_OPTIONS:
            raise unsupported(f"{field}.options", f"has {word!r}")
    if _is_bind(mount):
        return _plan_bind(number, mount, options, linux, bundle)
    if mount.uid_mappings or mount.gid_mappings or not _MAPPED.isdisjoint(options.extensions):
        raise InvalidArgumentError(
            f"config.json: {field} asks for mapped ids, which only a bind mount can have; add `rbind` to its options"
        )
    if not mount.type:
        raise InvalidArgumentError(
            f"config.json: {field}.type is empty, and options have no `bind`: name a file system, or add `rbind`"
        )
    flags = options.flags & ~ms.MS_REC
    if target == "/dev":
        flags &= ~ms.MS_RDONLY  # it is filled first; `seal_mounts` makes it read-only
    data, propagation = options.data, options.propagation
    if mount.type in _CGROUPS:
        namespaced = any(namespace.type == "cgroup" for namespace in linux.namespaces)
        return CgroupMount(target, mount.type == "cgroup2", namespaced, flags, data, propagation)
    if "tmpcopyup" in options.extensions:
        if mount.type != "tmpfs":
            raise InvalidArgumentError(
                f"config.json: {field}.options has `tmpcopyup`, but its type is {mount.type!r}, not tmpfs"
            )
        return CopiedTmpfs(mount.source or mount.type, target, flags, data, propagation)
    return FilesystemMount(mount.type, mount.source or mount.type, target, flags, data, propagation)


def _plan_bind(
    number: int, mount: Mount, options: MountOptions, linux: Linux, bundle: str
) -> BindMount | MappedBindMount:
    field, target = f"mounts[{number}]", _target(mount)
    if not mount.source:
        raise InvalidArgumentError(f"config.json: {field}.source of a bind mount is empty: name what it is to show")
    if "tmpcopyup" in options.extensions:
        raise InvalidArgumentError(f"config.json: {field}.options has `tmpcopyup`, which a bind mount cannot have")
    source = _source(mount, bundle)
    flags, cleared, propagation = options.flags & ~(ms.MS_BIND | ms.MS_REC), options.cleared, options.propagation
    if _mappings(mount, options, field, linux)[0]:
        return MappedBindMount(source, number, target, flags, cleared, propagation)
    return BindMount(source, target, bool(options.flags & ms.MS_REC), flags, cleared, propagation)


def _source(mount: Mount, bundle: str) -> str:
    return posixpath.normpath(posixpath.join(bundle, mount.source))


def _mappings(
    mount: Mount, options: MountOptions, field: str, linux: Linux
) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
    """The ranges of a bind mount's users and groups; none where it has no mapping."""
    uids, gids = mount.uid_mappings, mount.gid_mappings
    if bool(uids) != bool(gids):
        missing = "gidMappings" if uids else "uidMappings"
        raise InvalidArgumentError(f"config.json: {field}.{missing} is absent: both mappings are needed, or none")
    if not uids and not _MAPPED.isdisjoint(options.extensions):
        uids, gids = linux.uid_mappings, linux.gid_mappings  # the container's own
        if not uids or not gids:
            raise InvalidArgumentError(
                f"config.json: {field}.options asks for mapped ids, but there is no mapping; give the mount "
                "uidMappings and gidMappings"
            )
    for name, mappings in (("uidMappings", uids), ("gidMappings", gids)):
        check_ranges(f"{field}.{name}", mappings)
    return tuple(map(_range, uids)), tuple(map(_range, gids))


def _range(mapping: IdMapping) -> IdRange:
    return mapping.container_id, mapping.host_id, mapping.size


def _attributes(mount: Mount, options: MountOptions) -> Iterator[Operation]:
    cleared, chosen = ms.recursive_attributes(options.extensions)
    if cleared or chosen:
        yield SetMountAttributes(_target(mount), chosen, cleared)


def _check_proc(mount: Mount, target: str, field: str) -> None:
    """Nothing may be mounted over what the container's protection relies on, but for the files that lxcfs gives."""
    if (f"{target}/").startswith("/proc/") and target not in _PROC_FILES:
        if target == "/proc" and (mount.type == "proc" or (_is_bind(mount) and mount.source == "/proc")):
            return
        raise InvalidArgumentError(
            f"config.json: {field}.destination {mount.destination!r} is in /proc, where only /proc itself may be "
            "mounted: choose another place"
        )
