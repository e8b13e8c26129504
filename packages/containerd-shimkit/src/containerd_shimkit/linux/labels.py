"""Security labels of a process, by AppArmor and by SELinux: what this kernel has, and how one is taken on.

A label is for the next program that this process executes, or for the process itself from now on. It is written to
files of the host's procfs, opened while that can be seen: a container has one of its own, or what looks like one.
Source: apparmor(7); security/apparmor/procattr.c; selinux(8); proc_pid_attr(5).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .procfs import open_to_write

__all__ = ["LabelFile", "has_apparmor", "has_selinux", "key_labels", "labels_of_next_program", "labels_of_this_process"]

_APPARMOR: Final = "/sys/module/apparmor/parameters/enabled"
_SELINUX: Final = "/sys/fs/selinux/enforce"
_ATTRIBUTES: Final = "/proc/self/attr"


@dataclass(frozen=True, slots=True)
class LabelFile:
    """An open file of the procfs, and the text that makes the label when it is written there."""

    descriptor: int
    text: str

    def write(self) -> None:
        """Take the label on, and close the file. Raises: OSError.

        ENOENT: no such profile is loaded; EINVAL: no such context; EACCES: the policy does not let this process.
        """
        try:
            os.write(self.descriptor, self.text.encode())  # in one call: half a label would be another one
        finally:
            os.close(self.descriptor)


def has_apparmor(path: str = _APPARMOR) -> bool:
    """Whether this kernel has AppArmor, switched on."""
    try:
        with open(path, "rb") as file:
            return file.read(1) == b"Y"
    except OSError:
        return False


def has_selinux(path: str = _SELINUX) -> bool:
    """Whether this kernel has SELinux, and its file system stands where it usually does."""
    return os.path.exists(path)


def key_labels(selinux: str) -> tuple[LabelFile, ...]:
    """What gives the keys and keyrings that this process makes the context *selinux*. Raises: OSError."""
    return (_open(("keycreate",), selinux),) if selinux else ()


def labels_of_next_program(apparmor: str, selinux: str) -> tuple[LabelFile, ...]:
    """What has the next execve(2) end in the profile *apparmor* and the context *selinux*; empty: as it is.

    Raises: OSError.
    """
    return _both(apparmor, f"exec {apparmor}", selinux, "exec")


def labels_of_this_process(apparmor: str, selinux: str) -> tuple[LabelFile, ...]:
    """What puts this process, which executes nothing more, into the profile and the context; empty: as it is.

    Raises: OSError.
    """
    return _both(apparmor, f"changeprofile {apparmor}", selinux, "current")


def _both(apparmor: str, order: str, selinux: str, name: str) -> tuple[LabelFile, ...]:
    context = (_open((name,), selinux),) if selinux else ()
    # the file without a directory is that of the only one, or the first, of a kernel's security modules
    profile = (_open((f"apparmor/{name}", name), order),) if apparmor else ()
    return (*context, *profile)


def _open(names: Sequence[str], text: str) -> LabelFile:
    for name in names:
        path = f"{_ATTRIBUTES}/{name}"
        try:
            return LabelFile(open_to_write(path), text)
        except FileNotFoundError:
            if name == names[-1]:
                raise
    raise AssertionError("unreachable")
