"""Mounting, unmounting, and the table of what is mounted.

Source: mount(2), umount2(2), pivot_root(2), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidArgumentError, UnimplementedError
from ..instance import Mount
from ..oci import mount_options as ms
from . import paths
from .libc import last_error, libc, syscall

__all__ = [
    "MNT_DETACH",
    "UMOUNT_NOFOLLOW",
    "MountInfo",
    "mount",
    "mount_rootfs",
    "parse_mountinfo",
    "pivot_root",
    "read_mountinfo",
    "umount",
    "unmount_tree",
]

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_HEADROOM: Final = 512  # containerd's own margin below the page that mount(2) reads
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of /proc/self/mountinfo."""

    mount_id: int
    parent_id: int
    root: str
    mount_point: str
    options: str
    fstype: str
    source: str
    super_options: str


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises: OSError that names source and target."""
    arguments = (os.fsencode(source) or None, os.fsencode(target), os.fsencode(fstype) or None)
    if libc.mount(*arguments, flags, os.fsencode(data) or None) < 0:
        raise last_error("mount", source or fstype, "on", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises: OSError."""
    if libc.umount2(os.fsencode(target), flags) < 0:
        raise last_error("umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2). Raises: OSError."""
    syscall("pivot_root", os.fsencode(new_root), os.fsencode(put_old))


def parse_mountinfo(text: str) -> list[MountInfo]:
    """The mounts in *text*, in the kernel's order: a parent before its children, the older of two at one point first.

    Raises: ValueError for text that is no mountinfo.
    """
    return [_parse_line(line) for line in text.splitlines()]


def read_mountinfo() -> list[MountInfo]:
    """The mounts of this process's mount namespace that are within its root."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def _parse_line(line: str) -> MountInfo:
    head, separator, tail = line.partition(" - ")
    fields, rest = head.split(" "), tail.split(" ")
    if not separator or len(fields) < 6 or len(rest) < 3:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    root, point, source = (_unescape(text) for text in (fields[3], fields[4], rest[1]))
    return MountInfo(int(fields[0]), int(fields[1]), root, point, fields[5], rest[0], source, rest[2])


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def unmount_tree(path: str) -> None:
    """Unmount everything at *path* and below it, deepest first; nothing there is fine.

    What is busy is detached: it goes when its last user does, and is out of the way at once. Raises: OSError.
    """
    path = os.path.realpath(path)
    below = path.rstrip("/") + "/"
    points = [each.mount_point for each in read_mountinfo()]
    for point in reversed([p for p in points if p == path or p.startswith(below)]):
        try:
            umount(point, UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.EBUSY:
                umount(point, UMOUNT_NOFOLLOW | MNT_DETACH)
            elif error.errno not in (errno.EINVAL, errno.ENOENT):  # gone meanwhile
                raise


def mount_rootfs(mounts: Iterable[Mount], target: str) -> None:
    """Mount what containerd asks for onto *target*, in order; on failure nothing stays mounted.

    A mount's own target is resolved inside of *target*. Raises: InvalidArgumentError, UnimplementedError for an option
    that cannot be carried out; OSError.
    """
    try:
        for each in mounts:
            _mount_one(each, target)
    except BaseException:
        unmount_tree(target)
        raise


def _mount_one(wanted: Mount, rootfs: str) -> None:
    options = ms.parse_options(wanted.options)
    if options.unsupported:
        raise UnimplementedError(
            f"the mount of {wanted.source!r} ({wanted.type}) that containerd asks for has the option "
            f"{options.unsupported[0]!r}, which this shim does not support; choose another snapshotter"
        )
    point = _mount_point(wanted.target, rootfs)
    if wanted.type.startswith(("fuse.", "fuse3.")):
        _mount_by_helper(wanted, point)
    elif wanted.type == "bind" or options.flags & ms.MS_BIND:
        _bind(wanted.source, point, options)
    elif len(options.data) >= _PAGE - _HEADROOM:
        _mount_overlay_from_below(wanted.source, point, wanted.type, options.flags, options.data)
    else:
        mount(wanted.source, point, wanted.type, options.flags, options.data)


def _mount_point(target: str, rootfs: str) -> str:
    if target in ("", "/"):
        return rootfs
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = paths.make_directory_in_root(root, target)
        try:
            return os.readlink(f"/proc/self/fd/{found}")
        finally:
            os.close(found)
    finally:
        os.close(root)


def _bind(source: str, point: str, options: ms.MountOptions) -> None:
    mount(source, point, "", ms.MS_BIND | options.flags & ms.MS_REC)
    flags = options.flags & ~(ms.MS_BIND | ms.MS_REC)
    if not flags:
        return
    try:
        # a bind mount takes its flags in a second call, which would take off those that it has already
        kept = ms.flags_of_statvfs(os.statvfs(point).f_flag) & ~options.cleared
        mount("", point, "", ms.MS_REMOUNT | ms.MS_BIND | kept | flags)
    except BaseException:
        umount(point, MNT_DETACH)
        raise


def _mount_overlay_from_below(source: str, point: str, fstype: str, flags: int, data: str) -> None:
    """Mount with more lower directories than a page has room for: their common parent becomes the working directory."""
    words = data.split(",")
    lower = next((word for word in words if word.startswith("lowerdir=")), "")
    directories = lower.removeprefix("lowerdir=").split(":")
    if fstype != "overlay" or len(directories) < 2:
        raise InvalidArgumentError(f"the options of the mount of {source!r} are longer than a page ({len(data)} bytes)")
    parent = os.path.commonpath(directories)
    shortened = ":".join(os.path.relpath(directory, parent) for directory in directories)
    data = ",".join(f"lowerdir={shortened}" if word is lower else word for word in words)
    if len(data) >= _PAGE:
        raise InvalidArgumentError(
            f"the overlay of {len(directories)} layers has options of {len(data)} bytes, which is more than the "
            f"kernel takes ({_PAGE}); build the image with fewer layers"
        )
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(parent)
        mount(source, point, fstype, flags, data)
    finally:
        os.fchdir(here)
        os.close(here)


def _mount_by_helper(wanted: Mount, point: str) -> None:
    """FUSE file systems are mounted by their own program, `mount.fuse`, as mount(8) would call it."""
    family, _, kind = wanted.type.partition(".")
    program = f"mount.{family}"
    argv = [program, wanted.source, point, "-o", ",".join(wanted.options), "-t", kind]
    _run(argv)


def _run(argv: Sequence[str]) -> None:
    try:
        pid = os.posix_spawnp(argv[0], list(argv), os.environ)
    except FileNotFoundError:
        raise InvalidArgumentError(f"{argv[0]} is not installed, but containerd asks for a mount by it") from None
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise OSError(errno.EIO, f"{argv[0]} ended with status {status}", argv[2])
