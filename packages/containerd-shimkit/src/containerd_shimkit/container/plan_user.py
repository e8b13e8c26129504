"""Plans containers in user namespaces: who is who there, and what differs because root there is not the host's. Pure.

As long as the init has the host's privileges it does what takes them: it enters the cgroup and existing namespaces,
and raises limits. Then it enters the user namespace, to which every namespace belongs that is made after that. Sources
of mounts are opened before it becomes the root of that namespace, who need not have access to them.
Source: OCI runtime specification 1.2, config-linux.md, "User namespace mappings"; user_namespaces(7).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from ..errors import FailedPreconditionError, InvalidArgumentError
from ..oci.spec import IdMapping, Linux, Process
from .operations import (
    BecomeRoot,
    BindDevice,
    BindMount,
    BindRoot,
    DeviceNode,
    EnterUserNamespace,
    GiveStreams,
    OpenSources,
    Operation,
    PrepareRoot,
    RaiseRlimit,
)

__all__ = [
    "check_mappings",
    "check_ordinary_user",
    "check_ranges",
    "enter_user_namespace",
    "in_user_namespace",
    "prepare_for_user_namespace",
    "with_bound_devices",
]

_MOST: Final = 340  # ranges that a kernel takes
_IDS: Final = 1 << 32


def check_mappings(process: Process, linux: Linux, kinds: Mapping[str, str]) -> None:
    """Refuse mappings that cannot be, and users that they do not have. Raises: InvalidArgumentError."""
    both = {"uidMappings": linux.uid_mappings, "gidMappings": linux.gid_mappings}
    if "user" not in kinds:
        for field, mappings in both.items():
            if mappings:
                raise InvalidArgumentError(
                    f"config.json: linux.{field} is set, but linux.namespaces has no `user`: add it, or leave them out"
                )
        return
    for field, mappings in both.items():
        if mappings:
            check_ranges(f"linux.{field}", mappings)
        elif not kinds["user"]:
            raise InvalidArgumentError(
                f"config.json: linux.{field} is absent, but linux.namespaces has a new `user`, where nobody would be "
                "anybody; map at least container id 0"
            )
    user = process.user
    wanted = {
        "process.user.uid": (linux.uid_mappings, (0, user.uid)),
        "process.user.gid": (linux.gid_mappings, (0, user.gid)),
        "process.user.additionalGids": (linux.gid_mappings, user.additional_gids),
    }
    for field, (mappings, ids) in wanted.items():
        for each in ids if mappings else ():
            if _host_id(mappings, each) is None:
                name = "uid" if field.endswith("uid") else "gid"
                raise InvalidArgumentError(
                    f"config.json: {field} needs the id {each}, which linux.{name}Mappings does not map"
                    + (": setting the container up needs a root there" if each == 0 else "")
                )


def check_ordinary_user(user: int, kinds: Mapping[str, str]) -> None:
    """Refuse the namespaces that *user*, who is not root, cannot have. Raises: FailedPreconditionError."""
    if "user" not in kinds:
        raise FailedPreconditionError(
            f"config.json: linux.namespaces has no `user`, but user {user} is not root and can make containers only in "
            "a user namespace; add it, with linux.uidMappings and gidMappings (`containerd-shimkit-oci spec "
            "--rootless` writes all that), or be root"
        )
    if kinds.get("pid"):
        raise FailedPreconditionError(
            f"config.json: linux.namespaces: pid is to be joined at {kinds['pid']!r}, which only root can; "
            "leave the path out"
        )


def check_ranges(field: str, mappings: Sequence[IdMapping]) -> None:
    """Refuse what is no mapping of ids. Raises: InvalidArgumentError that names the *field* and the range."""
    if len(mappings) > _MOST:
        raise InvalidArgumentError(f"config.json: {field} has {len(mappings)} ranges; the kernel takes {_MOST}")
    for side, first in (("containerID", "container_id"), ("hostID", "host_id")):
        end = 0
        for start, size in sorted((getattr(each, first), each.size) for each in mappings):
            if size == 0 or start + size > _IDS:
                raise InvalidArgumentError(
                    f"config.json: {field} has a range of {size} ids from {side} {start}; it must have at least one, "
                    "and end below 2^32"
                )
            if start < end:
                raise InvalidArgumentError(f"config.json: {field} has ranges that overlap at {side} {start}")
            end = start + size


def _host_id(mappings: Sequence[IdMapping], container_id: int) -> int | None:
    for each in mappings:
        if each.container_id <= container_id < each.container_id + each.size:
            return each.host_id + container_id - each.container_id
    return None


def prepare_for_user_namespace(process: Process, linux: Linux) -> Iterator[Operation]:
    """What only the host's root can do, though it is meant for later."""
    yield from (RaiseRlimit(limit.type, limit.hard) for limit in process.rlimits)
    owner = _host_id(linux.uid_mappings, process.user.uid)
    if owner is not None:
        yield GiveStreams(owner)


def enter_user_namespace(linux: Linux, kinds: Mapping[str, str]) -> Operation:
    """The step from the host's root to a process of the user namespace."""
    uids, gids = (
        tuple((each.container_id, each.host_id, each.size) for each in mappings)
        for mappings in (linux.uid_mappings, linux.gid_mappings)
    )
    return EnterUserNamespace(kinds["user"], kinds.get("pid") == "", uids, gids)


def in_user_namespace(steps: Iterable[Operation], namespaces: Iterable[Operation]) -> Iterator[Operation]:
    """*steps*, which build a root, as the root of a user namespace can carry them out: device nodes are the host's.

    *namespaces* are made as soon as there is such a root.
    """
    planned = tuple(map(_without_mknod, steps))
    sources = [each.source for each in planned if isinstance(each, BindMount | BindDevice)]
    for step in planned:
        yield step
        if isinstance(step, PrepareRoot):
            yield OpenSources(tuple(dict.fromkeys(sources)))
            yield BecomeRoot()
            yield from namespaces


def with_bound_devices(steps: Iterable[Operation]) -> Iterator[Operation]:
    """*steps*, which build a root, for a maker who cannot make device nodes: they are the host's."""
    planned = tuple(map(_without_mknod, steps))
    devices = tuple(dict.fromkeys(each.source for each in planned if isinstance(each, BindDevice)))
    for step in planned:
        yield step
        if isinstance(step, PrepareRoot | BindRoot):
            yield OpenSources(devices)


def _without_mknod(step: Operation) -> Operation:
    if not isinstance(step, DeviceNode) or stat.S_ISFIFO(step.mode):
        return step
    return BindDevice(step.path, step.path, stat.S_IFMT(step.mode), step.major, step.minor)
