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
from ..linux import mounts, paths
from ..linux.cgroups import CgroupV1
from ..oci import mount_options as ms
from ..oci.hooks import Hook
from . import apply_labels, apply_namespaces, apply_process, apply_user
from .hooks import run_hooks
from .operations import (
    BindMount,
    DeviceNode,
    EnterUserNamespace,
    FilesystemMount,
    InstallSeccomp,
    JoinCgroup,
    MakeDirectory,
    MaskPath,
    NewTimeNamespace,
    OpenLabels,
    OpenSources,
    Operation,
    PivotRoot,
    PrepareRoot,
    RaiseRlimit,
    ReadonlyPath,
    ReadonlyRoot,
    RunHooks,
    SetIoPriority,
    SetMemoryPolicy,
    SetOomScoreAdj,
    SetRlimit,
    SetScheduler,
    SymbolicLink,
    TakeLabels,
    WaitForHooks,
)
from .site import Site
from .steps import Step, describe

__all__ = ["Site", "apply", "make_cgroup"]

_NO_LINKS: Final = ("proc", "sysfs")
_STRICT: Final = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS
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


def make_cgroup(cgroup: CgroupV1, operations: Iterable[Operation]) -> None:
    """Make the cgroup that one of *operations* enters, with its limits; nothing when none does.

    Done by the shim, whose memory it does not cost anew for each container. Raises: ShimError as `apply` does.
    """
    for operation in operations:
        if isinstance(operation, JoinCgroup):
            try:
                cgroup.create()
                if operation.resources is not None:
                    cgroup.apply(operation.resources)
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
        case BindMount.__name__ if error.errno == errno.ENOENT:
            return f"; make sure that {step[1]} exists on the host"
        case OpenSources.__name__ if error.errno == errno.ENOENT:
            return f"; make sure that {error.filename} exists on the host"
        case EnterUserNamespace.__name__ if error.errno in (errno.EINVAL, errno.EUSERS, errno.ENOSPC):
            return "; it must not be the shim's own, and /proc/sys/user/max_user_namespaces must allow one more"
        case SetOomScoreAdj.__name__:
            return "; lowering it needs CAP_SYS_RESOURCE: set restrict_oom_score_adj = true in containerd's CRI plugin"
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
        case PivotRoot.__name__ if error.errno == errno.EINVAL:
            return "; the host runs from its initial RAM file system, which pivot_root(2) cannot leave"
        case _:
            return ""


def _join_cgroup(site: Site, resources: None) -> None:
    del resources  # limits are the shim's to set: `make_cgroup`
    site.cgroup.join()


def _make_directory(site: Site, path: str) -> None:
    os.close(paths.make_directory_in_root(site.root_fd, path, 0o755))


def _make_root_readonly(site: Site) -> None:
    _remount(site.root_fd, ms.MS_RDONLY, 0)


def _prepare_root(site: Site, recursive_slave: bool) -> None:
    mounts.mount("", "/", "", ms.MS_REC | (ms.MS_SLAVE if recursive_slave else ms.MS_PRIVATE))
    # pivot_root(2) wants a mount, whatever stands there
    mounts.mount(site.rootfs, site.rootfs, "", ms.MS_BIND | ms.MS_REC)
    mounts.mount("", site.rootfs, "", ms.MS_PRIVATE)  # what the host mounts there later is not the container's
    site.root_fd = os.open(site.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _by_descriptor(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _bind(
    site: Site, source: str, target: str, recursive: bool, flags: int, cleared: int, propagation: tuple[int, ...]
) -> None:
    source = site.source(source)
    if stat.S_ISDIR(os.stat(source).st_mode):
        place = paths.make_directory_in_root(site.root_fd, target, 0o755)
    else:
        place = paths.make_file_in_root(site.root_fd, target)
    try:
        _refuse_procfs(place, site.root_fd, target)
        mounts.mount(source, _by_descriptor(place), "", ms.MS_BIND | (ms.MS_REC if recursive else 0))
    finally:
        os.close(place)
    if not (flags or cleared or propagation):
        return
    # the descriptor above is of what the mount now hides: look the path up again
    mounted = paths.open_in_root(site.root_fd, target, os.O_PATH)
    try:
        if flags or cleared:
            _remount(mounted, flags, cleared)
        _propagate(mounted, propagation)
    finally:
        os.close(mounted)


def _refuse_procfs(descriptor: int, root_fd: int, target: str) -> None:
    """Refuse to mount over /proc where a link has led there: the plan has seen to paths that say so themselves."""
    root, found = (os.readlink(_by_descriptor(each)) for each in (root_fd, descriptor))
    if f"{found}/".startswith(f"{root}/proc/") and not f"{target}/".startswith("/proc/"):
        raise OSError(
            errno.EPERM, "a symbolic link in the image leads to /proc, where nothing else may be mounted", target
        )


def _remount(descriptor: int, flags: int, cleared: int) -> None:
    """Change the flags of the mount at *descriptor*; those that it has stay, as some may not be taken off."""
    kept = ms.flags_of_statvfs(os.fstatvfs(descriptor).f_flag) & ~cleared
    mounts.mount("", _by_descriptor(descriptor), "", ms.MS_REMOUNT | ms.MS_BIND | kept | flags)


def _propagate(descriptor: int, propagation: tuple[int, ...]) -> None:
    for kind in propagation:
        mounts.mount("", _by_descriptor(descriptor), "", kind)


def _mount_filesystem(
    site: Site, fstype: str, source: str, target: str, flags: int, data: str, propagation: tuple[int, ...]
) -> None:
    place = paths.make_directory_in_root(site.root_fd, target, 0o755)
    try:
        if fstype != "proc":
            _refuse_procfs(place, site.root_fd, target)
        if fstype in _NO_LINKS:
            # a link, in an image or on a shared volume, would let others move what the masks are to cover
            os.close(paths.openat2(site.root_fd, target.lstrip("/"), os.O_PATH | os.O_DIRECTORY, 0, _STRICT))
        mounts.mount(source, _by_descriptor(place), fstype, flags, data)
    finally:
        os.close(place)
    if propagation:
        mounted = paths.open_in_root(site.root_fd, target, os.O_PATH)
        try:
            _propagate(mounted, propagation)
        finally:
            os.close(mounted)


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


def _mask(site: Site, path: str) -> None:
    try:
        target = paths.open_in_root(site.root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if stat.S_ISDIR(os.fstat(target).st_mode):
            mounts.mount("tmpfs", _by_descriptor(target), "tmpfs", ms.MS_RDONLY, "size=0k")
        else:
            mounts.mount("/dev/null", _by_descriptor(target), "", ms.MS_BIND)
    finally:
        os.close(target)


def _make_readonly(site: Site, path: str) -> None:
    try:
        target = paths.open_in_root(site.root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        mounts.mount(_by_descriptor(target), _by_descriptor(target), "", ms.MS_BIND | ms.MS_REC)
    finally:
        os.close(target)
    mounted = paths.open_in_root(site.root_fd, path, os.O_PATH)
    try:
        _remount(mounted, ms.MS_RDONLY, 0)
    finally:
        os.close(mounted)


def _pivot(site: Site) -> None:
    os.fchdir(site.root_fd)
    # with "." twice the old root is stacked on the new one, and no directory in the image is needed to put it in
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")
    os.close(site.root_fd)
    site.root_fd = -1


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
    PrepareRoot: _prepare_root,
    BindMount: _bind,
    FilesystemMount: _mount_filesystem,
    DeviceNode: _make_device,
    SymbolicLink: _make_link,
    MakeDirectory: _make_directory,
    MaskPath: _mask,
    ReadonlyPath: _make_readonly,
    ReadonlyRoot: _make_root_readonly,
    PivotRoot: _pivot,
    WaitForHooks: _wait_for_hooks,
    RunHooks: _run_hooks,
    **apply_labels.WORK,
    **apply_namespaces.WORK,
    **apply_process.WORK,
    **apply_user.WORK,
}
_WORK: Final = {kind.__name__: work for kind, work in _KINDS_OF_WORK.items()}
