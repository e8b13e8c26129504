"""Plans the namespaces that a container has, and what is set in them. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..errors import InvalidArgumentError
from ..oci.spec import Linux, Process, Spec
from .operations import (
    BringLoopbackUp,
    JoinNamespace,
    NewPidNamespace,
    NewTimeNamespace,
    Operation,
    SetDomainname,
    SetHostname,
    SetSysctl,
    Unshare,
    WaitForNetDevices,
)
from .plan_user import enter_user_namespace, prepare_for_user_namespace
from .refusals import unsupported

__all__ = ["kinds_of", "later_namespace_steps", "namespace_steps", "net_device_steps", "setting_steps"]

_JOINABLE: Final = ("ipc", "uts", "network", "cgroup", "time", "mount")  # paths are looked up in the host's mounts
_NEW_AT_ONCE: Final = ("mount", "ipc", "uts", "network", "cgroup")
_IPC_SYSCTLS: Final = frozenset(
    f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def kinds_of(linux: Linux) -> dict[str, str]:
    """The namespaces that are asked for: paths by kind, empty for a new one. Raises: ShimError for a bad one."""
    kinds = {namespace.type: namespace.path for namespace in linux.namespaces}
    for kind, path in kinds.items():
        if kind not in ("pid", "user", *_JOINABLE):
            raise InvalidArgumentError(f"config.json: linux.namespaces has the unknown type {kind!r}")
        if path and not posixpath.isabs(path):
            raise InvalidArgumentError(f"config.json: the {kind} namespace's path {path!r} is not absolute")
    if "mount" not in kinds:
        _check_hosts_mounts(linux, kinds)
    if kinds.get("mount") and "user" in kinds:
        raise unsupported("linux.namespaces: mount", f"is to be joined at {kinds['mount']!r} beside one of type `user`")
    if linux.time_offsets and kinds.get("time") != "":
        raise InvalidArgumentError(
            "config.json: linux.timeOffsets is set, but linux.namespaces has no new namespace of type `time`: the "
            "clocks of an existing one, or of the host, cannot be set"
        )
    return kinds


def _check_hosts_mounts(linux: Linux, kinds: Mapping[str, str]) -> None:
    """A container among the host's mounts can have its own root, but nothing hidden from it."""
    wanted = {
        "linux.maskedPaths": linux.masked_paths,
        "linux.readonlyPaths": linux.readonly_paths,
        "linux.rootfsPropagation": linux.rootfs_propagation,
        "linux.namespaces: user": "user" in kinds,
    }
    for field, value in wanted.items():
        if value:
            raise InvalidArgumentError(
                f"config.json: {field} is set, but linux.namespaces has no `mount`: what is hidden would be hidden "
                "from the host as well; give the container a namespace of type `mount`"
            )


def namespace_steps(
    process: Process, linux: Linux, kinds: Mapping[str, str], user: int = 0, is_hosts_root: bool = True
) -> Iterator[Operation]:
    """The steps by which a process of *user* enters them, who may be root without being the host's."""
    if "user" in kinds:
        yield from prepare_for_user_namespace(process, linux)
    # joined before the new mount namespace exists, while their paths can still be seen
    joined = tuple(JoinNamespace(kind, kinds[kind]) for kind in _JOINABLE if kinds.get(kind))
    if not user:
        yield from joined
    if "user" in kinds:
        yield enter_user_namespace(linux, kinds)  # before what is to belong to it
    elif not is_hosts_root and kinds.get("pid") == "":
        yield NewPidNamespace()
    if user:
        yield from joined  # what this user may enter at all belongs to the user namespace that is joined too
    yield from _new(kinds, ("mount",) if "user" in kinds else _NEW_AT_ONCE)
    if kinds.get("time") == "":
        yield NewTimeNamespace("".join(f"{each.clock} {each.secs} {each.nanosecs}\n" for each in linux.time_offsets))


def net_device_steps(linux: Linux, kinds: Mapping[str, str]) -> Iterator[Operation]:
    """The step that has interfaces moved, once the network namespace is there."""
    if not linux.net_devices:
        return
    if "network" not in kinds:
        raise InvalidArgumentError(
            "config.json: linux.netDevices is set, but linux.namespaces has no `network`: the interfaces are the host's"
        )
    yield WaitForNetDevices()


def later_namespace_steps(kinds: Mapping[str, str]) -> Iterator[Operation]:
    """The steps that make what is to belong to the root of a user namespace, and not to the host's, who enters it."""
    yield from _new(kinds, _NEW_AT_ONCE[1:])


def _new(kinds: Mapping[str, str], wanted: Sequence[str]) -> Iterator[Operation]:
    # the cgroup namespace's root is the cgroup that this process is in: it comes after the join
    if new := tuple(kind for kind in wanted if kinds.get(kind) == ""):
        yield Unshare(new)
    if "network" in new:
        yield BringLoopbackUp()


def setting_steps(spec: Spec, linux: Linux, kinds: Mapping[str, str]) -> Iterator[Operation]:
    """The steps that set what belongs to a namespace: kernel settings and names."""
    yield from _plan_sysctls(linux, kinds)
    for field, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if name:
            if "uts" not in kinds:
                raise InvalidArgumentError(f"config.json: {field} is {name!r} but linux.namespaces has no `uts`")
            yield SetHostname(name) if field == "hostname" else SetDomainname(name)


def _plan_sysctls(linux: Linux, kinds: Mapping[str, str]) -> Iterator[SetSysctl]:
    for key, value in linux.sysctl.items():
        name = key if "/" in key else key.replace(".", "/")
        if not all(part and part != ".." for part in name.split("/")):
            raise InvalidArgumentError(f"config.json: linux.sysctl has the malformed name {key!r}")
        if name.startswith("net/"):
            needs = "network"
        elif name in _IPC_SYSCTLS or name.startswith("fs/mqueue/"):
            needs = "ipc"
        elif name == "kernel/domainname":
            needs = "uts"
        else:
            raise InvalidArgumentError(
                f"config.json: linux.sysctl {key!r} belongs to no namespace: it would change the host; set it there"
            )
        if needs not in kinds:
            raise InvalidArgumentError(
                f"config.json: linux.sysctl {key!r} needs a namespace of type `{needs}`, or it would change the host"
            )
        yield SetSysctl(name, value, needs)
