"""Work that blocks or computes, done in a forked child while the shim's loop goes on."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ..errors import AbortedError, DeadlineExceededError, InternalError
from ..linux import capabilities, namespaces, process
from ..linux.user_namespaces import own_standing
from ..shim.reaper import Reaper
from .channel import Channel, Message
from .init import error_from, error_message, forget_parent

__all__ = ["Confinement", "fork_child", "run_in_child"]

_TASKS: Final = "/proc/self/task"
_NOBODY: Final = 65534


@dataclass(frozen=True, slots=True)
class Confinement:
    """For work on what others wrote: as nobody, without network and new privileges, in a bounded address space."""

    memory_bytes: int | None  # None: whatever there is


def fork_child() -> int:
    """os.fork(), having made sure that there is one thread to fork. Raises: InternalError when there are more."""
    if len(os.listdir(_TASKS)) != 1:
        raise InternalError("this shim has started a thread and can no longer fork safely: a bug of its engine")
    return os.fork()


async def run_in_child(
    work: Callable[[], None],
    reaper: Reaper,
    *,
    what: str,
    timeout: float,
    keep: Collection[int] = (),
    confinement: Confinement | None = None,
) -> None:
    """Run *work* in a forked child, which keeps the descriptors *keep*; wait for its end, *timeout* seconds at most.

    With a *confinement* the child has lost all privileges before *work* begins.

    Raises: the ShimError that *work* raised; DeadlineExceededError; AbortedError when the child was killed. *what*
    names the work in their messages. When this returns or raises, also when cancelled, the child is gone, or has said
    that its work is done and been killed: to take its memory apart takes the kernel longer than most of the work.
    """
    ours, theirs = Channel.pair()
    try:
        parent = os.getpid()
        pid = fork_child()
        if pid == 0:
            _be_worker(work, theirs, keep, confinement, timeout, parent)
        ended = reaper.watch(pid)
        theirs.close()
        message: Message | None = None
        try:
            message, descriptors = await asyncio.wait_for(ours.receive_async(), timeout)
        except asyncio.TimeoutError:
            raise DeadlineExceededError(f"{what} took longer than {timeout:g} s and was given up") from None
        except ValueError as error:  # what it ran wrote to whatever it found open
            raise AbortedError(f"{what} failed: the process that did it sent what is no message") from error
        finally:
            reaper.kill(pid, signal.SIGKILL)  # it has said its last word, whatever it was
            if message is None:
                await asyncio.shield(ended)
    finally:
        ours.close()
        theirs.close()
    for descriptor in descriptors:
        os.close(descriptor)  # it has none to give; what it ran may have thought otherwise
    if message is None:
        status = (await asyncio.shield(ended)).status
        raise AbortedError(f"{what} failed: the process that did it ended with status {status}")
    if message["kind"] == "error":
        raise error_from(message)


def _be_worker(
    work: Callable[[], None],
    channel: Channel,
    keep: Collection[int],
    confinement: Confinement | None,
    timeout: float,
    parent: int,
) -> None:
    status = 1
    try:
        forget_parent({channel.fileno(), *keep})
        if confinement is not None:
            _confine(confinement, timeout)
            # a shim that is killed takes it along; after the change of uid, which would undo this
            process.set_parent_death_signal(signal.SIGKILL)
            if os.getppid() != parent:
                return
        work()
        channel.send({"kind": "done"})
        status = 0
    except BaseException as error:
        channel.send(error_message(error))
    finally:
        os._exit(status)


def _confine(confinement: Confinement, timeout: float) -> None:
    is_root = own_standing().is_hosts_root
    # for who is not: in a user namespace of its own, where nobody is anybody
    namespaces.unshare(namespaces.CLONE_NEWNET | (0 if is_root else namespaces.CLONE_NEWUSER))
    if (limit := confinement.memory_bytes) is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # counts for memory files as well
    seconds = max(1, math.ceil(timeout))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if is_root:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)  # from root to nobody: the kernel empties the capability sets
    else:
        capabilities.set_capabilities(0, 0, 0)
    process.set_no_new_privs()
