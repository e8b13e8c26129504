"""Carries one operation out: the only place where a plan's values become system calls.

Runs in a container's init, which is alone in its mount namespace while it does: nobody can move a mount or a link
between two steps. Every target is resolved inside the new root, and mounted on by descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..errors import InternalError, InvalidArgumentError, PermissionDeniedError, ResourceExhaustedError, ShimError
from ..linux import capabilities, mounts, namespaces, paths, process, rlimits
from ..linux.cgroups import CgroupV1
from ..oci import mount_options as ms
from .operations import (
    BindMount,
    BringLoopbackUp,
    ChangeDirectory,
    DeviceNode,
    DropPrivileges,
    FilesystemMount,
    JoinCgroup,
    JoinNamespace,
    MakeDirectory,
    MaskPath,
    Operation,
    PivotRoot,
    PrepareRoot,
    ReadonlyPath,
    ReadonlyRoot,
    SetDomainname,
    SetHostname,
    SetOomScoreAdj,
    SetRlimit,
    SetSysctl,
    SymbolicLink,
    Unshare,
)

if TYPE_CHECKING:
    from typing_extensions import assert_never
else:  # the module takes a megabyte of memory, which every container's fork would copy

    def assert_never(value: object) -> None:
        raise AssertionError(f"no case for {value!r}")


__all__ = ["Site", "apply", "make_cgroup"]

_NO_LINKS: Final = ("proc", "sysfs")
_STRICT: Final = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS
_NAMESPACE_FILES: Final = {"network": "net", "mount": "mnt"}
_LONGEST: Final = 160
_WRONG: Final = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENODEV, errno.EXDEV)
_FORBIDDEN: Final = (errno.EPERM, errno.EACCES, errno.EROFS)
_EXHAUSTED: Final = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_KINDS: Final[dict[int, type[ShimError]]] = {
    **dict.fromkeys(_WRONG, InvalidArgumentError),
    **dict.fromkeys(_FORBIDDEN, PermissionDeniedError),
    **dict.fromkeys(_EXHAUSTED, ResourceExhaustedError),
}


@dataclass(slots=True)
class Site:
    """Where the operations happen: the root's path on the host, the container's cgroup, and the new root once made."""

    rootfs: str
    cgroup: CgroupV1
    root_fd: int = field(default=-1)
    hosts: set[str] = field(default_factory=lambda: set[str]())  # joined namespaces that are the host's own
    has_directory: bool = field(default=False)


def apply(operation: Operation, site: Site) -> None:
    """Carry *operation* out. Raises: ShimError that names the operation, its values and the kernel's reason."""
    try:
        _apply(operation, site)
    except (ValueError, OSError) as error:
        raise _explained(operation, error) from error


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
                raise _explained(operation, error) from error


def _explained(operation: Operation, error: ValueError | OSError) -> ShimError:
    """What went wrong, as the error that the caller is to see."""
    kind = _KINDS.get(error.errno or 0, InternalError) if isinstance(error, OSError) else InvalidArgumentError
    cure = _cure(operation, error) if isinstance(error, OSError) else ""
    return kind(f"cannot set the container up: {_name(operation)}: {error}{cure}")


def _name(operation: Operation) -> str:
    """The operation with its values, for a message: cut where they are long (twenty capabilities, say)."""
    text = str(operation)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _cure(operation: Operation, error: OSError) -> str:
    match operation:
        case BindMount(source=source) if error.errno == errno.ENOENT:
            return f"; make sure that {source} exists on the host"
        case SetOomScoreAdj():
            return "; lowering it needs CAP_SYS_RESOURCE: set restrict_oom_score_adj = true in containerd's CRI plugin"
        case SetRlimit() if error.errno == errno.EPERM:
            return "; raising a hard limit needs CAP_SYS_RESOURCE: ask for less, or raise containerd's own limit"
        case PivotRoot() if error.errno == errno.EINVAL:
            return "; the host runs from its initial RAM file system, which pivot_root(2) cannot leave"
        case _:
            return ""


def _apply(operation: Operation, site: Site) -> None:
    match operation:
        case SetOomScoreAdj(value):
            _write("/proc/self/oom_score_adj", str(value))
        case JoinCgroup():
            site.cgroup.join()
        case JoinNamespace(kind, path):
            _join_namespace(kind, path, site)
        case Unshare(kinds):
            namespaces.unshare(sum(namespaces.NAMESPACE_FLAGS[kind] for kind in kinds))
        case BringLoopbackUp():
            namespaces.bring_loopback_up()
        case PrepareRoot(recursive_slave):
            _prepare_root(site, ms.MS_SLAVE if recursive_slave else ms.MS_PRIVATE)
        case BindMount():
            _bind(operation, site.root_fd)
        case FilesystemMount():
            _mount_filesystem(operation, site.root_fd)
        case DeviceNode():
            _make_device(operation, site.root_fd)
        case SymbolicLink(path, points_to):
            _make_link(path, points_to, site.root_fd)
        case SetSysctl(name, value, namespace):
            _refuse_hosts(site, namespace)
            _write(f"/proc/sys/{name}", value)
        case SetHostname(name):
            _refuse_hosts(site, "uts")
            namespaces.set_hostname(name)
        case SetDomainname(name):
            _refuse_hosts(site, "uts")
            namespaces.set_domainname(name)
        case MakeDirectory(path):
            os.close(paths.make_directory_in_root(site.root_fd, path, 0o755))
        case MaskPath(path):
            _mask(path, site.root_fd)
        case ReadonlyPath(path):
            _make_readonly(path, site.root_fd)
        case ReadonlyRoot():
            _remount(site.root_fd, ms.MS_RDONLY, 0)
        case PivotRoot():
            _pivot(site)
        case SetRlimit(kind, soft, hard):
            rlimits.set_rlimit(kind, soft, hard)
        case DropPrivileges():
            _drop_privileges(operation)
        case ChangeDirectory():
            _change_directory(operation, site)
        case _:
            assert_never(operation)


def _refuse_hosts(site: Site, kind: str) -> None:
    if kind in site.hosts:
        raise OSError(errno.EPERM, f"the {kind} namespace that is joined is the host's own: set it on the host")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _join_namespace(kind: str, path: str, site: Site) -> None:
    descriptor = namespaces.open_namespace(path, kind)
    try:
        if os.path.samestat(os.fstat(descriptor), os.stat(f"/proc/self/ns/{_NAMESPACE_FILES.get(kind, kind)}")):
            site.hosts.add(kind)
        namespaces.setns(descriptor, namespaces.NAMESPACE_FLAGS[kind])
    finally:
        os.close(descriptor)


def _prepare_root(site: Site, propagation: int) -> None:
    mounts.mount("", "/", "", ms.MS_REC | propagation)
    # pivot_root(2) wants a mount, whatever stands there
    mounts.mount(site.rootfs, site.rootfs, "", ms.MS_BIND | ms.MS_REC)
    mounts.mount("", site.rootfs, "", ms.MS_PRIVATE)  # what the host mounts there later is not the container's
    site.root_fd = os.open(site.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _by_descriptor(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _bind(mount: BindMount, root_fd: int) -> None:
    if stat.S_ISDIR(os.stat(mount.source).st_mode):
        target = paths.make_directory_in_root(root_fd, mount.target, 0o755)
    else:
        target = paths.make_file_in_root(root_fd, mount.target)
    try:
        recursive = ms.MS_REC if mount.recursive else 0
        _refuse_procfs(target, root_fd, mount.target)
        mounts.mount(mount.source, _by_descriptor(target), "", ms.MS_BIND | recursive)
    finally:
        os.close(target)
    if not (mount.flags or mount.cleared or mount.propagation):
        return
    # the descriptor above is of what the mount now hides: look the path up again
    mounted = paths.open_in_root(root_fd, mount.target, os.O_PATH)
    try:
        if mount.flags or mount.cleared:
            _remount(mounted, mount.flags, mount.cleared)
        _propagate(mounted, mount.propagation)
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


def _mount_filesystem(mount: FilesystemMount, root_fd: int) -> None:
    target = paths.make_directory_in_root(root_fd, mount.target, 0o755)
    try:
        if mount.fstype != "proc":
            _refuse_procfs(target, root_fd, mount.target)
        if mount.fstype in _NO_LINKS:
            # a link, in an image or on a shared volume, would let others move what the masks are to cover
            os.close(paths.openat2(root_fd, mount.target.lstrip("/"), os.O_PATH | os.O_DIRECTORY, 0, _STRICT))
        mounts.mount(mount.source, _by_descriptor(target), mount.fstype, mount.flags, mount.data)
    finally:
        os.close(target)
    if mount.propagation:
        mounted = paths.open_in_root(root_fd, mount.target, os.O_PATH)
        try:
            _propagate(mounted, mount.propagation)
        finally:
            os.close(mounted)


def _make_device(device: DeviceNode, root_fd: int) -> None:
    directory, name = os.path.split(device.path)
    parent = paths.make_directory_in_root(root_fd, directory, 0o755)
    number = os.makedev(device.major, device.minor)
    try:
        try:
            os.mknod(name, device.mode, number, dir_fd=parent)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (stat.S_IFMT(there.st_mode), there.st_rdev) == (stat.S_IFMT(device.mode), number):
                return
            os.unlink(name, dir_fd=parent)
            os.mknod(name, device.mode, number, dir_fd=parent)
        if device.uid or device.gid:
            os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(parent)


def _make_link(path: str, points_to: str, root_fd: int) -> None:
    directory, name = os.path.split(path)
    parent = paths.make_directory_in_root(root_fd, directory, 0o755)
    try:
        os.symlink(points_to, name, dir_fd=parent)
    except FileExistsError:
        pass  # the image's own
    finally:
        os.close(parent)


def _mask(path: str, root_fd: int) -> None:
    try:
        target = paths.open_in_root(root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if stat.S_ISDIR(os.fstat(target).st_mode):
            mounts.mount("tmpfs", _by_descriptor(target), "tmpfs", ms.MS_RDONLY, "size=0k")
        else:
            mounts.mount("/dev/null", _by_descriptor(target), "", ms.MS_BIND)
    finally:
        os.close(target)


def _make_readonly(path: str, root_fd: int) -> None:
    try:
        target = paths.open_in_root(root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        mounts.mount(_by_descriptor(target), _by_descriptor(target), "", ms.MS_BIND | ms.MS_REC)
    finally:
        os.close(target)
    mounted = paths.open_in_root(root_fd, path, os.O_PATH)
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


def _drop_privileges(operation: DropPrivileges) -> None:
    capabilities.drop_bounding(capabilities.capability_mask(operation.bounding))
    capabilities.set_keep_caps(True)  # or the change of uid would empty the permitted set
    os.setgroups(list(operation.groups))
    os.setresgid(operation.gid, operation.gid, operation.gid)
    os.setresuid(operation.uid, operation.uid, operation.uid)
    capabilities.set_keep_caps(False)
    capabilities.set_capabilities(
        capabilities.capability_mask(operation.effective),
        capabilities.capability_mask(operation.permitted),
        capabilities.capability_mask(operation.inheritable),
    )
    capabilities.set_ambient(capabilities.capability_mask(operation.ambient))
    if operation.no_new_privileges:
        process.set_no_new_privs()
    os.umask(operation.umask)


def _change_directory(operation: ChangeDirectory, site: Site) -> None:
    if site.has_directory:
        return
    try:
        os.chdir(operation.path)
    except PermissionError:
        if operation.may_be_denied:
            return
        raise
    site.has_directory = True
    # a path such as /proc/self/fd/7 would lead out of the root if any descriptor of the host were still open
    if not os.getcwd().startswith("/"):
        raise OSError(errno.EPERM, "the working directory is outside of the container", operation.path)
