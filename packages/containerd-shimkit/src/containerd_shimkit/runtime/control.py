"""What is done with a container that is there: start it, signal it, take it away."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

from ..container.channel import Channel, Message
from ..container.cleanup import clean_up
from ..container.init import error_from
from ..container.plan_cgroup import with_default_devices
from ..container.runtime_hooks import RuntimeHooks
from ..errors import FailedPreconditionError, InvalidArgumentError
from ..linux.pidfd import kill_process
from ..oci.hooks import state_of
from ..oci.resources import Resources
from ..oci.spec import read_spec
from ..shim.reaper import Reaper
from .loop import with_loop
from .store import Entry, Store

__all__ = ["delete", "kill", "pause", "resume", "signal_number", "start", "start_now", "update"]

_MOST: Final = 128 * 1024


async def start(entry: Entry) -> None:
    """Let the program of a created container run. Raises: FailedPreconditionError, the ShimError of its init."""
    if entry.status != "created":
        raise FailedPreconditionError(f"container {entry.id!r} is {entry.status}; only a created one can be started")
    replies = os.open(entry.replies, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _tell(entry, {"kind": "start"})
        said = await _next(replies)
        if said is not None and said["kind"] == "listener":
            await _hand_listener_over(entry, said)
            said = await _next(replies)
    finally:
        os.close(replies)
    os.unlink(entry.requests)  # from now on it counts as started
    os.unlink(entry.replies)
    if said is not None:
        raise error_from(said)
    hooks = read_spec(entry.directory).hooks  # as it was when the container was made
    if hooks:
        runner = RuntimeHooks(entry.id, entry.record.bundle, entry.record.annotations, hooks, Reaper.current())
        await runner.try_run("running", entry.pid, "poststart")


async def _next(replies: int) -> Message | None:
    """What the init says next; None when it has closed its line by its execve, or ended."""
    await _readable(replies)
    said = os.read(replies, _MOST)
    return Channel.decode(said) if said else None


async def _hand_listener_over(entry: Entry, message: Message) -> None:
    """Raises: as `hand_over`, with the init gone: it would wait for ever."""
    from ..container.listener import hand_over  # loads what no other start needs

    init, record = entry.state.init, entry.record
    assert init is not None, "it has just been heard"
    state = state_of(entry.id, "created", init.pid, record.bundle, record.annotations)
    try:
        await hand_over(message, read_spec(entry.directory), init, state, Reaper.current())
        _tell(entry, {"kind": "go"})
    except BaseException:
        kill_process(init, signal.SIGKILL)
        raise


def _tell(entry: Entry, message: Message) -> None:
    try:
        requests = os.open(entry.requests, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise FailedPreconditionError(f"container {entry.id!r} ended before it was started") from None
    try:
        os.write(requests, Channel.encode(message))
    finally:
        os.close(requests)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def start_now(store: Store, id: str) -> None:  # noqa: A002
    """`start` by itself. Raises: as `start`, and NotFoundError."""
    with store.lock(id):
        with_loop(start(store.find(id)))


def kill(entry: Entry, number: int, *, everyone: bool) -> None:
    """Send signal *number* to the init, or to *everyone* in the container. Raises: FailedPreconditionError, OSError."""
    init = entry.state.init
    if init is None or not entry.pid:
        if everyone and entry.state.cgroup_paths:
            entry.cgroup.signal_all(number)
            return
        raise FailedPreconditionError(f"container {entry.id!r} is not running: it is {entry.status}")
    if not kill_process(init, number):
        raise FailedPreconditionError(f"container {entry.id!r} is not running: it has just ended")
    if everyone:
        entry.cgroup.signal_all(number, but=init.pid)
    if number == signal.SIGKILL:
        entry.cgroup.let_killed_end()


def pause(entry: Entry) -> None:
    """Stop every process of a running container where it is. Raises: FailedPreconditionError, ShimError."""
    if entry.status != "running":
        raise FailedPreconditionError(f"container {entry.id!r} is {entry.status}; only a running one can be paused")
    entry.cgroup.freeze()


def resume(entry: Entry) -> None:
    """Let a paused container go on. Raises: FailedPreconditionError, ShimError."""
    if entry.status != "paused":
        raise FailedPreconditionError(f"container {entry.id!r} is {entry.status}; only a paused one can be resumed")
    entry.cgroup.thaw()


def update(entry: Entry, resources: Resources) -> None:
    """Change a living container's limits. Raises: FailedPreconditionError, ShimError with field and value."""
    if not entry.pid:
        raise FailedPreconditionError(f"container {entry.id!r} is {entry.status}; limits are a living one's")
    entry.cgroup.update(with_default_devices(resources) if resources.devices else resources)


def delete(store: Store, id: str, *, force: bool) -> None:  # noqa: A002
    """Remove what is left of a container that has ended, or, by *force*, of any. Raises: ShimError, OSError."""
    with store.lock(id):
        entry = store.find(id)
        status = entry.status
        if status not in ("stopped", "created", "creating") and not force:
            raise FailedPreconditionError(
                f"container {id!r} cannot be deleted: it is {status}; end it first, or say --force"
            )
        clean_up(entry.directory, entry.record.bundle)
        store.remove(id)


def signal_number(text: str) -> int:
    """The signal that *text* names: `TERM`, `SIGTERM` or `15`. Raises: InvalidArgumentError."""
    word = text.upper()
    if word.isdecimal() and 1 <= int(word) <= signal.SIGRTMAX:
        return int(word)
    try:
        return signal.Signals[word if word.startswith("SIG") else f"SIG{word}"]
    except KeyError:
        raise InvalidArgumentError(f"{text!r} is no signal; give a name such as TERM, or a number") from None
