"""Carries one step out: the only place where a plan's values become system calls.

Runs in a container's init, which is alone in its mount namespace while it does: nobody can move a mount or a link
between two steps. Every target is resolved inside the new root, and mounted on by descriptor.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable
from typing import Final

from ..errors import (
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
    UnimplementedError,
)
from ..linux import paths
from ..linux.cgroup import Cgroup
from ..linux.user_namespaces import what_denies_user_namespaces
from ..oci.hooks import Hook
from . import (
    apply_cgroup_mounts,
    apply_labels,
    apply_mounts,
    apply_namespaces,
    apply_process,
    apply_terminal,
    apply_user,
)
from .hooks import run_hooks
from .operations import (
    BecomeRoot,
    BindMount,
    DeviceNode,
    EnterUserNamespace,
    FilesystemMount,
    InstallSeccomp,
    JoinCgroup,
    MakeDirectory,
    NewTimeNamespace,
    OpenLabels,
    OpenMappedMount,
    OpenSources,
    Operation,
    PivotRoot,
    PrepareRoot,
    RaiseRlimit,
    ReadonlyPath,
    RunHooks,
    SetIoPriority,
    SetMemoryPolicy,
    SetMountAttributes,
    SetOomScoreAdj,
    SetRlimit,
    SetScheduler,
    SymbolicLink,
    TakeLabels,
    Unshare,
    WaitForHooks,
)
from .site import Site
from .steps import Step, describe

__all__ = ["Site", "apply", "check_limits", "make_cgroup"]

_LONGEST: Final = 160
_WRONG: Final = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EINVAL,
    errno.ENODEV,
    errno.EXDEV,
    errno.ERANGE,
)
_FORBIDDEN: Final = (errno.EPERM, errno.EACCES, errno.EROFS)
_EXHAUSTED: Final = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_MOUNT_CURES: Final = {
    ("proc", errno.EPERM): (
        "; in a user namespace it needs a pid namespace of its own, and a host whose own /proc is not partly hidden: a "
        "container that this runs in must have an unmasked one (docker run --security-opt systempaths=unconfined)"
    ),
    ("sysfs", errno.EPERM): (
        "; in a user namespace it needs a new network namespace: add one, or bind the host's /sys (type none, source "
        "/sys, option rbind)"
    ),
    ("devpts", errno.EINVAL): "; an option such as gid=5 may name an id that the user namespace does not map",
    ("tmpfs", errno.EINVAL): "; an option such as gid=5 may name an id that the user namespace does not map",
}
_KINDS: Final[dict[int, type[ShimError]]] = {
    **dict.fromkeys(_WRONG, InvalidArgumentError),
    **dict.fromkeys(_FORBIDDEN, PermissionDeniedError),
    **dict.fromkeys(_EXHAUSTED, ResourceExhaustedError),
    errno.ERANGE: InvalidArgumentError,
    errno.ENOSYS: UnimplementedError,
}


def apply(step: Step, site: Site) -> None:
    """Carry *step* out. Raises: ShimError that names the operation, its values and the kernel's reason."""
    name: str = step[0]
    try:
        _WORK[name](site, *step[1:])
    except (ValueError, OSError) as error:
        raise _explained(step, error) from error


def check_limits(cgroup: Cgroup, operations: Iterable[Operation]) -> None:
    """Refuse what `make_cgroup` could never do here; what is computed is kept for it. Raises: ShimError."""
    for operation in operations:
        if isinstance(operation, JoinCgroup) and operation.resources is not None:
            cgroup.check(operation.resources)


def make_cgroup(cgroup: Cgroup, operations: Iterable[Operation], pid: int) -> None:
    """Make the cgroup that the process *pid* enters by one of *operations*, with its limits; nothing when none does.

    Done by the shim, whose memory it does not cost anew for each container. Raises: ShimError as `apply` does.
    """
    for operation in operations:
        if isinstance(operation, JoinCgroup):
            try:
                cgroup.make(pid, operation.resources)
            except (ValueError, OSError) as error:
                raise _explained((JoinCgroup.__name__, operation.resources), error) from error


def _explained(step: Step, error: ValueError | OSError) -> ShimError:
    """What went wrong, as the error that the caller is to see."""
    kind = _KINDS.get(error.errno or 0, InternalError) if isinstance(error, OSError) else InvalidArgumentError
    cure = _cure(step, error) if isinstance(error, OSError) else ""
    text = describe(step)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return kind(f"cannot set the container up: {text}: {error}{cure}")


def _cure(step: Step, error: OSError) -> str:
    match step[0]:
        case BindMount.__name__ | OpenMappedMount.__name__ if error.errno == errno.ENOENT:
            return f"; make sure that {step[1]} exists on the host"
        case OpenSources.__name__ if error.errno == errno.ENOENT:
            return f"; make sure that {error.filename} exists on the host"
        case OpenMappedMount.__name__ if error.errno == errno.EINVAL:
            return (
                f"; the file system of {step[1]} may be one that cannot map ids: take another, or leave the mapping out"
            )
        case OpenMappedMount.__name__ if error.errno in (errno.ENOSPC, errno.EPERM):
            return "; mapped ids need a user namespace: the host's sysctl user.max_user_namespaces must allow one"
        case OpenMappedMount.__name__ | SetMountAttributes.__name__ if error.errno == errno.ENOSYS:
            return "; it needs Linux 5.12 or later: leave idmap, ridmap and the recursive options (rro) out"
        case ReadonlyPath.__name__ if error.errno == errno.EINVAL:
            return "; the mount that it is in may be unbindable: leave that option out"
        case EnterUserNamespace.__name__ if error.errno in (errno.EINVAL, errno.EUSERS, errno.ENOSPC):
            denied = what_denies_user_namespaces(after_failure=True) if error.errno != errno.EINVAL else ""
            return (
                f"; {denied}"
                if denied
                else "; it must not be the shim's own, and /proc/sys/user/max_user_namespaces must allow one more"
            )
        case EnterUserNamespace.__name__ if error.errno == errno.EPERM:
            denied = what_denies_user_namespaces(after_failure=True)
            return f"; {denied or 'a seccomp profile that this runs under may forbid it'}, or be root"
        case Unshare.__name__ | BecomeRoot.__name__ | PrepareRoot.__name__ if error.errno in (
            errno.EPERM,
            errno.EACCES,
        ):
            denied = what_denies_user_namespaces(after_failure=True)
            return f"; {denied}, or be root" if denied else ""
        case FilesystemMount.__name__ if error.errno in (errno.EPERM, errno.EINVAL):
            return _MOUNT_CURES.get((step[1], error.errno), "")
        case SetOomScoreAdj.__name__:
            return (
                "; lowering it needs CAP_SYS_RESOURCE: leave process.oomScoreAdj out, or set "
                "restrict_oom_score_adj = true in containerd's CRI plugin"
            )
        case SetRlimit.__name__ | RaiseRlimit.__name__ if error.errno == errno.EPERM:
            return "; raising a hard limit needs CAP_SYS_RESOURCE: ask for less, or raise containerd's own limit"
        case SetScheduler.__name__ if error.errno == errno.EPERM:
            return (
                "; it needs CAP_SYS_NICE, and a real-time policy needs linux.resources.cpu.realtimeRuntime "
                "where cgroups share that out"
            )
        case SetIoPriority.__name__ if error.errno == errno.EPERM:
            return "; it needs CAP_SYS_NICE: ask for less, or let the shim have that"
        case SetScheduler.__name__ if error.errno == errno.EBUSY:
            return "; the CPUs' time is promised to others: ask for less runtime in process.scheduler"
        case SetMemoryPolicy.__name__ if error.errno in (errno.EINVAL, errno.ENOSYS):
            return "; this kernel has not what linux.memoryPolicy asks for: see its nodes in /sys/devices/system/node"
        case NewTimeNamespace.__name__ if error.errno == errno.EINVAL:
            return "; this kernel has no time namespaces: leave the namespace and linux.timeOffsets out"
        case NewTimeNamespace.__name__ if error.errno == errno.ERANGE:
            return "; linux.timeOffsets would put a clock before the host's boot, or beyond its range"
        case OpenLabels.__name__ | TakeLabels.__name__ if error.errno == errno.ENOENT:
            return "; load the profile of process.apparmorProfile on the host (apparmor_parser), or leave it out"
        case OpenLabels.__name__ | TakeLabels.__name__ if error.errno in (errno.EACCES, errno.EINVAL, errno.EPERM):
            return "; the host's policy must know the label, and let the shim's own label change to it"
        case InstallSeccomp.__name__ if error.errno == errno.EACCES:
            return "; set process.noNewPrivileges, or let the shim have CAP_SYS_ADMIN"
        case InstallSeccomp.__name__ if error.errno == errno.EINVAL:
            return "; this kernel has no seccomp filters, or not with these flags of linux.seccomp"
        case InstallSeccomp.__name__ if error.errno == errno.EBUSY:
            return "; this service runs below another listener already, and a process can have one only"
        case PivotRoot.__name__ if error.errno == errno.EINVAL:
            return "; the host runs from its initial RAM file system, which pivot_root(2) cannot leave"
        case _:
            return ""


def _join_cgroup(site: Site, resources: None) -> None:
    del resources  # limits are the shim's to set: `make_cgroup`
    site.cgroup.join()


def _make_directory(site: Site, path: str) -> None:
    os.close(paths.make_directory_in_root(site.root_fd, path, 0o755))


def _make_device(site: Site, path: str, mode: int, major: int, minor: int, uid: int, gid: int) -> None:
    directory, name = os.path.split(path)
    parent = paths.make_directory_in_root(site.root_fd, directory, 0o755)
    number = os.makedev(major, minor)
    try:
        try:
            os.mknod(name, mode, number, dir_fd=parent)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (stat.S_IFMT(there.st_mode), there.st_rdev) == (stat.S_IFMT(mode), number):
                return
            os.unlink(name, dir_fd=parent)
            os.mknod(name, mode, number, dir_fd=parent)
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _make_link(site: Site, path: str, points_to: str) -> None:
    directory, name = os.path.split(path)
    parent = paths.make_directory_in_root(site.root_fd, directory, 0o755)
    try:
        os.symlink(points_to, name, dir_fd=parent)
    except FileExistsError:
        pass  # the image's own
    finally:
        os.close(parent)


def _wait_for_hooks(site: Site) -> None:
    channel = site.channel
    assert channel is not None, "an init has one"
    channel.send({"kind": "hooks"})
    message, _ = channel.receive()
    if message is None or message["kind"] != "go":
        raise InternalError("the shim gave up while this container's init waited for its hooks")


def _run_hooks(
    site: Site, kind: str, hooks: tuple[tuple[str, tuple[str, ...], tuple[str, ...], int | None], ...], state: bytes
) -> None:
    del site
    here = {**json.loads(state), "pid": os.getpid()}  # as it is in the container's own namespace
    run_hooks(kind, (Hook(*each) for each in hooks), json.dumps(here, separators=(",", ":")).encode())


_KINDS_OF_WORK: Final[dict[type[Operation], Callable[..., None]]] = {
    JoinCgroup: _join_cgroup,
    DeviceNode: _make_device,
    SymbolicLink: _make_link,
    MakeDirectory: _make_directory,
    WaitForHooks: _wait_for_hooks,
    RunHooks: _run_hooks,
    **apply_mounts.WORK,
    **apply_cgroup_mounts.WORK,
    **apply_labels.WORK,
    **apply_namespaces.WORK,
    **apply_process.WORK,
    **apply_terminal.WORK,
    **apply_user.WORK,
}
_WORK: Final = {kind.__name__: work for kind, work in _KINDS_OF_WORK.items()}
