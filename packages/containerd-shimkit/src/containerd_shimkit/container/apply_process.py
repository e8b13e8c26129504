"""Carries out the steps that make the init's process what the specification says of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from ..linux import capabilities, memory_policy, process, rlimits, scheduling, seccomp
from ..linux.user_namespaces import own_standing
from .operations import (
    ChangeDirectory,
    DropPrivileges,
    InstallSeccomp,
    Operation,
    SetAffinity,
    SetIoPriority,
    SetMemoryPolicy,
    SetOomScoreAdj,
    SetPersonality,
    SetRlimit,
    SetScheduler,
)
from .site import Site

__all__ = ["WORK"]


def _set_oom_score_adj(site: Site, value: int) -> None:
    del site
    process.set_oom_score_adj(value)


def _set_rlimit(site: Site, kind: str, soft: int, hard: int) -> None:
    del site
    rlimits.set_rlimit(kind, soft, hard)


def _set_affinity(site: Site, cpus: tuple[int, ...]) -> None:
    del site
    os.sched_setaffinity(0, cpus)


def _drop_privileges(
    site: Site,
    uid: int,
    gid: int,
    groups: tuple[int, ...],
    umask: int,
    bounding: int,
    effective: int,
    permitted: int,
    inheritable: int,
    ambient: int,
    no_new_privileges: bool,
) -> None:
    """The sets of capabilities are masks."""
    capabilities.drop_bounding(bounding)
    capabilities.set_keep_caps(True)  # or the change of uid would empty the permitted set
    _set_groups(site, gid, groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    capabilities.set_keep_caps(False)
    capabilities.set_capabilities(effective, permitted, inheritable)
    capabilities.set_ambient(ambient)
    if no_new_privileges:
        process.set_no_new_privs()
    os.umask(umask)


def _set_groups(site: Site, gid: int, groups: tuple[int, ...]) -> None:
    try:
        os.setgroups(list(groups))
    except PermissionError as error:
        if not (site.fixed_groups or own_standing().has_fixed_groups):
            raise
        # the groups of whoever made the user namespace stay: in it they are nobody's
        if not set(groups) <= {gid}:
            text = "additional groups (process.user.additionalGids) are denied in this user namespace; leave them out"
            raise OSError(error.errno, text) from None


def _install_seccomp(site: Site, flags: tuple[str, ...] | None, program: bytes, notifies: bool) -> None:
    bits = seccomp.filter_flags(flags, notifies=notifies)
    descriptor = seccomp.install_filter(program, bits)
    if notifies:
        site.hand_listener_over(descriptor)
        os.close(descriptor)  # the listener decides on this one as on any other


def _change_directory(site: Site, path: str, may_be_denied: bool) -> None:
    if site.has_directory:
        return
    try:
        os.chdir(path)
    except PermissionError:
        if may_be_denied:
            return
        raise
    site.has_directory = True
    # a path such as /proc/self/fd/7 would lead out of the root if any descriptor of the host were still open
    if not os.getcwd().startswith("/"):
        raise OSError(errno.EPERM, "the working directory is outside of the container", path)


def _set_scheduler(
    site: Site, policy: str, nice: int, priority: int, flags: tuple[str, ...], runtime: int, deadline: int, period: int
) -> None:
    del site
    scheduling.set_scheduler(policy, nice, priority, flags, runtime, deadline, period)


def _set_io_priority(site: Site, io_class: str, priority: int) -> None:
    del site
    scheduling.set_io_priority(io_class, priority)


def _set_memory_policy(site: Site, mode: str, nodes: tuple[int, ...], flags: tuple[str, ...]) -> None:
    del site
    memory_policy.set_memory_policy(mode, nodes, flags)


def _set_personality(site: Site, domain: str) -> None:
    del site
    process.set_personality(domain)


WORK: Final[dict[type[Operation], Callable[..., None]]] = {
    SetOomScoreAdj: _set_oom_score_adj,
    SetAffinity: _set_affinity,
    SetRlimit: _set_rlimit,
    SetScheduler: _set_scheduler,
    SetIoPriority: _set_io_priority,
    SetMemoryPolicy: _set_memory_policy,
    SetPersonality: _set_personality,
    DropPrivileges: _drop_privileges,
    InstallSeccomp: _install_seccomp,
    ChangeDirectory: _change_directory,
}
