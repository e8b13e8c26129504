"""The words of a mount's options, as the flags and the data that mount(2) takes. Pure: one table.

Words that mount(2) itself knows nothing of are kept apart, as `extensions`: those of mount_setattr(2), of which there
is a table here too, and those that ask for work of the runtime's own.

Source: mount(2), mount_setattr(2), mount(8); include/uapi/linux/mount.h for the numbers; the OCI runtime
specification 1.2, config.md, Linux mount options, and containerd, mount/mount_linux.go, for the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "KNOWN_OPTIONS",
    "MOUNT_ATTR_IDMAP",
    "MOUNT_ATTR_NOATIME",
    "MOUNT_ATTR_NODEV",
    "MOUNT_ATTR_NODIRATIME",
    "MOUNT_ATTR_NOEXEC",
    "MOUNT_ATTR_NOSUID",
    "MOUNT_ATTR_NOSYMFOLLOW",
    "MOUNT_ATTR_RDONLY",
    "MOUNT_ATTR_STRICTATIME",
    "MOUNT_ATTR__ATIME",
    "MS_BIND",
    "MS_DIRSYNC",
    "MS_I_VERSION",
    "MS_LAZYTIME",
    "MS_MANDLOCK",
    "MS_NOATIME",
    "MS_NODEV",
    "MS_NODIRATIME",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_NOSYMFOLLOW",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_RELATIME",
    "MS_REMOUNT",
    "MS_SHARED",
    "MS_SILENT",
    "MS_SLAVE",
    "MS_STRICTATIME",
    "MS_SYNCHRONOUS",
    "MS_UNBINDABLE",
    "MountOptions",
    "flags_of_statvfs",
    "parse_options",
    "recursive_attributes",
    "remount_flags",
]

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_MANDLOCK: Final = 64
MS_DIRSYNC: Final = 128
MS_NOSYMFOLLOW: Final = 256
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_SILENT: Final = 1 << 15
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_I_VERSION: Final = 1 << 23
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25

MOUNT_ATTR_RDONLY: Final = 0x01
MOUNT_ATTR_NOSUID: Final = 0x02
MOUNT_ATTR_NODEV: Final = 0x04
MOUNT_ATTR_NOEXEC: Final = 0x08
MOUNT_ATTR__ATIME: Final = 0x70  # a field, not a flag: one of the two below, or 0 for relatime
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_IDMAP: Final = 0x100000
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000

_SETS: Final[Mapping[str, int]] = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": MS_SYNCHRONOUS,
    "dirsync": MS_DIRSYNC,
    "remount": MS_REMOUNT,
    "mand": MS_MANDLOCK,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "nosymfollow": MS_NOSYMFOLLOW,
    "iversion": MS_I_VERSION,
    "lazytime": MS_LAZYTIME,
    "silent": MS_SILENT,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "defaults": 0,
}
_CLEARS: Final[Mapping[str, int]] = {
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "dev": MS_NODEV,
    "exec": MS_NOEXEC,
    "async": MS_SYNCHRONOUS,
    "nomand": MS_MANDLOCK,
    "atime": MS_NOATIME,
    "diratime": MS_NODIRATIME,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "symfollow": MS_NOSYMFOLLOW,
    "noiversion": MS_I_VERSION,
    "nolazytime": MS_LAZYTIME,
    "loud": MS_SILENT,
}
_PROPAGATIONS: Final[Mapping[str, int]] = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}
# what is cleared, then what is set, on a mount and all below it; a word about times chooses anew
_RECURSIVE: Final[Mapping[str, tuple[int, int]]] = {
    "rro": (0, MOUNT_ATTR_RDONLY),
    "rrw": (MOUNT_ATTR_RDONLY, 0),
    "rnosuid": (0, MOUNT_ATTR_NOSUID),
    "rsuid": (MOUNT_ATTR_NOSUID, 0),
    "rnodev": (0, MOUNT_ATTR_NODEV),
    "rdev": (MOUNT_ATTR_NODEV, 0),
    "rnoexec": (0, MOUNT_ATTR_NOEXEC),
    "rexec": (MOUNT_ATTR_NOEXEC, 0),
    "rnodiratime": (0, MOUNT_ATTR_NODIRATIME),
    "rdiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "rnosymfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "rsymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rnoatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME),
    "rstrictatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_STRICTATIME),
    "rrelatime": (MOUNT_ATTR__ATIME, 0),
    # what undoes one of them goes back to the kernel's own choice, which is relatime
    **dict.fromkeys(("ratime", "rnostrictatime"), (MOUNT_ATTR__ATIME, 0)),
    "rnorelatime": (0, 0),
}
_OWN_WORK: Final = ("idmap", "ridmap", "tmpcopyup")
# words of other programs that change what a mount is: harmless nonsense, or an error of the kernel's, as data
_FOREIGN: Final = ("loop", "copy-symlink", "src-nofollow", "dest-nofollow")
_EXTENSIONS: Final = frozenset((*_RECURSIVE, *_OWN_WORK, *_FOREIGN))
_ATIME: Final = MS_NOATIME | MS_RELATIME | MS_STRICTATIME
_STATVFS: Final = (MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_MANDLOCK, MS_NOATIME, MS_NODIRATIME)
# flags that statvfs(3) numbers otherwise; include/linux/statfs.h
_ST_RELATIME: Final = 0x1000
_ST_NOSYMFOLLOW: Final = 0x2000

KNOWN_OPTIONS: Final = frozenset((*_SETS, *_CLEARS, *_PROPAGATIONS, *_RECURSIVE, *_OWN_WORK))


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Option words, sorted by what becomes of them.

    `flags` are set, `cleared` are taken off by a word that undoes (`exec`), each from the words in order; each of
    `propagation` is a call of its own; `data` is comma-joined for the file system; `extensions` are words, in order,
    that mount(2) cannot be told.
    """

    flags: int = 0
    cleared: int = 0
    propagation: tuple[int, ...] = ()
    data: str = ""
    extensions: tuple[str, ...] = ()


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort the words of *options*; of two that contradict each other the later counts."""
    flags = cleared = 0
    propagation: list[int] = []
    data: list[str] = []
    extensions: list[str] = []
    for word in options:
        if word in _SETS:
            flags |= _SETS[word]
            cleared &= ~_SETS[word]
        elif word in _CLEARS:
            flags &= ~_CLEARS[word]
            cleared |= _CLEARS[word]
        elif word in _PROPAGATIONS:
            propagation.append(_PROPAGATIONS[word])
        elif word in _EXTENSIONS:
            extensions.append(word)
        elif word:
            data.append(word)
    return MountOptions(flags, cleared, tuple(propagation), ",".join(data), tuple(extensions))


def recursive_attributes(extensions: Iterable[str]) -> tuple[int, int]:
    """The MOUNT_ATTR_ bits to clear and those to set, on a mount and all below it; both 0 where no word says so."""
    cleared = chosen = 0
    for clears, sets in (_RECURSIVE[word] for word in extensions if word in _RECURSIVE):
        cleared = cleared & ~sets | clears
        chosen = chosen & ~clears | sets
    # whichever times are chosen, the field must be cleared with it
    return cleared | (MOUNT_ATTR__ATIME if chosen & MOUNT_ATTR__ATIME else 0), chosen


def remount_flags(there: int, flags: int, cleared: int) -> int:
    """What a mount with the flags *there* is to have, once *flags* are set and *cleared* taken off.

    The kernel keeps nothing that is not repeated.
    """
    if not there & _ATIME:
        there |= MS_STRICTATIME  # which is shown by the lack of the others
    kept = there & ~cleared
    if flags & _ATIME:
        kept &= ~_ATIME
    elif not kept & _ATIME:
        kept |= MS_RELATIME  # the kernel's own choice
    return kept | flags


def flags_of_statvfs(f_flag: int) -> int:
    """The MS_ flags of a mount from statvfs(3)'s `f_flag`: what a remount must repeat so as not to lose it."""
    return (
        sum(flag for flag in _STATVFS if f_flag & flag)
        | (MS_RELATIME if f_flag & _ST_RELATIME else 0)
        | (MS_NOSYMFOLLOW if f_flag & _ST_NOSYMFOLLOW else 0)
    )
