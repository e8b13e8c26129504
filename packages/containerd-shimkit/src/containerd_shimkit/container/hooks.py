"""Runs lifecycle hooks, one after the other, each with the container's state on its standard input.

Blocking: the shim does it in a forked child, an init by itself. What a hook prints is kept for the error that names it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from ..errors import AbortedError, DeadlineExceededError, InvalidArgumentError, ShimError
from ..linux.pidfd import pidfd_open
from ..oci.hooks import Hook

__all__ = ["MOST_SECONDS", "name_of", "run_hook", "run_hooks", "try_hooks"]

_log = logging.getLogger(__name__)

MOST_SECONDS: Final = 24 * 3600.0
"""A hook without a timeout may take as long as it likes: a day."""

_MOST_OUTPUT: Final = 4096  # bytes of it in an error
_CHUNK: Final = 65536


def run_hooks(kind: str, hooks: Iterable[Hook], state: bytes) -> None:
    """Run *hooks* in their order until one fails, as `run_hook` does. *kind* is the specification's word for them."""
    for index, hook in enumerate(hooks):
        run_hook(name_of(kind, index, hook), hook, state)


def try_hooks(kind: str, hooks: Iterable[Hook], state: bytes) -> None:
    """Run every one of *hooks*. Those that fail are logged: they come too late to change anything."""
    for index, hook in enumerate(hooks):
        try:
            run_hook(name_of(kind, index, hook), hook, state)
        except ShimError as error:
            _log.warning("%s", error)


def name_of(kind: str, index: int, hook: Hook) -> str:
    """The hook's place in a config.json, and what it runs."""
    return f"hooks.{kind}[{index}] ({hook.path})"


def run_hook(name: str, hook: Hook, state: bytes) -> None:
    """Run one hook, which *name* stands for in errors.

    Raises: InvalidArgumentError for a program that cannot be executed, DeadlineExceededError for one that took longer
    than its timeout (it and its process group are killed), AbortedError for any status but 0, with what it printed.
    """
    until = time.monotonic() + (hook.timeout or MOST_SECONDS)
    output, stdout = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            pid = _spawn(hook, state, stdout)
        except OSError as error:
            raise InvalidArgumentError(f"{name} cannot be executed: {error.strerror}") from error
        finally:
            os.close(stdout)
        try:
            printed = _listen(pid, output, until)
        except BaseException:
            _end(pid)
            raise
    finally:
        os.close(output)
    if printed is None:
        _end(pid)
        raise DeadlineExceededError(f"{name} was not done within its timeout of {hook.timeout} s, and was killed")
    _, status = os.waitpid(pid, 0)
    if status:
        raise _failure(name, os.waitstatus_to_exitcode(status), printed)


def _spawn(hook: Hook, state: bytes, output: int) -> int:
    stdin = os.memfd_create("state")  # a file, which no hook can leave unread for ever
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        # by vfork, so that nothing is copied; all other descriptors close at the execve
        return os.posix_spawn(
            hook.path,
            hook.args or (hook.path,),
            dict(entry.split("=", 1) for entry in hook.env if "=" in entry),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, source, target) for source, target in ((stdin, 0), (output, 1), (output, 2))
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
        )
    finally:
        os.close(stdin)


def _listen(pid: int, output: int, until: float) -> bytes | None:
    """What the hook prints until it has ended, the last of it; None when it is *until* before."""
    printed, ended = b"", pidfd_open(pid)
    os.set_blocking(output, False)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(output, select.POLLIN)
    try:
        while (left := until - time.monotonic()) > 0:
            ready = [descriptor for descriptor, _events in poll.poll(left * 1000)]
            if output in ready:
                data = _read(output)
                printed = (printed + data)[-_MOST_OUTPUT:]
                if not data:
                    poll.unregister(output)
            if ended in ready:  # what it has left behind in the background may print on
                return (printed + _read(output))[-_MOST_OUTPUT:]
        return None
    finally:
        os.close(ended)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return b""


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _failure(name: str, code: int, printed: bytes) -> ShimError:
    how = f"ended with status {code}" if code >= 0 else f"was ended by signal {-code}"
    said = printed.decode(errors="backslashreplace").strip()
    return AbortedError(f"{name} {how}" + (f", having printed: {said}" if said else " and printed nothing"))
