"""The processes of a pid namespace, found without a control group. Source: pid_namespaces(7), ioctl_ns(2)."""

from __future__ import annotations

import fcntl
import os
from typing import Final

__all__ = ["pids_in_namespace_of"]

_NS_GET_PARENT: Final = 0xB702  # include/uapi/linux/nsfs.h


def pids_in_namespace_of(init: int) -> list[int]:
    """The processes in the pid namespace of the process *init*, and in those below it; ordered, *init* among them.

    Those that have ended do not count; when *init* has, there is none. When it is in this process's own namespace, or
    hides which one it is in (as long as it is no program yet), it alone: then it has no company of its own.
    """
    if not os.path.exists(f"/proc/{init}"):
        return []
    try:
        wanted = os.stat(f"/proc/{init}/ns/pid")
    except OSError:
        return [init]
    if os.path.samestat(wanted, os.stat("/proc/self/ns/pid")):
        return [init]
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if _is_in(pid, wanted) and not _has_ended(pid)]


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _is_in(pid: int, wanted: os.stat_result) -> bool:
    try:
        descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # it has ended, or is somebody else's
    while True:
        try:
            if os.path.samestat(os.fstat(descriptor), wanted):
                return True
            above = fcntl.ioctl(descriptor, _NS_GET_PARENT)
        except OSError:
            return False  # what is above is out of reach: it is none of that namespace's
        finally:
            os.close(descriptor)
        descriptor = above
