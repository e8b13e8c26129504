"""A container's init: the child's side of making a container. From here on there is no event loop and no thread.

It lives in three stages. With the host's root it carries the plan out and lets its executor look the program up; then
it pivots and drops what it does not need; then it waits for Start and becomes, or runs, the program.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from .. import errors
from ..instance import Mount
from ..linux import mounts, paths, process, rlimits
from ..linux.cgroup import Cgroup
from ..linux.terminals import make_controlling
from .apply import Site, apply
from .apply_terminal import hand_over, take_streams
from .channel import Channel, FifoLine, Line, Message
from .executor import Executor, Inside
from .operations import FilesystemMount
from .stdio import give_streams
from .steps import Step, Steps

__all__ = [
    "InitTask",
    "ShimGoneError",
    "apply_all",
    "check_threads",
    "error_from",
    "error_message",
    "expect",
    "forget_parent",
    "report",
    "run_init",
]

# what `signal` is made of; that makes an enumeration's member of each number, half a millisecond for all of them
_signal: Final = importlib.import_module("_signal")
_MOST_MOUNTS: Final = 64  # at one point: more is nobody's honest configuration


@dataclass(frozen=True, slots=True)
class InitTask:
    """All that an init is given at its birth."""

    steps: Steps
    annotations: Mapping[str, str]
    rootfs: tuple[Mount, ...]  # what containerd wants mounted; empty when the root is there already
    cgroup: Cgroup
    stdio: tuple[int, int, int]
    channel: Channel
    executor: Executor
    line: FifoLine | None = None  # where it hears its start, when its maker does not stay; None: by the channel
    preserved: tuple[int, ...] = ()  # descriptors that its program is to have besides
    new_keyring: bool = True


def run_init(task: InitTask) -> NoReturn:
    """Live a container's init's life, and leave the process: never returns, never raises.

    An error before the program runs goes to the shim as a message, and ends the process with status 1.
    """
    status = 1
    line: Line = task.channel
    try:
        kept = {*task.preserved, *(task.line.descriptors if task.line else ())}
        forget_parent({task.channel.fileno(), *task.stdio, *kept})
        os.setsid()
        if task.new_keyring:
            process.join_new_session_keyring()  # the service's own keys are not the container's
        process.set_name("shim-init")
        if os.geteuid() == 0:
            process.set_dumpable(False)  # no other process may look into this one while it holds the host's things
        for target, descriptor in enumerate(task.stdio):
            os.dup2(descriptor, target)
        process.close_descriptors({task.channel.fileno(), *kept})
        expect("go", task.channel.receive()[0])
        site = _build(task, kept)
        task.channel.send({"kind": "ready"})
        line = task.line or task.channel
        expect("start", line.receive_plain())
        site.line = line
        apply_all(task.steps.last, site)
        status = task.executor.run(line)
    except ShimGoneError:
        pass
    except BaseException as error:
        report(line, error)
    finally:
        os._exit(status)


class ShimGoneError(Exception):
    """The shim died; what this init has made so far is containerd's `delete` to clean up."""


def forget_parent(keep: Iterable[int]) -> None:
    """Let go of what a fork leaves behind of the shim: signal handlers, descriptors but *keep* and 0 to 2, logging.

    The inherited event loop is never touched: unregistering from its epoll would unregister the parent.
    """
    gc.disable()  # a short life; a collection would write to every page that is shared with the shim
    _signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        # only what Python knows of: an engine's own handlers (of SIGSEGV, say) stay, for they catch its guests' traps
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    # its descriptors go now, and their numbers will be other files'. Not logging.disable(), which visits every logger
    logging.root.manager.disable = logging.CRITICAL
    logging.root.handlers.clear()
    logging.lastResort = None
    process.close_descriptors(set(keep))
    os.umask(0)


def expect(kind: str, message: Message | None) -> None:
    """Go on if the shim has sent a *kind* of message. Raises: ShimGoneError."""
    if message is None or message["kind"] != kind:
        raise ShimGoneError


def _build(task: InitTask, kept: Collection[int]) -> Site:
    steps, site = task.steps, Site(task.steps.rootfs, task.cgroup, task.channel)
    was_root = os.geteuid() == 0
    if task.rootfs:
        # in the shim's own mount namespace: containerd's own clean-up must be able to see these mounts
        mounts.mount_rootfs(task.rootfs, steps.rootfs)
    _check_rootfs(steps.rootfs)
    apply_all(steps.host, site)
    if not was_root:
        process.set_dumpable(False)  # now: before, its user could not have said who is who in its user namespace
    apply_all(steps.root, site)
    if site.terminal is not None:
        hand_over(site.terminal, task.channel)
        take_streams(site.terminal)
        make_controlling(0)
    prepared = task.executor.prepare(Inside(site.root_fd, task.annotations, task.channel, steps.user))
    check_threads()
    site.in_process = prepared.in_process
    own = -1
    if not prepared.procfs:
        own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _detach_planned_procfs(steps.root, site.root_fd)  # first: then there is nothing below it to be hidden
    apply_all(steps.seal, site)
    if not prepared.procfs:
        _detach_procfs(own)
    # the working directory is entered after this: no open directory of the host may be within reach of its path
    labels = [each.descriptor for each in (*site.keys, *site.labels)]
    process.close_descriptors({task.channel.fileno(), *prepared.keep, *labels, *kept})
    give_streams(steps.user)
    rlimits.restore_descriptor_limit()
    apply_all(steps.process, site)
    return site


def check_threads() -> None:
    """Refuse to go on with a thread that an engine has started: capabilities and filters are one thread's own."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise errors.InternalError("the engine has started a thread in `load`, which must wait for `run_wasi`")


def _check_rootfs(rootfs: str) -> None:
    if not os.path.isdir(rootfs):
        raise errors.InvalidArgumentError(
            f"the root file system {rootfs} (root.path in config.json) is not a directory; unpack or mount it first"
        )


def apply_all(steps: Iterable[Step], site: Site) -> None:
    """Carry *steps* out. Raises: ShimError as `apply`."""
    for step in steps:
        apply(step, site)


def _detach_planned_procfs(steps: Iterable[Step], root_fd: int) -> None:
    """Take the procfs that the plan has mounted out of the new root again."""
    for step in steps:
        if step[:2] != (FilesystemMount.__name__, "proc"):
            continue
        with suppress(OSError):  # what is left is found later, and by name
            descriptor = paths.open_in_root(root_fd, step[3], os.O_PATH | os.O_DIRECTORY)
            try:
                mounts.umount(f"/proc/self/fd/{descriptor}", mounts.MNT_DETACH)
            finally:
                os.close(descriptor)


def _detach_procfs(own: int) -> None:
    """Take every procfs out of the new root, which is `/` by now, such as those that came along with other mounts.

    A guest with `/` preopened could leave its sandbox by /proc/self/mem. *own* is the host's /proc/self. The host's own
    mounts are out of sight, of which a node with many containers has so many that to read of them takes milliseconds.
    """
    found: list[str] = []
    for _ in range(_MOST_MOUNTS):
        found = [each.mount_point for each in mounts.read_mountinfo("proc", own)]
        if not found:
            return
        # takes off what is on top there: the procfs itself may lie below other mounts, so look again
        mounts.umount(found[-1], mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
    raise errors.InvalidArgumentError(
        f"the procfs at {found[-1]} cannot be taken out of the container, and a wasm guest must not see it; "
        "mount nothing over /proc, or set the runtime option procfs"
    )


def error_message(error: BaseException) -> Message:
    """*error* as a message of the channel; `error_from` makes it an error again."""
    known = isinstance(error, errors.ShimError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    kind = type(error).__name__ if known else "InternalError"
    return {"kind": "error", "error": kind, "message": text[:16384]}


def error_from(message: Message) -> errors.ShimError:
    """The error that *message* carries, of the kind that it was (InternalError for a kind unknown here)."""
    kind = getattr(errors, str(message["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, errors.ShimError)):
        kind = errors.InternalError
    return kind(message["message"])


def report(line: Line, error: BaseException) -> None:
    """Tell the shim why this init ends."""
    try:
        line.send(error_message(error))
    except (OSError, ValueError):
        os.write(2, f"{error}\n".encode())  # the shim is gone: the container's own stderr is all that is left
