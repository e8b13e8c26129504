"""Where a caller's zygote listens: a name for the program and for the context that it would be run in.

A shim inherits from the process that forks it what it would have inherited from containerd: namespaces, root, user,
capabilities, limits, CPUs, priority, security label, control group, out-of-memory score. So each such context has a
zygote of its own, started in it; callers find theirs by a name that both compute. The launcher computes it in C.
Source: proc(5), capabilities(7), namespaces(7); the hash is FNV-1a of 64 bits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["DIRECTORY", "context_of_this_process", "entry_command", "fnv1a", "socket_path"]

DIRECTORY: Final = "/run/containerd-shimkit"  # 0700, its owner's alone

_NAMESPACES: Final = (
    *("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children"),
    *("time", "time_for_children", "user", "uts"),
)
_STATUS_LINES: Final = (
    *(b"Uid:", b"Gid:", b"Groups:", b"NoNewPrivs:", b"Seccomp:"),
    *(b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:", b"Cpus_allowed:", b"Mems_allowed:"),
)
_FILES: Final = ("limits", "cgroup", "oom_score_adj", "attr/current")
_OFFSET: Final = 0xCBF29CE484222325
_PRIME: Final = 0x100000001B3
_MASK: Final = (1 << 64) - 1


def entry_command() -> list[str]:
    """The words that run this very program anew: this interpreter, isolated, and the script or module it was given.

    With absolute paths, for whoever executes them does so from elsewhere and with another environment.
    """
    # what stands before the program's own arguments: the interpreter, its options, a script or `-m` and a module
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if len(words) >= 2 and words[-2] == "-m":
        return [sys.executable, "-I", "-m", words[-1]]
    return [sys.executable, "-I", os.path.abspath(sys.argv[0])]


def socket_path(command: Sequence[str], directory: str = DIRECTORY) -> str:
    """Where the zygote of *command* listens for callers in the context of this process."""
    digest = _OFFSET
    for word in command:
        digest = fnv1a(os.fsencode(word) + b"\0", digest)
    return f"{directory}/{fnv1a(context_of_this_process(), digest):016x}.sock"


def context_of_this_process() -> bytes:
    """All that a child would inherit and could not be given otherwise, as bytes to be compared. Raises: OSError."""
    return b"".join(_context())


def fnv1a(data: bytes, digest: int = _OFFSET) -> int:
    """FNV-1a of *data*, going on from *digest*."""
    for byte in data:
        digest = (digest ^ byte) * _PRIME & _MASK
    return digest


def _context() -> Iterator[bytes]:
    for name in _NAMESPACES:
        try:
            inode = os.stat(f"/proc/self/ns/{name}").st_ino
        except FileNotFoundError:  # a kernel without that kind
            inode = 0
        yield inode.to_bytes(8, "little")
    root = os.stat("/")
    yield root.st_dev.to_bytes(8, "little") + root.st_ino.to_bytes(8, "little")
    lines = _read("/proc/self/status").splitlines(keepends=True)
    yield b"".join(line for line in lines if line.startswith(_STATUS_LINES))
    for name in _FILES:
        yield _read(f"/proc/self/{name}")
    for number in (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)):
        yield number.to_bytes(4, "little", signed=True)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            pieces = list(iter(lambda: file.read(1 << 16), b""))
    except OSError:
        return b""  # a kernel without security modules has no label to read
    return b"".join(pieces)
