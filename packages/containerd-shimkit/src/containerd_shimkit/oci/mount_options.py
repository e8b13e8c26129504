"""The words of a mount's options, as the flags and the data that mount(2) takes. Pure: one table.

Source: mount(2), mount(8); include/uapi/linux/mount.h for the numbers; containerd, mount/mount_linux.go for the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = [
    "KNOWN_OPTIONS",
    "MS_BIND",
    "MS_DIRSYNC",
    "MS_MANDLOCK",
    "MS_NOATIME",
    "MS_NODEV",
    "MS_NODIRATIME",
    "MS_NOEXEC",
    "MS_NOSUID",
    "MS_PRIVATE",
    "MS_RDONLY",
    "MS_REC",
    "MS_RELATIME",
    "MS_REMOUNT",
    "MS_SHARED",
    "MS_SLAVE",
    "MS_STRICTATIME",
    "MS_SYNCHRONOUS",
    "MS_UNBINDABLE",
    "MountOptions",
    "flags_of_statvfs",
    "parse_options",
]

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_MANDLOCK: Final = 64
MS_DIRSYNC: Final = 128
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24

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
# words that change what a mount is, and would be harmless nonsense, or an error of the kernel's, as data
_UNSUPPORTED: Final = frozenset(
    (
        *("loop", "idmap", "ridmap", "tmpcopyup", "nosymfollow", "symfollow"),
        *("rro", "rrw", "rsuid", "rnosuid", "rdev", "rnodev", "rexec", "rnoexec", "rsymfollow", "rnosymfollow"),
        *("ratime", "rnoatime", "rdiratime", "rnodiratime", "rrelatime", "rnorelatime", "rstrictatime"),
        "rnostrictatime",
    )
)
_STATVFS: Final = (MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_MANDLOCK, MS_NOATIME, MS_NODIRATIME)
_ST_RELATIME: Final = 4096  # the one flag that statvfs(3) numbers otherwise

KNOWN_OPTIONS: Final = frozenset((*_SETS, *_CLEARS, *_PROPAGATIONS))


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Option words, sorted by what becomes of them.

    `flags` are set, `cleared` are taken off by a word that undoes (`exec`), each from the words in order; each of
    `propagation` is a call of its own; `data` is comma-joined for the file system; `unsupported` is for nobody.
    """

    flags: int = 0
    cleared: int = 0
    propagation: tuple[int, ...] = ()
    data: str = ""
    unsupported: tuple[str, ...] = ()


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort the words of *options*; of two that contradict each other the later counts."""
    flags = cleared = 0
    propagation: list[int] = []
    data: list[str] = []
    unsupported: list[str] = []
    for word in options:
        if word in _SETS:
            flags |= _SETS[word]
            cleared &= ~_SETS[word]
        elif word in _CLEARS:
            flags &= ~_CLEARS[word]
            cleared |= _CLEARS[word]
        elif word in _PROPAGATIONS:
            propagation.append(_PROPAGATIONS[word])
        elif word in _UNSUPPORTED:
            unsupported.append(word)
        elif word:
            data.append(word)
    return MountOptions(flags, cleared, tuple(propagation), ",".join(data), tuple(unsupported))


def flags_of_statvfs(f_flag: int) -> int:
    """The MS_ flags of a mount from statvfs(3)'s `f_flag`: what a remount must repeat so as not to lose it."""
    return sum(flag for flag in _STATVFS if f_flag & flag) | (MS_RELATIME if f_flag & _ST_RELATIME else 0)
