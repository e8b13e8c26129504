"""Namespaces of the kernel: made, entered, and what belongs to a fresh one.

Source: namespaces(7), unshare(2), setns(2), ioctl_ns(2), netdevice(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Final

from ..errors import InvalidArgumentError
from .libc import encode, last_error, libc
from .pidfd import ProcessIdentity, pidfd_open, pidfd_send_signal
from .procfs import open_to_write

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWTIME",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "NAMESPACE_FLAGS",
    "bring_loopback_up",
    "enter_new_time_namespace",
    "open_namespace",
    "open_namespaces_of",
    "set_domainname",
    "set_hostname",
    "setns",
    "unshare",
]

# include/uapi/linux/sched.h
CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

NAMESPACE_FLAGS: Final[Mapping[str, int]] = {
    "cgroup": CLONE_NEWCGROUP,
    "ipc": CLONE_NEWIPC,
    "mount": CLONE_NEWNS,
    "network": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "time": CLONE_NEWTIME,
    "user": CLONE_NEWUSER,
    "uts": CLONE_NEWUTS,
}
"""Flags by the OCI specification's words for the kinds."""

_FILES: Final = {"mount": "mnt", "network": "net"}  # in /proc/PID/ns, where it is not the specification's word
_NS_GET_NSTYPE: Final = 0xB703  # include/uapi/linux/nsfs.h
_SIOCSIFFLAGS: Final = 0x8914  # include/uapi/linux/sockios.h
_IFF_UP: Final = 1
_IFREQ: Final = struct.Struct("16sh22x")


def unshare(flags: int) -> None:
    """Make new namespaces, of the kinds in *flags*, and move into them (for pid and time: the next child).

    Raises: OSError. Source: unshare(2).
    """
    if libc.unshare(flags) < 0:
        raise last_error("unshare", _words(flags))


def setns(fd: int, nstype: int) -> None:
    """Move the calling thread into the namespace that *fd* refers to; *nstype* is its CLONE_ flag, checked.

    Raises: OSError. Source: setns(2).
    """
    if libc.setns(fd, nstype) < 0:
        raise last_error("setns", _words(nstype))


def enter_new_time_namespace(offsets: str) -> None:
    """Make a time namespace, set what its clocks are ahead of this one's by, and move into it.

    *offsets* is what /proc/self/timens_offsets takes: lines of clock, seconds and nanoseconds. unshare(2) makes it for
    children only; this process, of one thread, moves in by setns(2) rather than wait for execve(2), which a guest that
    runs in this process never makes, and which takes along on newer kernels only.

    Raises: OSError (EINVAL: a kernel without time namespaces; ERANGE: a clock would leave its range). Source:
    time_namespaces(7).
    """
    unshare(CLONE_NEWTIME)
    if offsets:
        descriptor = open_to_write("/proc/self/timens_offsets")
        try:
            os.write(descriptor, offsets.encode())
        finally:
            os.close(descriptor)
    own = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(own, CLONE_NEWTIME)
    finally:
        os.close(own)


def open_namespace(path: str, kind: str) -> int:
    """Open the namespace at *path*, which must be one of *kind* (the OCI word); a descriptor for `setns`.

    Raises: InvalidArgumentError that names the path and what is wrong with it.
    """
    wanted = NAMESPACE_FLAGS[kind]
    try:
        # whatever is there instead must neither block this process nor become its terminal
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidArgumentError(
            f"the {kind} namespace at {path!r} cannot be opened: {error.strerror}; "
            "does the process or mount that kept it still exist?"
        ) from error
    try:
        found = _type_of_namespace(descriptor)
        if found != wanted:
            what = f"a namespace of kind {_words(found)}" if found else "not a namespace"
            raise InvalidArgumentError(f"{path!r} is {what}; linux.namespaces wants one of kind {kind} there")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_namespaces_of(process: ProcessIdentity) -> dict[str, int]:
    """Open those namespaces of *process* that this process is not in: descriptors by the OCI words, the caller's.

    All of them are of that process and of no other that has got its pid. Raises: ProcessLookupError when it has ended;
    OSError.
    """
    opened: dict[str, int] = {}
    descriptor = pidfd_open(process.pid)
    try:
        if not process.is_alive():
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        for kind in NAMESPACE_FLAGS:
            _open_unless_own(process.pid, kind, opened)
        pidfd_send_signal(descriptor, 0)  # not collected yet: so the pid has been its own all the time
    except BaseException as error:
        for each in opened.values():
            os.close(each)
        if isinstance(error, FileNotFoundError):  # the links of a process that has ended lead nowhere
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        raise
    finally:
        os.close(descriptor)
    return opened


def _open_unless_own(pid: int, kind: str, opened: dict[str, int]) -> None:
    name = _FILES.get(kind, kind)
    try:
        own = os.stat(f"/proc/self/ns/{name}")
    except FileNotFoundError:
        return  # a kernel without namespaces of this kind
    descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    if os.path.samestat(os.fstat(descriptor), own):
        os.close(descriptor)
    else:
        opened[kind] = descriptor


def _type_of_namespace(descriptor: int) -> int:
    """The CLONE_ flag of the namespace, 0 for anything else."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return 0  # a device might have an ioctl of the same number
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        return 0


def _words(flags: int) -> str:
    return ", ".join(kind for kind, flag in NAMESPACE_FLAGS.items() if flags & flag) or hex(flags)


def set_hostname(name: str) -> None:
    """Set the UTS namespace's host name, at most 64 bytes. Raises: OSError. Source: sethostname(2)."""
    encoded = encode(name)
    if libc.sethostname(encoded, len(encoded)) < 0:
        raise last_error("sethostname", name)


def set_domainname(name: str) -> None:
    """Set the UTS namespace's NIS domain name, at most 64 bytes. Raises: OSError. Source: setdomainname(2)."""
    encoded = encode(name)
    if libc.setdomainname(encoded, len(encoded)) < 0:
        raise last_error("setdomainname", name)


def bring_loopback_up() -> None:
    """Switch on `lo` of the network namespace; its addresses come with that. Raises: OSError. Source: netdevice(7)."""
    # any socket does for the ioctl; this kind needs no protocol in the kernel
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
