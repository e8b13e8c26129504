"""Carries out the steps of a container in a user namespace of its own, or in an existing one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from ..linux import mounts, namespaces, paths, rlimits
from ..linux.sibling import fork_sibling
from ..linux.user_namespaces import IdRange, are_groups_fixed, become_root, leave_groups, read_id_map
from ..oci import mount_options as ms
from .operations import (
    BecomeRoot,
    BindDevice,
    EnterUserNamespace,
    GiveStreams,
    NewPidNamespace,
    OpenSources,
    Operation,
    RaiseRlimit,
)
from .site import Site
from .stdio import give_streams

__all__ = ["WORK"]

_GO: Final = b"\1"


def _raise_rlimit(site: Site, kind: str, hard: int) -> None:
    del site
    rlimits.raise_hard_limit(kind, hard)


def _give_streams(site: Site, user: int) -> None:
    del site
    give_streams(user)


def _enter_user_namespace(
    site: Site, path: str, renew_pid: bool, uids: tuple[IdRange, ...], gids: tuple[IdRange, ...]
) -> None:
    if path:
        leave_groups()
        _join(path, uids, gids)
    else:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        site.wait_for_shim({"kind": "unshared"})  # whoever is in it may not say who is who there
    site.fixed_groups = are_groups_fixed()
    if renew_pid:
        _go_on_in_new_pid_namespace(site)


def _join(path: str, uids: tuple[IdRange, ...], gids: tuple[IdRange, ...]) -> None:
    descriptor = namespaces.open_namespace(path, "user")
    try:
        namespaces.setns(descriptor, namespaces.CLONE_NEWUSER)
    finally:
        os.close(descriptor)
    for name, wanted in (("uid", uids), ("gid", gids)):
        found = read_id_map(f"/proc/self/{name}_map")
        if wanted and sorted(wanted) != sorted(found):
            raise OSError(
                errno.EINVAL, f"linux.{name}Mappings is not what the namespace has, {found}; leave it out", path
            )


def _go_on_in_new_pid_namespace(site: Site) -> None:
    """Make a pid namespace, which belongs to the user namespace, and go on there: in a child of this one's parent.

    Who is not the host's root could not go back from one to fork another's init.
    """
    namespaces.unshare(namespaces.CLONE_NEWPID)
    reader, writer = os.pipe()
    pid = fork_sibling()
    if pid:
        status = 1
        try:
            os.close(reader)
            site.wait_for_shim({"kind": "successor", "pid": pid})
            os.write(writer, _GO)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    # not by the channel, where only one of two can listen: nothing is made until the successor is on record
    if os.read(reader, 1) != _GO:
        os._exit(1)
    os.close(reader)
    os.setsid()


def _open_sources(site: Site, sources: tuple[str, ...]) -> None:
    for source in sources:
        site.sources[source] = os.open(source, os.O_PATH | os.O_CLOEXEC)


def _become_root(site: Site) -> None:
    become_root(keep_groups=site.fixed_groups)


def _bind_device(site: Site, path: str, source: str, kind: int, major: int, minor: int) -> None:
    found = os.fstat(site.sources[source])
    if (stat.S_IFMT(found.st_mode), found.st_rdev) != (kind, os.makedev(major, minor)):
        raise OSError(
            errno.ENODEV, "the host has another file there, and no node can be made in a user namespace", source
        )
    place = paths.make_file_in_root(site.root_fd, path)
    try:
        mounts.mount(site.source(source), f"/proc/self/fd/{place}", "", ms.MS_BIND)
    finally:
        os.close(place)


WORK: Final[dict[type[Operation], Callable[..., None]]] = {
    RaiseRlimit: _raise_rlimit,
    GiveStreams: _give_streams,
    EnterUserNamespace: _enter_user_namespace,
    NewPidNamespace: _go_on_in_new_pid_namespace,
    OpenSources: _open_sources,
    BecomeRoot: _become_root,
    BindDevice: _bind_device,
}
