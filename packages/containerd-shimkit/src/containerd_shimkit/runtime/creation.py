"""`create` and `run`: a container whose maker goes, or stays until it has ended."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pwd import getpwuid

from ..container.channel import FifoLine
from ..container.closed_world import close_imports
from ..container.executor import LinuxExecutor
from ..container.lifecycle import Container, Maker
from ..container.stdio import Streams
from ..errors import InvalidArgumentError
from ..instance import ExitStatus, InstanceConfig
from ..linux.process import hide_environment
from ..oci.spec import Spec, read_spec
from ..shim.reaper import Reaper
from .control import start
from .handover import handing_on_signals, preserved_descriptors, raw_if_needed, streams_of, write_pid
from .loop import with_loop
from .own_terminal import own_size
from .store import Entry, Record, Store

__all__ = ["Choices", "create", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line says of a new container besides its bundle, an absolute path."""

    bundle: str
    pid_file: str = ""
    console_socket: str = ""
    preserved: int = 0  # descriptors from 3 on
    new_keyring: bool = True
    keep: bool = False  # after `run`
    systemd_cgroup: bool = False
    stays: bool = False  # whether this process stays until the container has ended


def create(store: Store, id: str, choices: Choices) -> None:  # noqa: A002
    """Make the container, up to an init that waits for `start`. Raises: ShimError, OSError, with all undone."""
    with_loop(_create_and_go(store, id, choices))


def run(store: Store, id: str, choices: Choices) -> int:  # noqa: A002
    """Make the container, start it, hand on the signals that arrive, and remove it; its exit status.

    Raises: ShimError, OSError, with all undone.
    """
    return with_loop(_run(store, id, choices))


async def _create_and_go(store: Store, id: str, choices: Choices) -> None:  # noqa: A002
    await _create(store, id, choices)


async def _create(store: Store, id: str, choices: Choices) -> tuple[Container, Streams]:  # noqa: A002
    spec = read_spec(choices.bundle)
    directory = store.add(id)
    try:
        with store.lock(id):
            store.write(id, _record(spec, choices.bundle), spec.raw)
            with _line_of(store.find(id)) as line:
                return await _make(id, directory, spec, line, choices)
    except BaseException:
        store.remove(id)
        raise


async def _make(
    id: str,  # noqa: A002
    directory: str,
    spec: Spec,
    line: FifoLine,
    choices: Choices,
) -> tuple[Container, Streams]:
    preserved = preserved_descriptors(choices.preserved)
    if spec.process is None:
        raise InvalidArgumentError("config.json has no `process`: there is nothing to run; add process.args")
    terminal, console = spec.process.terminal, choices.console_socket
    process = spec.process
    if terminal and not console and process.console_size is None:
        process = replace(process, console_size=own_size())
    stdio = streams_of(terminal=terminal, console_socket=console, stays=choices.stays)
    maker = Maker(directory, stdio, line, preserved, choices.new_keyring)
    config = InstanceConfig(
        choices.bundle,
        namespace="",
        terminal=terminal,
        console_socket=console,
        config={"systemd_cgroup": choices.systemd_cgroup},
    )
    container = Container(
        id, config, replace(spec, process=process), LinuxExecutor.of(process), Reaper.current(), maker=maker
    )
    close_imports(lives_on=False)  # the paths of this program may be those of the image, too, once that is the root
    hide_environment()
    await container.create()
    try:
        if choices.pid_file:
            write_pid(choices.pid_file, container.pid)
    except BaseException:
        await container.delete()
        raise
    return container, stdio


async def _run(store: Store, id: str, choices: Choices) -> int:  # noqa: A002
    container, streams = await _create(store, id, choices)
    try:
        with handing_on_signals(container.kill, container.exited), raw_if_needed(streams):
            with store.lock(id):
                await start(store.find(id))
            status: ExitStatus = await asyncio.shield(container.exited)
    finally:
        if not choices.keep:
            await container.delete()
            store.remove(id)
    return status.status


def _record(spec: Spec, bundle: str) -> Record:
    rootfs = os.path.normpath(os.path.join(bundle, spec.root.path if spec.root else "rootfs"))
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
    uid = os.geteuid()
    try:
        owner = getpwuid(uid).pw_name
    except KeyError:
        owner = str(uid)
    return Record(bundle, rootfs, now, owner, spec.annotations)


@contextmanager
def _line_of(entry: Entry) -> Generator[FifoLine, None, None]:
    """The init's line, open here until it has been forked."""
    descriptors = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in (entry.requests, entry.replies)]
    try:
        yield FifoLine(*descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
