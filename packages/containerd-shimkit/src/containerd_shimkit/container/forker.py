"""Who forks a container's init: the shim itself, or, from a pod's third container on, a helper that is cheaper to copy.

A pod of one or two containers, which is most pods, is better off without a further process.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from ..errors import UnavailableError
from ..instance import Mount
from ..linux import namespaces
from ..linux.cgroups import CgroupV1
from ..linux.sibling import fork_sibling
from ..shim.reaper import Reaper
from .channel import Channel
from .executor import Executor
from .helper import Helper
from .init import InitTask, run_init
from .plan import Plan
from .worker import fork_child

__all__ = ["Forker"]

_ALONE: Final = 2  # inits that a shim forks itself


@dataclass(frozen=True, slots=True)
class _Order:
    """An InitTask without its descriptors."""

    plan: Plan
    annotations: Mapping[str, str]
    rootfs: tuple[Mount, ...]
    cgroup_paths: Mapping[str, str]
    executor: Executor


class Forker:
    """Forks the inits of one shim's containers."""

    _of_reaper: ClassVar[WeakKeyDictionary[Reaper, Forker]] = WeakKeyDictionary()

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._forked = 0
        self._helper: Helper | None = None

    @classmethod
    def of(cls, reaper: Reaper) -> Forker:
        """The one whose inits *reaper* collects."""
        forker = cls._of_reaper.get(reaper)
        if forker is None:
            forker = cls._of_reaper[reaper] = cls(reaper)
        return forker

    async def fork(self, task: InitTask) -> int:
        """Fork the init that lives *task*; the pid of what is a child of this process, to be watched at once.

        Raises: OSError, ShimError.
        """
        self._forked += 1
        if self._forked > _ALONE:
            try:
                return await self._fork_by_helper(task)
            except (UnavailableError, pickle.PicklingError, TypeError, AttributeError, ValueError):
                # it was killed, or does not know an engine that came after it, or the executor is somebody's own
                self._let_helper_go()
        return _fork_in_namespace(task.plan.pid_namespace, lambda: _fork_init(task))

    async def _fork_by_helper(self, task: InitTask) -> int:
        helper = self._helper
        if helper is None or not helper.is_alive:
            helper = self._helper = Helper("shim-forker", _fork_for_parent, self._reaper)
        order = _Order(task.plan, task.annotations, task.rootfs, task.cgroup.paths, task.executor)
        pid: int = await helper.ask(order, (*task.stdio, task.channel.fileno()))
        return pid

    def _let_helper_go(self) -> None:
        if self._helper is not None:
            self._helper.close()
            self._helper = None


def _fork_for_parent(order: _Order, descriptors: Sequence[int]) -> int:
    """In the helper: fork an init that is its parent's child."""
    stdin, stdout, stderr, line = descriptors
    channel = Channel(socket.socket(fileno=os.dup(line)))
    task = InitTask(
        order.plan,
        order.annotations,
        order.rootfs,
        CgroupV1(order.cgroup_paths),
        (stdin, stdout, stderr),
        channel,
        order.executor,
    )

    def fork() -> int:
        pid = fork_sibling()
        if pid == 0:
            run_init(task)
        return pid

    try:
        return _fork_in_namespace(task.plan.pid_namespace, fork)
    finally:
        channel.close()


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
