"""Mounting by a program, as mount(8) would: file systems in user space are known to nothing else.

Runs where nothing may be imported or threaded: a fork and an execve, by hand. Source: mount(8), mount.fuse3(8).
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from typing import Final

from ..errors import DeadlineExceededError, FailedPreconditionError
from .pidfd import pidfd_open, pidfd_send_signal

__all__ = ["is_helper_type", "mount_by_helper"]

_FAMILIES: Final = ("fuse", "fuse3")
_TIMEOUT: Final = 60.0
_SHOWN: Final = 2000  # bytes of what the helper said
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, and so by its children
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def is_helper_type(fstype: str) -> bool:
    """Whether file systems of this type are mounted by a program: `fuse.X` and `fuse3.X`."""
    family, dot, kind = fstype.partition(".")
    return bool(family in _FAMILIES and dot and kind)


def mount_by_helper(source: str, target: str, fstype: str, options: Sequence[str]) -> None:
    """Mount by the program `mount.fuse3` (or `mount.fuse`), which gets *options* as they are.

    Raises: FailedPreconditionError when it is not installed or fails, with what it said; DeadlineExceededError.
    """
    family, _, kind = fstype.partition(".")
    words = [f"mount.{family}", source, target, *(("-o", ",".join(options)) if options else ()), "-t", kind]
    # not a pipe: the file system's daemon keeps its standard error open, so the end would never come
    output = os.memfd_create("mount-helper")
    try:
        status = _run(words, output)
        if status != 0:
            said = os.pread(output, _SHOWN, 0).decode(errors="replace").strip()
            raise FailedPreconditionError(f"{words[0]} could not mount {source!r} ({fstype}): status {status}: {said}")
    finally:
        os.close(output)


def _run(words: list[str], output: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    environment = {"PATH": os.environ.get("PATH", _DEFAULT_PATH)}
    try:
        pid = os.posix_spawnp(words[0], words, environment, file_actions=actions, setsigmask=(), setsigdef=_IGNORED)
    except OSError as error:
        raise FailedPreconditionError(
            f"the mount helper {words[0]} cannot be run: {error.strerror}; install it on the host, "
            "or choose another snapshotter"
        ) from error
    return _wait(pid, words[0])


def _wait(pid: int, name: str) -> int:
    descriptor = pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        in_time = poll.poll(_TIMEOUT * 1000)
        if not in_time:
            pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
    _pid, status = os.waitpid(pid, 0)
    if not in_time:
        raise DeadlineExceededError(f"the mount helper {name} did not end within {_TIMEOUT:g} s and was killed")
    return os.waitstatus_to_exitcode(status)
