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
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, cast

from .errors import DeadlineExceededError, FailedPreconditionError, NotFoundError, ShimError, UnavailableError
from .instance import ExitStatus
from .oci.rootless import as_ordinary_user
from .proto import task_pb2
from .task.identifiers import check_identifier
from .ttrpc.aio.client import Client
from .wire import bytes_field, decode_fields, text_of

__all__ = ["LocalBundle", "find_shim", "local_bundle", "run_task"]

_START_TIMEOUT: Final = 30.0
_CALL_TIMEOUT: Final = 120.0  # a first Create compiles the guest
_END_TIMEOUT: Final = 10.0
_CHUNK: Final = 65536
_LONGEST_PARENT: Final = 28  # the path of the shim's socket is longer by 79, and may have 107 bytes
_LARGEST_PIPE: Final = 1 << 20  # /proc/sys/fs/pipe-max-size, where nobody has changed it
_STREAMS: Final = (("stdout", 1), ("stderr", 2))
# when the terminal hangs up, nobody is left who could end the guest: to it that is SIGTERM
_HANDED_ON: Final = {
    signals.SIGINT: signals.SIGINT,
    signals.SIGTERM: signals.SIGTERM,
    signals.SIGHUP: signals.SIGTERM,
}


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
    """The path of `containerd-shim-<engine>-v1`: beside this Python first, then on PATH.

    Raises: NotFoundError; InvalidArgumentError for an *engine* that is no name.
    """
    name = f"containerd-shim-{check_identifier(engine, 'engine')}-v1"
    found = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    if found is None:
        raise NotFoundError(
            f"{name} is installed neither beside {sys.executable} nor on PATH; pip install containerd-shim-{engine}"
        )
    return os.path.abspath(found)


@contextmanager
def local_bundle(
    spec: Mapping[str, Any],
    *,
    id: str,  # noqa: A002
    namespace: str = "local",
) -> Generator[LocalBundle, None, None]:
    """A bundle with *spec* as its config.json and an empty rootfs, removed afterwards, also when SIGTERM comes.

    For anybody but root the container of *spec* is put into a user namespace, as `as_ordinary_user` does it.
    Raises: FailedPreconditionError where the host has no user namespaces for them, and when something is still mounted
    in the bundle afterwards; InvalidArgumentError for *id* and *namespace*; OSError.
    """
    check_identifier(id, "task id")
    check_identifier(namespace, "namespace")
    if not _is_hosts_root():
        _require_user_namespaces()
        spec = as_ordinary_user(spec, os.geteuid(), os.getegid())
    with _unwound_by_sigterm():
        # short, for a socket's path has room for 107 bytes; not in a shared /tmp that others can watch
        directory = tempfile.mkdtemp(prefix="shim-", dir=_parent())
        try:
            bundle = LocalBundle(directory, id, namespace)
            _fill(bundle, spec)
            yield bundle
        finally:
            with _undisturbed():
                _remove(directory)


async def run_task(
    shim: str,
    bundle: LocalBundle,
    write: Callable[[int, bytes], object],
    *,
    stdin: str = "",
    debug: bool = False,
) -> ExitStatus:
    """Run the bundle's task by the program *shim* to its end; its exit status.

    What the guest writes goes to *write*, with 1 or 2 for the stream; when that raises, the guest is killed and the
    error is this function's. In the main thread, SIGINT and SIGTERM are handed on to the guest, and a hang-up as
    SIGTERM; before the guest has started they end the run. The shim's own log goes to *write* as stream 2 with *debug*.
    Raises: ShimError, OSError; nothing is left running then.
    """
    with _caught_signals() as caught, _copied_output(bundle, write, debug) as failure:
        try:
            ended = await _run(shim, bundle, stdin, debug, caught, failure)
        except BaseException:
            with suppress(ShimError, OSError):  # the first error says more
                _delete(shim, bundle)
            raise
        _delete(shim, bundle)
    return ended


def _is_hosts_root() -> bool:
    from .linux.user_namespaces import own_standing  # there is none on other systems

    return own_standing().is_hosts_root


def _require_user_namespaces() -> None:
    from .linux.user_namespaces import what_denies_user_namespaces

    if denied := what_denies_user_namespaces():
        raise FailedPreconditionError(
            f"user {os.geteuid()} cannot run a container: without root that takes a user namespace, and {denied}; "
            "or use sudo"
        )


def _parent() -> str | None:
    """Where a bundle is put: not in a /tmp that others watch, if there is a better place; None: there."""
    if _is_hosts_root():
        return "/run" if os.path.isdir("/run") else None
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    is_usable = os.path.isabs(own) and len(os.fsencode(own)) <= _LONGEST_PARENT and os.access(own, os.W_OK | os.X_OK)
    return own if is_usable else "/tmp"


def _fill(bundle: LocalBundle, spec: Mapping[str, Any]) -> None:
    os.makedirs(bundle.rootfs)
    with open(os.path.join(bundle.path, "config.json"), "w", encoding="utf-8") as file:
        json.dump(spec, file)
    for name, _stream in _STREAMS:
        os.mkfifo(os.path.join(bundle.directory, name), 0o600)
    os.mkfifo(os.path.join(bundle.path, "log"), 0o600)


def _remove(directory: str) -> None:
    """Remove the bundle, unless something is mounted in it, whose files would be removed with it."""
    from .linux.mounts import read_mountinfo

    mounted = [each.mount_point for each in read_mountinfo() if each.mount_point.startswith(f"{directory}/")]
    if mounted:
        raise FailedPreconditionError(
            f"{directory} was not removed, for {mounted[-1]} is still mounted in it: umount that, then remove it"
        )
    shutil.rmtree(directory)


@contextmanager
def _unwound_by_sigterm() -> Generator[None, None, None]:
    """Let SIGTERM unwind the stack, as SIGINT does: by default it would leave everything as it is."""
    if not _is_main_thread() or signals.getsignal(signals.SIGTERM) is not signals.SIG_DFL:
        yield
        return
    signals.signal(signals.SIGTERM, _exit_by)
    try:
        yield
    finally:
        signals.signal(signals.SIGTERM, signals.SIG_DFL)


def _exit_by(number: int, frame: object) -> None:
    del frame
    sys.exit(128 + number)


@contextmanager
def _undisturbed() -> Generator[None, None, None]:
    """Keep the signals that end a program away from a clean-up, which ends soon by itself."""
    if not _is_main_thread():
        yield
        return
    before = {number: signals.signal(number, signals.SIG_IGN) for number in _HANDED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signals.signal(number, handler)


@contextmanager
def _caught_signals() -> Generator[asyncio.Queue[int], None, None]:
    """The signals for the guest, in order, as long as the loop runs; none outside the main thread."""
    caught: asyncio.Queue[int] = asyncio.Queue()
    if not _is_main_thread():
        yield caught
        return
    loop = asyncio.get_running_loop()
    before = {number: signals.getsignal(number) for number in _HANDED_ON}
    if before[signals.SIGHUP] is signals.SIG_IGN:  # nohup
        del before[signals.SIGHUP]
    for number in before:
        loop.add_signal_handler(number, caught.put_nowait, _HANDED_ON[number])
    try:
        yield caught
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signals.signal(number, handler)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _copied_output(
    bundle: LocalBundle, write: Callable[[int, bytes], object], debug: bool
) -> Generator[asyncio.Future[ExitStatus], None, None]:
    """Copy what comes out of the bundle's FIFOs; gives what fails when *write* does."""
    failure: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
    readers: list[_Reader] = []
    try:
        for name, stream in _STREAMS:
            readers.append(_Reader(os.path.join(bundle.directory, name), stream, write, failure))
        readers.append(_Reader(os.path.join(bundle.path, "log"), 2, write if debug else _ignore, failure))
        yield failure
    finally:
        for reader in readers:
            reader.finish()
        error = failure.exception() if failure.done() else None
    if error is not None:
        raise error


class _Reader:
    """Copies a FIFO's bytes to a function while the loop runs."""

    def __init__(
        self,
        path: str,
        stream: int,
        write: Callable[[int, bytes], object],
        failure: asyncio.Future[ExitStatus],
    ) -> None:
        # read-write: there is no end of file between two writers, fifo(7)
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stream = stream
        self._write = write
        self._failure = failure
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._copy)

    def _copy(self) -> bool:
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if self._failure.done():
            return True  # nobody wants it any more
        try:
            self._write(self._stream, data)
        except Exception as error:  # the caller's function, the caller's error: run_task raises it
            self._failure.set_exception(error)
        return True

    def finish(self) -> None:
        """Copy what is left in the FIFO, and close it."""
        self._loop.remove_reader(self._descriptor)
        for _ in range(_LARGEST_PIPE // _CHUNK):
            if not self._copy():
                break
        os.close(self._descriptor)


def _ignore(stream: int, data: bytes) -> None:
    del stream, data


class _Task:
    """The bundle's task, at a shim that has been started for it."""

    def __init__(self, client: Client, service: str, bundle: LocalBundle) -> None:
        self._client = client
        self._service = service
        self._bundle = bundle

    async def create(self, stdin: str) -> None:
        stdout, stderr = (os.path.join(self._bundle.directory, name) for name, _stream in _STREAMS)
        await self._call(
            "Create", task_pb2.CreateTaskRequest, bundle=self._bundle.path, stdin=stdin, stdout=stdout, stderr=stderr
        )

    async def start(self) -> None:
        await self._call("Start", task_pb2.StartRequest)

    async def wait(self) -> ExitStatus:
        data = await self._call("Wait", task_pb2.WaitRequest, timeout=None)
        answer = task_pb2.WaitResponse.FromString(data)
        return ExitStatus(answer.exit_status, answer.exited_at.ToDatetime(timezone.utc))

    async def hand_on(self, caught: asyncio.Queue[int]) -> ExitStatus:
        """Kill the task by every signal that is caught; never ends by itself. Raises: ShimError."""
        while True:
            number = await caught.get()
            with suppress(NotFoundError):  # it has ended meanwhile
                await self._call("Kill", task_pb2.KillRequest, signal=number, all=True)

    async def end(self) -> None:
        """Have the task and the shim gone, whatever has become of them; `delete` finds what is left then."""
        with suppress(ShimError):
            await self._call("Kill", task_pb2.KillRequest, timeout=_END_TIMEOUT, signal=signals.SIGKILL, all=True)
            await self._call("Wait", task_pb2.WaitRequest, timeout=_END_TIMEOUT)
        with suppress(ShimError):
            await self._call("Delete", task_pb2.DeleteRequest, timeout=_END_TIMEOUT)
        with suppress(ShimError, asyncio.TimeoutError):
            await self._call("Shutdown", task_pb2.ShutdownRequest, timeout=_END_TIMEOUT)
            await asyncio.wait_for(self._client.wait_closed(), _END_TIMEOUT)

    async def _call(
        self, method: str, request: Callable[..., Any], *, timeout: float | None = _CALL_TIMEOUT, **fields: Any
    ) -> bytes:
        payload = cast(bytes, request(id=self._bundle.id, **fields).SerializeToString())
        return await self._client.call(self._service, method, payload, timeout=timeout)


async def _run(
    shim: str,
    bundle: LocalBundle,
    stdin: str,
    debug: bool,
    caught: asyncio.Queue[int],
    failure: asyncio.Future[ExitStatus],
) -> ExitStatus:
    version, address = _start(shim, bundle, debug)
    client = await Client.connect(address)
    task = _Task(client, f"containerd.task.v{version}.Task", bundle)
    try:
        await task.create(stdin)
        if not caught.empty():
            return ExitStatus(128 + caught.get_nowait(), datetime.now(timezone.utc))
        await task.start()
        return await _first_of(task.wait(), task.hand_on(caught), failure)
    finally:
        await task.end()
        await client.close()


async def _first_of(
    waiting: Coroutine[Any, Any, ExitStatus],
    handing: Coroutine[Any, Any, ExitStatus],
    failure: asyncio.Future[ExitStatus],
) -> ExitStatus:
    """The result, or the error, of what ends first; the exit status before all others. The rest is cancelled."""
    tasks = [asyncio.create_task(waiting), asyncio.create_task(handing)]
    try:
        await asyncio.wait((*tasks, failure), return_when=asyncio.FIRST_COMPLETED)
        return next(each.result() for each in (*tasks, failure) if each.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _start(shim: str, bundle: LocalBundle, debug: bool) -> tuple[int, str]:
    """Have the shim's program start a shim for the bundle; the Task API's version and the address.

    Raises: UnavailableError with the program's words; DeadlineExceededError.
    """
    flags = ["-debug", "start"] if debug else ["start"]
    answer = _call_program(shim, bundle, flags, _bootstrap_params(bundle))
    try:
        return _parse_answer(answer)
    except ValueError as error:
        raise UnavailableError(f"{shim} start answered {answer[:200]!r}: {error}") from error


def _delete(shim: str, bundle: LocalBundle) -> None:
    """Have the shim's program remove what is left. Raises: UnavailableError; DeadlineExceededError."""
    _call_program(shim, bundle, ["-bundle", bundle.path, "delete"], b"")


def _call_program(shim: str, bundle: LocalBundle, more: list[str], data: bytes) -> bytes:
    address = os.path.join(bundle.directory, "containerd.sock")
    flags = ["-namespace", bundle.namespace, "-id", bundle.id, "-address", address, "-publish-binary", "/bin/true"]
    try:
        done = subprocess.run(
            [shim, *flags, *more],
            cwd=bundle.path,
            input=data,
            env={**os.environ, "TTRPC_ADDRESS": ""},  # nobody to send events to
            capture_output=True,
            timeout=_START_TIMEOUT,
            check=False,
            start_new_session=True,  # Ctrl-C at the terminal is for us, who hand it on
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceededError(f"{shim} {more[-1]} did not end within {_START_TIMEOUT:g} s") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise UnavailableError(f"{shim} {more[-1]} failed: {words}")
    return done.stdout


def _parse_answer(output: bytes) -> tuple[int, str]:
    """What `start` printed, in any of the three forms that shims use: an address, JSON, a BootstrapResult.

    Raises: ValueError.
    """
    text = output.strip()
    if text.startswith((b"unix://", b"/")):
        return 2, text.decode()
    if text.startswith(b"{"):
        fields = json.loads(text)
        version, address, protocol = (fields.get(name) for name in ("version", "address", "protocol"))
    else:
        found = dict(decode_fields(output))
        version = found.get(1)
        address, protocol = (text_of(found.get(number, b"")) for number in (2, 3))
    if version not in (2, 3) or protocol != "ttrpc" or not isinstance(address, str) or not address:
        raise ValueError("it must be the address of a Task service, version 2 or 3, by ttrpc")
    return version, address


def _bootstrap_params(bundle: LocalBundle) -> bytes:
    """What containerd 2.3 gives a shim: it lets the socket be in the bundle's own directory."""
    return bytes_field(1, bundle.id) + bytes_field(2, bundle.namespace) + bytes_field(9, bundle.directory)
