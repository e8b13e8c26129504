"""The serving process: what one pod's shim is made of, from its first import to its last line of log."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import Final

from ..container.closed_world import close_imports, pin_libraries
from ..instance import Instance, InstanceConfig
from ..linux import process
from ..linux.quiet_fork import quieten_forks
from ..linux.rlimits import raise_descriptor_limit
from ..linux.sealed_program import exposure
from ..task.service import TaskService
from ..ttrpc.aio.server import Call, Handler, Server
from .actions import Service, Shim
from .args import ShimArgs
from .group import ANNOUNCED_FOR, FORGET_METHOD, GROUP_SERVICE, GroupLock, decode_id
from .logger import BundleLogHandler
from .messages import shim_cgroup_of
from .publisher import Publisher
from .reaper import Reaper

__all__ = ["prepare", "serve"]

_log = logging.getLogger(__name__)

_LOCK_RETRY: Final = 0.02
_MOST_NOTED: Final = 256
_FLUSH_TIMEOUT: Final = 5.0
_LEAVE_GRACE: Final = 0.5


def prepare(shim: Shim) -> None:
    """Import and load all that serving needs, then close imports; a process does it once, and may fork shims then."""
    shim.warm()
    exposure()  # for all shims that will be forked from here
    pin_libraries()
    close_imports()
    quieten_forks()
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)  # at debug it tells of itself, not of containers


def serve(shim: Shim, service: Service) -> None:
    """Serve a group's tasks until the last has gone, in a process that is prepared and that ends then: what lives in it
    alone is not taken apart.
    """
    args, request = service.args, service.request
    handler = BundleLogHandler()
    handler.add(args.id, service.bundle)
    logging.root.handlers[:] = [handler]
    if args.debug:
        logging.root.setLevel(logging.DEBUG)
    _set_up_process(shim_cgroup_of(request.options))
    gc.freeze()  # what exists now is shared with every child; a collection there must not touch it
    events = request.bootstrap.containerd_ttrpc_address if request.bootstrap else ""
    serving = _Serving(shim, args, handler, service.listener, events or os.environ.get("TTRPC_ADDRESS", ""))
    asyncio.new_event_loop().run_until_complete(serving.run())


def _set_up_process(shim_cgroup: str) -> None:
    process.set_child_subreaper()
    process.set_name("containerd-shim")
    os.umask(0o022)
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            score = min(int(file.read()) + 1, 1000)  # a shim goes before containerd, and after its containers
            file.seek(0)
            file.write(str(score))
    except OSError as error:
        _log.warning("cannot raise the shim's oom_score_adj: %s", error)
    raise_descriptor_limit()  # each container of a pod takes a few
    if shim_cgroup:
        from ..linux.cgroup import checked_path
        from ..linux.cgroups import cgroup_for

        cgroup = cgroup_for(checked_path(shim_cgroup))
        cgroup.create()
        cgroup.join()


class _Serving:
    """One shim's parts and how they end together."""

    def __init__(
        self, shim: Shim, args: ShimArgs, handler: BundleLogHandler, listener: socket.socket, events_address: str
    ) -> None:
        self._shim = shim
        self._args = args
        self._handler = handler
        self._listener = listener
        self._publisher = Publisher(events_address, args.namespace)
        self._path = str(listener.getsockname())
        self._socket = os.stat(self._path)
        self._asked_for: dict[str, float] = {}  # when a container came, went, or was given up
        self._most_noted = _MOST_NOTED
        self._ended = asyncio.Event()
        self._is_gone = False
        self._grace = _FLUSH_TIMEOUT

    async def run(self) -> None:
        """Serve until the group has ended."""
        loop = asyncio.get_running_loop()
        Reaper.current()
        for number in (signal.SIGTERM, signal.SIGINT):
            # containers are left as they are: containerd sees the connection close and runs `delete` for each
            loop.add_signal_handler(number, self._leave)
        self._publisher.start()
        self._tasks = TaskService(
            self._args.namespace,
            self._make_instance,
            self._publisher,
            on_shutdown=self._end_if_idle,
            containerd_address=self._args.address,
            on_create=self._note,
            on_forget=self._remove,
        )
        # a shim whose `start` is never followed by a Create goes away by itself
        loop.call_later(ANNOUNCED_FOR, self._end_if_idle)
        server = Server({**self._tasks.services(), GROUP_SERVICE: self._group_handlers()})
        server.start(self._listener)
        _log.info("serving %s at %s", self._shim.name, self._path)
        if reason := exposure():
            _log.warning("containers may get at this shim's interpreter, which is not sealed: %s", reason)
        await self._ended.wait()
        self._let_go_of_socket(by_force=True)
        await server.close(grace=self._grace)
        await self._publisher.close(_FLUSH_TIMEOUT)
        _log.info("the shim has ended")

    def _leave(self) -> None:
        """End by a signal, soon: somebody always waits for a task here, and would be waited for."""
        self._grace = _LEAVE_GRACE
        self._ended.set()

    def _make_instance(self, id: str, config: InstanceConfig) -> Instance:  # noqa: A002
        self._handler.add(id, config.bundle)
        try:
            return self._shim.make_instance(id, config)
        except BaseException:
            self._handler.remove(id)
            raise

    def _group_handlers(self) -> Mapping[str, Handler]:
        async def forget(call: Call, payload: bytes) -> bytes:
            del call
            id = decode_id(payload)  # noqa: A001
            self._note(id)
            self._tasks.abandon(id)
            return b""

        return {FORGET_METHOD: forget}

    def _remove(self, id: str) -> None:  # noqa: A002
        self._note(id)  # a `start` while it was there has announced nothing
        self._handler.remove(id)

    def _note(self, id: str) -> None:  # noqa: A002
        """Note that the container *id* is or was there, or will not come: from now on nobody waits for it."""
        self._asked_for[id] = now = time.monotonic()
        if len(self._asked_for) > self._most_noted:
            oldest = now - ANNOUNCED_FOR
            self._asked_for = {each: moment for each, moment in self._asked_for.items() if moment > oldest}
            self._most_noted = 2 * len(self._asked_for) + _MOST_NOTED

    def _end_if_idle(self) -> None:
        """End the group, unless a container is there or coming."""
        if self._tasks.task_ids or self._ended.is_set():
            return
        retry = self._let_go_of_socket()
        if retry is None:
            self._tasks.close()
            self._ended.set()
        else:
            asyncio.get_running_loop().call_later(retry, self._end_if_idle)

    def _let_go_of_socket(self, *, by_force: bool = False) -> float | None:
        """Take the group's socket away, so that the next `start` makes a shim of its own; None when that is done.

        Else in how many seconds to try again: a `start` is looking at this shim right now, or, unless *by_force*, has
        announced a container that has not come.
        """
        if self._is_gone:
            return None
        lock = GroupLock(self._path)
        if not lock.acquire(blocking=False):
            return _LOCK_RETRY
        try:
            if self._stands_there():
                coming = {} if by_force else lock.announced()
                if waited_for := [each for each in coming if coming[each] > self._asked_for.get(each, 0.0)]:
                    left = max(coming[each] for each in waited_for) + ANNOUNCED_FOR - time.monotonic()
                    return max(left, _LOCK_RETRY)
                os.unlink(self._path)
        finally:
            lock.release(remove=not os.path.lexists(self._path))
        self._is_gone = True
        return None

    def _stands_there(self) -> bool:
        """Whether the socket at the path is this shim's: somebody may have removed it, and another shim come."""
        try:
            return os.path.samestat(os.stat(self._path), self._socket)
        except FileNotFoundError:
            return False
