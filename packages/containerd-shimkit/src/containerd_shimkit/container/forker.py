"""Who forks a container's init: the shim itself, or, from a pod's third container on, a helper that is cheaper to copy.

A pod of one or two containers, which is most pods, is better off without a further process.
"""

from __future__ import annotations

import marshal
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NoReturn
from weakref import WeakKeyDictionary

from ..errors import UnavailableError
from ..instance import Mount
from ..linux import namespaces
from ..linux.cgroups import cgroup_of
from ..linux.sibling import fork_sibling
from ..shim.reaper import Reaper
from .channel import Channel
from .executor import EXECUTORS, Executor, PlainExecutor
from .helper import Helper
from .init import InitTask, report, run_init
from .steps import Steps
from .worker import fork_child

__all__ = ["Forker"]

_ALONE: Final = 2  # inits that a shim forks itself
_MOST_SENT: Final = 120 * 1024  # bytes of a task in one message; an environment may be longer, and is not sent then


class Forker:
    """Forks the inits of one shim's containers."""

    _generation: ClassVar[int] = 0

    _of_reaper: ClassVar[WeakKeyDictionary[Reaper, Forker]] = WeakKeyDictionary()

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._forked = 0
        self._helper: Helper | None = None
        self._helper_generation = 0

    @classmethod
    def of(cls, reaper: Reaper) -> Forker:
        """The one whose inits *reaper* collects."""
        forker = cls._of_reaper.get(reaper)
        if forker is None:
            forker = cls._of_reaper[reaper] = cls(reaper)
        return forker

    @classmethod
    def renew(cls) -> None:
        """Use no helper that has been forked up to now: this process has loaded what inits will need."""
        cls._generation += 1

    async def fork(self, task: InitTask, pid_namespace: str | None) -> int:
        """Fork the init that lives *task*; the pid of what is a child of this process, to be watched at once.

        *pid_namespace* is as in a `Plan`.

        Raises: OSError, ShimError.
        """
        self._forked += 1
        if self._forked > _ALONE:
            try:
                packed = _packed(task)
                if len(packed) <= _MOST_SENT:
                    return await self._fork_by_helper(task, packed, pid_namespace)
            except (UnavailableError, pickle.PicklingError, TypeError, AttributeError, ValueError):
                # it was killed, or the executor is somebody's own and cannot be sent
                self._let_helper_go()
        return _fork_in_namespace(pid_namespace, lambda: _fork_init(task))

    async def _fork_by_helper(self, task: InitTask, packed: bytes, pid_namespace: str | None) -> int:
        helper = self._helper
        if helper is None or not helper.is_alive or self._helper_generation != self._generation:
            self._let_helper_go()
            helper = self._helper = Helper("shim-forker", _fork_for_parent, self._reaper)
            self._helper_generation = self._generation
        descriptors = (*task.stdio, task.channel.fileno())
        pid: int = await helper.ask((pid_namespace, packed), descriptors)
        return pid

    def _let_helper_go(self) -> None:
        if self._helper is not None:
            self._helper.close()
            self._helper = None


def _packed(task: InitTask) -> bytes:
    """What *task* is made of, but for its descriptors. Plain values, which an init makes of little memory."""
    steps, executor = task.steps, task.executor
    mounts = [(each.type, each.source, each.target, each.options) for each in task.rootfs]
    return marshal.dumps(
        (
            (steps.rootfs, steps.user, steps.host, steps.root, steps.seal, steps.process, steps.last),
            dict(task.annotations),
            mounts,
            dict(task.cgroup.paths),
            _executor_packed(executor),
        )
    )


def _executor_packed(executor: Executor) -> tuple[str, tuple[Any, ...]] | bytes:
    # a class derived from a plain one is another thing than what its base's values would become
    if isinstance(executor, PlainExecutor) and "plain" in type(executor).__dict__:
        return executor.plain()
    return pickle.dumps(executor)


def _fork_for_parent(order: tuple[str | None, bytes], descriptors: Sequence[int]) -> int:
    """In the helper: fork an init that is its parent's child. The helper writes to as little memory as it can.

    What it writes to it no longer shares with the inits that it has forked: so it is the init that reads its own task.
    """
    pid_namespace, life = order

    def fork() -> int:
        pid = fork_sibling()
        if pid == 0:
            _live(life, descriptors)
        return pid

    return _fork_in_namespace(pid_namespace, fork)


def _live(life: bytes, descriptors: Sequence[int]) -> NoReturn:
    stdin, stdout, stderr, line = descriptors
    channel = Channel(socket.socket(fileno=line))
    try:
        steps, annotations, rootfs, cgroup_paths, executor = marshal.loads(life)  # noqa: S302  (this shim's own)
        task = InitTask(
            Steps(*steps),
            annotations,
            tuple(Mount(*each) for each in rootfs),
            cgroup_of(cgroup_paths),
            (stdin, stdout, stderr),
            channel,
            pickle.loads(executor) if isinstance(executor, bytes) else EXECUTORS[executor[0]](*executor[1]),  # noqa: S301
        )
    except BaseException as error:
        report(channel, error)
        os._exit(1)
    run_init(task)


def _fork_init(task: InitTask) -> int:
    pid = fork_child()
    if pid == 0:
        run_init(task)
    return pid


def _fork_in_namespace(path: str | None, fork: Callable[[], int]) -> int:
    """Fork with the pid namespace that the plan wants. Nothing here may await: other forks would land in it."""
    if path is None:
        return fork()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if path:
            theirs = namespaces.open_namespace(path, "pid")
            try:
                namespaces.setns(theirs, namespaces.CLONE_NEWPID)
            finally:
                os.close(theirs)
        else:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        try:
            return fork()
        finally:
            namespaces.setns(own, namespaces.CLONE_NEWPID)
    finally:
        os.close(own)
