"""Runs one task through a shim's program without containerd: a bundle of its own, the shim's socket spoken to directly.

What a demo, a smoke test or an embedding program needs. The shim is started as containerd would start it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal as signals
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from .errors import FailedPreconditionError, NotFoundError, ShimError, UnavailableError
from .instance import ExitStatus
from .proto import task_pb2
from .ttrpc.aio.client import Client
from .wire import bytes_field, decode_fields, text_of

__all__ = ["LocalBundle", "find_shim", "local_bundle", "run_task"]

_SERVICE: Final = "containerd.task.v2.Task"
_START_TIMEOUT: Final = 30.0
_CALL_TIMEOUT: Final = 120.0
_CHUNK: Final = 65536
_ADDRESS: Final = 2  # field of BootstrapResult


@dataclass(frozen=True, slots=True)
class LocalBundle:
    """A bundle in a directory of its own, with FIFOs for the guest's output."""

    directory: str  # holds the bundle, the shim's socket, and nothing else
    id: str
    namespace: str

    @property
    def path(self) -> str:
        """The bundle: config.json and rootfs."""
        return os.path.join(self.directory, "bundle")

    @property
    def rootfs(self) -> str:
        """The root file system, to be filled before the task is run."""
        return os.path.join(self.path, "rootfs")


def find_shim(engine: str) -> str:
    """The path of `containerd-shim-<engine>-v1`: beside this Python first, then on PATH. Raises: NotFoundError."""
    name = f"containerd-shim-{engine}-v1"
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise NotFoundError(
            f"{name} is installed neither beside {sys.executable} nor on PATH; pip install containerd-shim-{engine}"
        )
    return found


@contextmanager
def local_bundle(spec: Mapping[str, Any], *, id: str, namespace: str = "local") -> Generator[LocalBundle, None, None]:  # noqa: A002
    """A bundle with *spec* as its config.json and an empty rootfs, removed afterwards.

    Raises: FailedPreconditionError for anybody but root, whom the kernel gives no namespaces, mounts and cgroups.
    """
    if os.geteuid() != 0:
        raise FailedPreconditionError(
            f"running a container needs root (namespaces, mounts, cgroups); you are user {os.geteuid()}: use sudo"
        )
    # short, for a socket's path has room for 107 bytes; not in a shared /tmp that others can watch
    directory = tempfile.mkdtemp(prefix="shim-", dir="/run" if os.path.isdir("/run") else None)
    bundle = LocalBundle(directory, id, namespace)
    try:
        os.makedirs(bundle.rootfs)
        with open(os.path.join(bundle.path, "config.json"), "w", encoding="utf-8") as file:
            json.dump(spec, file)
        for name in ("stdout", "stderr"):
            os.mkfifo(os.path.join(directory, name), 0o600)
        os.mkfifo(os.path.join(bundle.path, "log"), 0o600)
        yield bundle
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def run_task(
    shim: str,
    bundle: LocalBundle,
    write: Callable[[int, bytes], object],
    *,
    stdin: str = "",
    debug: bool = False,
) -> ExitStatus:
    """Run the bundle's task by the program *shim* to its end; its exit status.

    What the guest writes goes to *write*, with 1 or 2 for the stream. SIGINT and SIGTERM are handed on to the guest.
    The shim's own log goes to *write* as stream 2 with *debug*. Raises: ShimError, with nothing left behind.
    """
    readers = [_Reader(os.path.join(bundle.directory, name), stream, write) for name, stream in _STREAMS]
    log = _Reader(os.path.join(bundle.path, "log"), 2, write if debug else _ignore)
    try:
        address = _start(shim, bundle, debug)
        client = await Client.connect(address)
        try:
            ended = await _run(client, bundle, stdin)
        finally:
            await _shut_down(client, bundle)
            await client.close()
    finally:
        _delete(shim, bundle)
        for reader in (*readers, log):
            reader.finish()
    return ended


_STREAMS: Final = (("stdout", 1), ("stderr", 2))


class _Reader:
    """Copies a FIFO's bytes to a function while the loop runs."""

    def __init__(self, path: str, stream: int, write: Callable[[int, bytes], object]) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # no EOF between two writers
        self._stream = stream
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._copy)

    def _copy(self) -> bool:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        self._write(self._stream, data)
        return bool(data)

    def finish(self) -> None:
        """Copy what is left in the FIFO, and close it."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._writer)
        while self._copy():
            pass
        os.close(self._descriptor)


def _ignore(stream: int, data: bytes) -> None:
    del stream, data


async def _run(client: Client, bundle: LocalBundle, stdin: str) -> ExitStatus:
    stdout, stderr = (os.path.join(bundle.directory, name) for name, _stream in _STREAMS)
    create = task_pb2.CreateTaskRequest(id=bundle.id, bundle=bundle.path, stdin=stdin, stdout=stdout, stderr=stderr)
    await _call(client, "Create", create)
    loop = asyncio.get_running_loop()
    kills: set[asyncio.Task[bytes]] = set()

    def hand_on(number: int) -> None:
        kills.add(loop.create_task(_call(client, "Kill", task_pb2.KillRequest(id=bundle.id, signal=number, all=True))))

    for number in (signals.SIGINT, signals.SIGTERM):
        loop.add_signal_handler(number, hand_on, number)
    try:
        await _call(client, "Start", task_pb2.StartRequest(id=bundle.id))
        data = await client.call(_SERVICE, "Wait", task_pb2.WaitRequest(id=bundle.id).SerializeToString())
    finally:
        for number in (signals.SIGINT, signals.SIGTERM):
            loop.remove_signal_handler(number)
        await asyncio.gather(*kills, return_exceptions=True)
    answer = task_pb2.WaitResponse.FromString(data)
    return ExitStatus(answer.exit_status, answer.exited_at.ToDatetime())


async def _shut_down(client: Client, bundle: LocalBundle) -> None:
    for method, request in (
        ("Kill", task_pb2.KillRequest(id=bundle.id, signal=signals.SIGKILL, all=True)),
        ("Wait", task_pb2.WaitRequest(id=bundle.id)),
        ("Delete", task_pb2.DeleteRequest(id=bundle.id)),
        ("Shutdown", task_pb2.ShutdownRequest(id=bundle.id)),
    ):
        try:
            await _call(client, method, request)
        except ShimError:
            pass  # ended, deleted, or never created: `delete` finds what is left


async def _call(client: Client, method: str, request: Any) -> bytes:
    return await client.call(_SERVICE, method, request.SerializeToString(), timeout=_CALL_TIMEOUT)


def _start(shim: str, bundle: LocalBundle, debug: bool) -> str:
    """Have the shim's program start a shim for the bundle; its address. Raises: UnavailableError with its words."""
    done = subprocess.run(
        [shim, *_flags(bundle), *(["-debug"] if debug else []), "start"],
        cwd=bundle.path,
        input=_bootstrap_params(bundle),
        env={**os.environ, "TTRPC_ADDRESS": ""},  # nobody to send events to
        capture_output=True,
        timeout=_START_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise UnavailableError(f"{shim} start failed: {done.stderr.decode(errors='replace').strip()}")
    return next(text_of(value) for number, value in decode_fields(done.stdout) if number == _ADDRESS)


def _bootstrap_params(bundle: LocalBundle) -> bytes:
    """What containerd 2.3 gives a shim: it lets the socket be in the bundle's own directory."""
    return bytes_field(1, bundle.id) + bytes_field(2, bundle.namespace) + bytes_field(9, bundle.directory)


def _delete(shim: str, bundle: LocalBundle) -> None:
    subprocess.run(
        [shim, *_flags(bundle), "-bundle", bundle.path, "delete"],
        cwd=bundle.path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_START_TIMEOUT,
        check=False,
    )


def _flags(bundle: LocalBundle) -> list[str]:
    address = os.path.join(bundle.directory, "containerd.sock")
    return ["-namespace", bundle.namespace, "-id", bundle.id, "-address", address, "-publish-binary", "/bin/true"]
