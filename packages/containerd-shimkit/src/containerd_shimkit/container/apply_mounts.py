"""Carries out the steps that mount: the new root, what stands in it, and what is hidden or read-only there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from ..linux import mounts, paths
from ..linux.file_tree import copy_tree
from ..linux.id_mapping import open_mapping
from ..linux.mount_tree import copy_mount, move_mount, set_attributes
from ..oci import mount_options as ms
from .operations import (
    BindMount,
    BindRoot,
    ChangeRoot,
    CopiedTmpfs,
    FilesystemMount,
    IdRange,
    MappedBindMount,
    MaskPath,
    OpenMappedMount,
    Operation,
    PivotRoot,
    PrepareRoot,
    ReadonlyPath,
    ReadonlyRoot,
    SetMountAttributes,
    SetRootPropagation,
)
from .site import Site

__all__ = ["WORK", "bind", "by_descriptor", "propagate", "propagate_at", "refuse_procfs", "remount"]

_NO_LINKS: Final = ("proc", "sysfs")
_STRICT: Final = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS


def _prepare_root(site: Site, hosts: int, follows_host: bool) -> None:
    if hosts:
        mounts.mount("", "/", "", hosts)
    else:
        _cut_off(site.rootfs)
    # pivot_root(2) wants a mount, whatever stands there
    mounts.mount(site.rootfs, site.rootfs, "", ms.MS_BIND | ms.MS_REC)
    if not follows_host:
        mounts.mount("", site.rootfs, "", ms.MS_PRIVATE)
    site.root_fd = os.open(site.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _bind_root(site: Site) -> None:
    mounts.mount(site.rootfs, site.rootfs, "", ms.MS_BIND | ms.MS_REC)
    mounts.mount("", site.rootfs, "", ms.MS_PRIVATE)
    site.root_fd = os.open(site.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _change_root(site: Site) -> None:
    os.fchdir(site.root_fd)
    os.chroot(".")
    os.close(site.root_fd)
    site.root_fd = -1


def _cut_off(path: str) -> None:
    """Make the mount that *path* is on private, in this namespace: what is mounted on it does not reach the host."""
    path = os.path.realpath(path)
    while True:
        try:
            mounts.mount("", path, "", ms.MS_PRIVATE)
            return
        except OSError as error:
            if error.errno != errno.EINVAL or path == "/":
                raise
        path = os.path.dirname(path)  # nothing is mounted just there


def bind(
    site: Site, source: str, target: str, recursive: bool, flags: int, cleared: int, propagation: tuple[int, ...]
) -> None:
    """Carry a `BindMount` out."""
    _put(site, copy_mount(site.source(source), recursive=recursive), target, flags, cleared, propagation)


def _open_mapped(
    site: Site,
    source: str,
    number: int,
    uid_mappings: tuple[IdRange, ...],
    gid_mappings: tuple[IdRange, ...],
    maps_below: bool,
    recursive: bool,
    propagation: int,
) -> None:
    mount = copy_mount(source, recursive=recursive)
    try:
        mapping = open_mapping(uid_mappings, gid_mappings)
        try:
            # only before anybody can see it; what belongs to whom cannot change under a user
            set_attributes(mount, ms.MOUNT_ATTR_IDMAP, recursive=maps_below, user_namespace=mapping)
        finally:
            os.close(mapping)
        if propagation:
            set_attributes(mount, 0, recursive=True, propagation=propagation)
    except BaseException:
        os.close(mount)
        raise
    site.mapped[number] = mount


def _bind_mapped(
    site: Site, source: str, number: int, target: str, flags: int, cleared: int, propagation: tuple[int, ...]
) -> None:
    del source
    _put(site, site.mapped.pop(number), target, flags, cleared, propagation)


def _put(site: Site, mount: int, target: str, flags: int, cleared: int, propagation: tuple[int, ...]) -> None:
    """Put a *mount* that stands nowhere yet at *target*, and give it what only a further call can give it.

    That is done by its descriptor. The path is not looked up again: where *target* is in a volume that others write to,
    it may lead to another mount by now, which would be made writable instead of this one, or this one not read-only.
    """
    try:
        place = _place_for(site, os.fstat(mount).st_mode, target)
        try:
            move_mount(mount, place)
        finally:
            os.close(place)
        if flags or cleared:
            remount(mount, flags, cleared)
        propagate(mount, propagation)
    except BaseException:
        os.close(mount)
        raise
    site.note_mount(target, mount)


def _place_for(site: Site, mode: int, target: str) -> int:
    """Where a bind mount of something with the type and *mode* goes: a directory or a file, made if it is missing."""
    if stat.S_ISDIR(mode):
        place = paths.make_directory_in_root(site.root_fd, target, 0o755)
    else:
        place = paths.make_file_in_root(site.root_fd, target)
    try:
        refuse_procfs(place, site.root_fd, target)
    except BaseException:
        os.close(place)
        raise
    return place


def propagate_at(site: Site, target: str, propagation: tuple[int, ...]) -> None:
    """Give the new mount at *target* its propagation; no call is made where none is asked for.

    The descriptor before was of what the mount now hides, so the path is looked up again. If others change it
    meanwhile, another mount of the container gets it: none of the host's is connected with those.
    """
    if not propagation:
        return
    mounted = paths.open_in_root(site.root_fd, target, os.O_PATH)
    try:
        propagate(mounted, propagation)
    finally:
        os.close(mounted)


def _mount_filesystem(
    site: Site, fstype: str, source: str, target: str, flags: int, data: str, propagation: tuple[int, ...]
) -> None:
    if fstype == "tmpfs" and "mode=" not in data:
        data = _with_mode(site, target, data)
    place = paths.make_directory_in_root(site.root_fd, target, 0o755)
    try:
        if fstype != "proc":
            refuse_procfs(place, site.root_fd, target)
        if fstype in _NO_LINKS:
            # a link, in an image or on a shared volume, would let others move what the masks are to cover
            flags_of_place = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            strict = paths.openat2(site.root_fd, target.lstrip("/"), flags_of_place, 0, _STRICT)
            os.close(place)
            place = strict  # what has been looked at is what is mounted on
        mounts.mount(source, by_descriptor(place), fstype, flags, data)
    finally:
        os.close(place)
    propagate_at(site, target, propagation)


def _with_mode(site: Site, target: str, data: str) -> str:
    """*data* with the mode of the directory that is there: a tmpfs on it looks like it, unless something else is asked.

    Where there is none it is made for the mount, and the kernel's default, that of a /tmp, stands.
    """
    try:
        there = paths.open_in_root(site.root_fd, target, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return data
    try:
        return f"{data},mode={stat.S_IMODE(os.fstat(there).st_mode):o}".lstrip(",")
    finally:
        os.close(there)


def refuse_procfs(descriptor: int, root_fd: int, target: str) -> None:
    """Refuse to mount over /proc where a link has led there: the plan has seen to paths that say so themselves."""
    root, found = (os.readlink(by_descriptor(each)) for each in (root_fd, descriptor))
    if f"{found}/".startswith(f"{root}/proc/") and not f"{target}/".startswith("/proc/"):
        raise OSError(
            errno.EPERM, "a symbolic link in the image leads to /proc, where nothing else may be mounted", target
        )


def remount(descriptor: int, flags: int, cleared: int) -> None:
    """Change the flags of the mount at *descriptor*; those that it has stay, as some may not be taken off."""
    wanted = ms.remount_flags(ms.flags_of_statvfs(os.fstatvfs(descriptor).f_flag), flags, cleared)
    mounts.mount("", by_descriptor(descriptor), "", ms.MS_REMOUNT | ms.MS_BIND | wanted)


def propagate(descriptor: int, propagation: tuple[int, ...]) -> None:
    """Give the mount at *descriptor* each propagation of these, in turn."""
    for kind in propagation:
        mounts.mount("", by_descriptor(descriptor), "", kind)


def _mount_copy(site: Site, source: str, target: str, flags: int, data: str, propagation: tuple[int, ...]) -> None:
    hidden = paths.make_directory_in_root(site.root_fd, target, 0o755)
    try:
        owner = os.fstat(hidden)
        data = f"uid={owner.st_uid},gid={owner.st_gid},{data}"  # of what is said twice, the later counts
        _mount_filesystem(site, "tmpfs", source, target, flags & ~ms.MS_RDONLY, data.rstrip(","), ())
        mounted = paths.open_in_root(site.root_fd, target, os.O_PATH)
        try:
            copy_tree(hidden, mounted)
            if flags & ms.MS_RDONLY:
                remount(mounted, ms.MS_RDONLY, 0)
            propagate(mounted, propagation)
        finally:
            os.close(mounted)
    finally:
        os.close(hidden)


def _set_attributes(site: Site, target: str, chosen: int, cleared: int) -> None:
    at, noted = site.mounted
    mounted = os.dup(noted) if at == target else paths.open_in_root(site.root_fd, target, os.O_PATH)
    try:
        set_attributes(mounted, chosen, cleared, recursive=True)
    finally:
        os.close(mounted)


def _mask(site: Site, path: str) -> None:
    try:
        target = paths.open_in_root(site.root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if stat.S_ISDIR(os.fstat(target).st_mode):
            mounts.mount("tmpfs", by_descriptor(target), "tmpfs", ms.MS_RDONLY, "size=0k")
        else:
            mounts.mount("/dev/null", by_descriptor(target), "", ms.MS_BIND)
    finally:
        os.close(target)


def _make_readonly(site: Site, path: str) -> None:
    try:
        target = paths.open_in_root(site.root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        try:
            mounted = copy_mount(by_descriptor(target), recursive=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # an unbindable mount, which may be changed itself if it is the whole of it
            remount(target, ms.MS_RDONLY, 0)
            return
        try:
            move_mount(mounted, target)
            remount(mounted, ms.MS_RDONLY, 0)
        finally:
            os.close(mounted)
    finally:
        os.close(target)


def _make_root_readonly(site: Site) -> None:
    remount(site.root_fd, ms.MS_RDONLY, 0)


def _pivot(site: Site, connected: bool) -> None:
    hosts = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if connected else -1
    os.fchdir(site.root_fd)
    # with "." twice the old root is stacked on the new one, and no directory in the image is needed to put it in
    mounts.pivot_root(".", ".")
    if connected:
        # or the next call would unmount the host's own; only to umount(2) is "." what is stacked on the new root
        os.fchdir(hosts)
        os.close(hosts)
        mounts.mount("", ".", "", ms.MS_SLAVE | ms.MS_REC)
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")
    os.close(site.root_fd)
    site.root_fd = -1


def by_descriptor(descriptor: int) -> str:
    """A path for what *descriptor* is of."""
    return f"/proc/self/fd/{descriptor}"


def _set_root_propagation(site: Site, flags: int) -> None:
    del site
    mounts.mount("", "/", "", flags)


WORK: Final[dict[type[Operation], Callable[..., None]]] = {
    PrepareRoot: _prepare_root,
    BindRoot: _bind_root,
    ChangeRoot: _change_root,
    BindMount: bind,
    OpenMappedMount: _open_mapped,
    MappedBindMount: _bind_mapped,
    FilesystemMount: _mount_filesystem,
    CopiedTmpfs: _mount_copy,
    SetMountAttributes: _set_attributes,
    MaskPath: _mask,
    ReadonlyPath: _make_readonly,
    ReadonlyRoot: _make_root_readonly,
    PivotRoot: _pivot,
    SetRootPropagation: _set_root_propagation,
}
"""What carries each operation of this topic out, given the site and the operation's values."""
