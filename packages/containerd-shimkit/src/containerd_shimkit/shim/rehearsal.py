"""Serving tasks that do not exist, before the first that does: what shims do first has been done before.

An interpreter adapts code to what it sees: it fills caches in the code itself, in types, in dictionaries, and learns
which instructions may be replaced by faster ones. Every shim would do that anew, each in its own copy of the memory. A
zygote does it once, and its children find it done: they are faster, and share more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from datetime import datetime, timezone
from typing import Final

from ..container.rehearsal import lay_out, pretend
from ..instance import Encoded, ExitStatus, Instance
from ..proto import task_pb2
from ..task.service import SERVICES, TaskService
from ..ttrpc.aio.client import Client
from ..ttrpc.aio.server import Server
from .publisher import Publisher
from .reaper import Reaper

__all__ = ["rehearse"]

_ROUNDS: Final = 40  # code is adapted from its eighth or sixteenth run on


class _Actor(Instance):
    """A task that ends as soon as it is started."""

    _ended: asyncio.Future[ExitStatus]

    async def create(self) -> int:
        await pretend(self.id, self.config.bundle)
        self._ended = asyncio.get_running_loop().create_future()
        return 1

    async def start(self) -> int:
        self._ended.set_result(ExitStatus(0, datetime.now(timezone.utc)))
        return 1

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        pass

    async def delete(self) -> None:
        pass

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        return await asyncio.wait_for(asyncio.shield(self._ended), seconds)

    async def stats(self) -> Encoded:
        return Encoded()


def rehearse() -> None:
    """Serve tasks as `serve` would, to nobody, and leave nothing of it but what the interpreter has learnt."""
    with tempfile.TemporaryDirectory() as bundle:
        lay_out(bundle)
        asyncio.run(_rehearse(bundle))


async def _rehearse(bundle: str) -> None:
    reaper = Reaper.current()
    publisher = Publisher("", "rehearsal")
    tasks = TaskService("rehearsal", _Actor, publisher, on_shutdown=_nothing)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("")  # a name in the abstract namespace, chosen by the kernel
    listener.listen()
    server = Server(tasks.services())
    server.start(listener)
    client = await Client.connect("@" + os.fsdecode(listener.getsockname())[1:])
    for number in range(_ROUNDS):
        await _play(client, f"task-{number}", bundle)
    await client.close()
    await server.close(0)
    listener.close()
    reaper.stop()


async def _play(client: Client, id: str, bundle: str) -> None:  # noqa: A002
    async def call(method: str, request: bytes) -> None:
        await client.call(SERVICES[0], method, request)

    options = {"type": "overlay", "source": "overlay", "options": ["lowerdir=/a", "upperdir=/b"]}
    await call("Create", task_pb2.CreateTaskRequest(id=id, bundle=bundle, rootfs=[options]).SerializeToString())
    waiting = asyncio.ensure_future(call("Wait", task_pb2.WaitRequest(id=id).SerializeToString()))
    await call("Connect", task_pb2.ConnectRequest(id=id).SerializeToString())
    await call("Start", task_pb2.StartRequest(id=id).SerializeToString())
    await waiting
    await call("State", task_pb2.StateRequest(id=id).SerializeToString())
    await call("Delete", task_pb2.DeleteRequest(id=id).SerializeToString())


def _nothing() -> None:
    pass
