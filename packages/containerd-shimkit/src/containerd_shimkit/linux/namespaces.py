"""Namespaces: making, entering, naming. Source: namespaces(7), unshare(2), setns(2), ioctl_ns(2), netdevice(7)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

from .libc import last_error, libc

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUTS",
    "NAMESPACE_FLAGS",
    "bring_loopback_up",
    "open_namespace",
    "set_domainname",
    "set_hostname",
    "setns",
    "unshare",
]

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

NAMESPACE_FLAGS: Final[Mapping[str, int]] = {
    "mount": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
}
"""CLONE_NEW flags by the runtime specification's names."""

_NS_GET_NSTYPE: Final = 0xB703
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_IFREQ: Final = struct.Struct("16sh22x")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (for pid: its next children). Raises: OSError."""
    if libc.unshare(flags) < 0:
        raise last_error("unshare", hex(flags))


def setns(fd: int, nstype: int) -> None:
    """Move the calling thread into the namespace that *fd* refers to (for pid: its next children). Raises: OSError."""
    if libc.setns(fd, nstype) < 0:
        raise last_error("setns", hex(nstype))


def open_namespace(path: str, kind: str) -> int:
    """Open the namespace at *path*, having made sure that it is one, of that *kind*. Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == NAMESPACE_FLAGS[kind]:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    raise OSError(errno.EINVAL, f"not a {kind} namespace", path)


def set_hostname(name: str) -> None:
    """Name the UTS namespace's host. Raises: OSError."""
    data = os.fsencode(name)
    if libc.sethostname(data, len(data)) < 0:
        raise last_error("sethostname", name)


def set_domainname(name: str) -> None:
    """Name the UTS namespace's NIS domain. Raises: OSError."""
    data = os.fsencode(name)
    if libc.setdomainname(data, len(data)) < 0:
        raise last_error("setdomainname", name)


def bring_loopback_up() -> None:
    """Switch the calling thread's network namespace's `lo` on. Raises: OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        _name, flags = _IFREQ.unpack(request)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))
