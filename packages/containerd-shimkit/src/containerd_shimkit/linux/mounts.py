"""Mounting, unmounting, and the table of what is mounted.

Source: mount(2), umount2(2), pivot_root(2), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..errors import InvalidArgumentError, PermissionDeniedError, ResourceExhaustedError, ShimError, UnimplementedError
from ..instance import Mount
from ..oci import mount_options as ms
from ..oci.mount_options import MountOptions, parse_options
from . import paths
from .libc import encode, last_error, libc, syscall
from .mapped_rootfs import Mapping, bind_mapped, mapped_lowerdirs, split_mapping
from .mount_helper import is_helper_type, mount_by_helper

__all__ = [
    "MNT_DETACH",
    "MNT_EXPIRE",
    "MNT_FORCE",
    "UMOUNT_NOFOLLOW",
    "MountInfo",
    "MountOptions",
    "mount",
    "mount_rootfs",
    "mounted_below",
    "parse_mountinfo",
    "parse_options",
    "pivot_root",
    "read_mountinfo",
    "shorten_lowerdirs",
    "try_unmount",
    "umount",
    "unmount_tree",
]

# include/linux/fs.h; those of mount(2) are in oci.mount_options
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MNT_EXPIRE: Final = 4
UMOUNT_NOFOLLOW: Final = 8

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")  # what mount(2) reads of the data, silently
_COMFORTABLE: Final = _PAGE - 512  # from here on lower directories are shortened, as containerd does it
_BUSY_SECONDS: Final = 2.0
_BUSY_STEP: Final = 0.01
_OCTAL: Final = re.compile(r"\\([0-3][0-7]{2})")
_GONE: Final = (errno.EINVAL, errno.ENOENT)  # not a mount, or not there at all: somebody else was first
_KINDS: Final[dict[int | None, type[ShimError]]] = {
    **dict.fromkeys((errno.EPERM, errno.EACCES, errno.EROFS), PermissionDeniedError),
    **dict.fromkeys((errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE), ResourceExhaustedError),
}


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of /proc/self/mountinfo; `optional` holds fields such as `shared:7`."""

    mount_id: int
    parent_id: int
    device: str  # major:minor
    root: str
    mount_point: str
    options: str
    optional: tuple[str, ...]
    fstype: str
    source: str
    super_options: str


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Mount, or change a mount, as *flags* say. Raises: OSError that names source and target. Source: mount(2)."""
    encoded = encode(data)
    if len(encoded) >= _PAGE:
        # what is beyond is cut off unseen: a last layer would be missing, or read-only forgotten
        raise OSError(errno.E2BIG, f"mount: options of {len(encoded)} bytes; the kernel reads {_PAGE - 1}", target)
    if libc.mount(encode(source) or None, encode(target), encode(fstype) or None, flags, encoded or None) < 0:
        raise last_error("mount", source or fstype, target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount what is mounted last at *target*. Raises: OSError. Source: umount2(2)."""
    if libc.umount2(encode(target), flags) < 0:
        raise last_error("umount", target)


def pivot_root(new: str, old: str) -> None:
    """Make the mount *new* the root, and put the one before at *old*. Raises: OSError. Source: pivot_root(2)."""
    try:
        syscall("pivot_root", encode(new), encode(old))
    except OSError as error:
        raise OSError(error.errno, error.strerror, new, None, old) from None


def parse_mountinfo(text: str, fstype: str = "") -> list[MountInfo]:
    """The mounts in *text*, in its order; with *fstype*, those of that type. Raises: ValueError for no mountinfo."""
    # a separator cannot stand elsewhere: in paths and options spaces are escaped
    return [_parse_line(line) for line in text.split("\n") if line and (not fstype or f" - {fstype} " in line)]


def read_mountinfo(fstype: str = "", own: int | None = None) -> list[MountInfo]:
    """The mounts of this process's mount namespace that are within its root; with *fstype*, those of that type.

    *own* is a descriptor of this process's directory in a procfs, for one that has none in its root.
    """
    path = "/proc/self/mountinfo" if own is None else "mountinfo"
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=own), "rb") as file:
        return parse_mountinfo(os.fsdecode(file.read()), fstype)


def _parse_line(line: str) -> MountInfo:
    fields = line.split(" ")
    if "-" not in fields[6:-3]:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    separator = fields.index("-", 6)
    rest = fields[separator + 1 :]
    return MountInfo(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=fields[2],
        root=_unescape(fields[3]),
        mount_point=_unescape(fields[4]),
        options=fields[5],
        optional=tuple(fields[6:separator]),
        fstype=_unescape(rest[0]),
        source=_unescape(rest[1]),
        super_options=_unescape(rest[2]),
    )


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: os.fsdecode(bytes((int(match[1], 8),))), text) if "\\" in text else text


def unmount_tree(path: str, *, detach: bool = False) -> None:
    """Unmount all that is mounted at *path* and below it, deepest first; nothing there, or no such path, is fine.

    What stays busy for two seconds is an error, for containerd must not take it for gone; with *detach* it is taken
    out of sight instead, and goes when its last user does. Raises: OSError.
    """
    # the last component is not looked at: a dead file system may be mounted on it, and links there do not count
    directory, name = os.path.split(os.path.abspath(path))
    path = os.path.join(os.path.realpath(directory), name)
    give_up = time.monotonic() + _BUSY_SECONDS
    while points := mounted_below(path):
        error = _unmount_once(points, UMOUNT_NOFOLLOW)
        if error is None:
            continue
        if error.errno not in (errno.EBUSY, *_GONE):
            raise error
        if time.monotonic() < give_up:
            time.sleep(_BUSY_STEP)
        elif not detach or (error := _unmount_once(points, UMOUNT_NOFOLLOW | MNT_DETACH)) is not None:
            raise error


def try_unmount(path: str) -> bool:
    """Unmount what is mounted at *path*, as often as something is; False when something is in use, or mounted below.

    Never waits, and reads no table, which is long on a busy host. Raises: OSError.
    """
    try:
        while True:
            umount(path, UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno not in _GONE:
            raise
    return True


def mounted_below(path: str) -> list[str]:
    """Mount points, the deepest first and, of those at one place, each as often as there are mounts."""
    below = path.rstrip("/") + "/"
    found = (each.mount_point for each in read_mountinfo())
    points = [point for point in found if point == path or point.startswith(below)]
    return sorted(points, key=lambda point: -point.count("/"))


def _unmount_once(points: Sequence[str], flags: int) -> OSError | None:
    """Try each; the first error when nothing at all could be unmounted (one mount may hide another), else None."""
    first: OSError | None = None
    progress = False
    for point in points:
        try:
            umount(point, flags)
            progress = True
        except OSError as error:
            if first is None or first.errno in _GONE:
                first = error
    return None if progress else first


def mount_rootfs(mounts: Iterable[Mount], target: str) -> None:
    """Mount what containerd asks for onto the directory *target*, in order.

    A mount's own `target` is resolved inside the root that there is by then. On failure, what was mounted here is
    unmounted again, and nothing else. Raises: ShimError that names type, source and the kernel's reason.
    """
    done: list[str] = []
    try:
        for each in mounts:
            _mount_one(each, target, done)
    except BaseException:
        for point in reversed(done):
            umount(point, UMOUNT_NOFOLLOW | MNT_DETACH)  # just mounted: whoever uses it cannot mean it
        raise


def _mount_one(wanted: Mount, rootfs: str, done: list[str]) -> None:
    mapping, words = split_mapping(wanted.options)
    options = parse_options(words)
    is_bind = wanted.type == "bind" or bool(options.flags & ms.MS_BIND)
    unknown = [*options.extensions]
    if mapping and not is_bind and wanted.type != "overlay":
        unknown += [word for word in wanted.options if word not in words]
    if unknown:
        raise UnimplementedError(
            f"the mount of {wanted.source!r} ({wanted.type}) that containerd asks for has the option "
            f"{unknown[0]!r}, which this shim does not support; choose another snapshotter"
        )
    try:
        point = _mount_point(wanted.target, rootfs)
        if is_helper_type(wanted.type):
            mount_by_helper(wanted.source, point, wanted.type, wanted.options)
            done.append(point)
        elif is_bind:
            _bind(wanted.source, point, options, mapping, done)
        elif mapping:
            with mapped_lowerdirs(words, mapping, f"{os.path.abspath(rootfs)}.lower") as mapped:
                _mount_filesystem(replace(wanted, options=mapped), point, done)
        else:
            _mount_filesystem(wanted, point, done)
        for kind in options.propagation:
            mount("", point, "", kind)
    except OSError as error:
        kind_of_error = _KINDS.get(error.errno, InvalidArgumentError)
        place = f" at {wanted.target!r}" if wanted.target else ""
        raise kind_of_error(
            f"cannot mount {wanted.source!r} ({wanted.type}){place} for the root file system {rootfs}: {error}"
        ) from error


def _mount_point(target: str, rootfs: str) -> str:
    if target in ("", "/"):
        return os.path.abspath(rootfs)
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = paths.make_directory_in_root(root, target)
    finally:
        os.close(root)
    try:
        return os.readlink(f"/proc/self/fd/{found}")
    finally:
        os.close(found)


def _bind(source: str, point: str, options: MountOptions, mapping: Mapping | None, done: list[str]) -> None:
    if mapping:
        bind_mapped(source, point, mapping, recursive=bool(options.flags & ms.MS_REC))
    else:
        mount(source, point, "", ms.MS_BIND | options.flags & ms.MS_REC)
    done.append(point)
    flags = options.flags & ~(ms.MS_BIND | ms.MS_REC)
    if flags or options.cleared:
        # a bind mount takes its flags in a second call, which would take off those that it has already
        there = ms.flags_of_statvfs(os.statvfs(point).f_flag)
        if flags | there & ~options.cleared != there:
            wanted = ms.remount_flags(there, flags, options.cleared)
            mount("", point, "", ms.MS_REMOUNT | ms.MS_BIND | wanted)


def _mount_filesystem(wanted: Mount, point: str, done: list[str]) -> None:
    directory, words = "", wanted.options
    if wanted.type == "overlay" and sum(len(os.fsencode(word)) + 1 for word in words) > _COMFORTABLE:
        directory, words = shorten_lowerdirs(words)
    options = parse_options(words)
    _call_in(directory, lambda: mount(wanted.source, point, wanted.type, options.flags, options.data))
    done.append(point)


def shorten_lowerdirs(options: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """An overlay's options with the lower directories relative to their common parent, and that parent.

    The options as they are, and no parent, where there is nothing to shorten.
    """
    index = next((i for i, word in enumerate(options) if word.startswith("lowerdir=")), None)
    if index is None:
        return "", tuple(options)
    directories = options[index].removeprefix("lowerdir=").split(":")
    if "\\" in options[index] or not all(directory.startswith("/") for directory in directories):
        return "", tuple(options)  # a name with escapes, relative already, or data-only layers (`::`)
    parent = os.path.commonpath([os.path.dirname(directory) for directory in directories])
    short = ":".join(os.path.relpath(directory, parent) for directory in directories)
    return parent, (*options[:index], f"lowerdir={short}", *options[index + 1 :])


def _call_in(directory: str, work: Callable[[], None]) -> None:
    """Call *work* with *directory* as the working directory, which is put back afterwards; empty: where we are."""
    if not directory:
        work()
        return
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        work()
    finally:
        os.fchdir(here)
        os.close(here)
