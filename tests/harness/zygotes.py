"""The zygotes of this installation's shims: where they listen, who they are, and how those that tests caused end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

DIRECTORY = Path("/run/containerd-shimkit")
_UCRED = struct.Struct("3i")


def zygote_sockets() -> frozenset[Path]:
    """Give every zygote's socket there is, ours or another installation's."""
    return frozenset(DIRECTORY.glob("*.sock"))


def zygote_traces() -> frozenset[Path]:
    """Give the sockets' paths of which anything is there, be it the lock alone."""
    return zygote_sockets() | {path.with_suffix("") for path in DIRECTORY.glob("*.sock.lock")}


def zygote_at(path: Path) -> int | None:
    """Give the pid of whoever listens at *path*; None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return None
        pid, _uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(pid)


def is_of_this_installation(pid: int) -> bool:
    """Whether the process has a library of this environment in its memory: others may test on the same machine."""
    try:
        return f" {sys.prefix}/" in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return False


def our_zygotes(spared: frozenset[Path] = frozenset()) -> dict[int, Path]:
    """Give this installation's zygotes by pid, but for those at a *spared* path."""
    found = {zygote_at(path): path for path in zygote_sockets() - spared}
    return {pid: path for pid, path in found.items() if pid is not None and is_of_this_installation(pid)}


def end_zygotes(zygotes: dict[int, Path]) -> None:
    """Kill these, and remove their sockets and locks."""
    for pid, path in zygotes.items():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for each in (path, path.with_name(f"{path.name}.lock")):
            each.unlink(missing_ok=True)
    wait_until(lambda: not any(is_of_this_installation(pid) for pid in zygotes))


def remove_dead(spared: frozenset[Path] = frozenset()) -> None:
    """Remove the sockets and locks that nobody is behind, but for those of *spared* paths."""
    for path in zygote_traces() - spared:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if zygote_at(path) is None:
                path.unlink(missing_ok=True)
                os.unlink(f"{path}.lock")
        except BlockingIOError:
            continue  # somebody is just starting one
        finally:
            os.close(lock)


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Return when *condition* holds. Raises: AssertionError when it does not in *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"nothing of it within {timeout:g} s"
        time.sleep(0.01)
