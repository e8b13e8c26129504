"""Events on their way to containerd: one queue, in order, across restarts of containerd.

The event at the head is held until containerd has taken it or refused it for good, so a later one never overtakes it:
containerd would take a TaskDelete before its TaskExit for a lost exit. What containerd may have taken without our
hearing of it is sent again.

The queue is bounded. When it is full, the newest event that is neither an exit nor a deletion gives way, be it the one
that is being published: clients wait for exits and deletions, and learn the rest from the task's state. Only a queue
full of exits and deletions turns one of those away. Whatever is dropped is logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf import any_pb2, timestamp_pb2

from ..errors import DeadlineExceededError, InvalidArgumentError, ShimError, UnavailableError
from ..instance import Encoded
from ..proto import forward_pb2
from ..ttrpc.aio.client import Client, parse_address

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 2048
_SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"
_METHOD: Final = "Forward"
_TIMEOUT: Final = 5.0  # seconds for each connect and each call
_FIRST_DELAY: Final = 0.1
_LAST_DELAY: Final = 5.0
_URGENT_DELAY: Final = 0.25  # while somebody waits for the queue to drain
_MAX_REFUSALS: Final = 5
_ESSENTIAL_TOPICS: Final = frozenset({"/tasks/exit", "/tasks/delete"})
_BILLION: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Queued:
    topic: str
    type_url: str
    request: bytes


class Publisher:
    """Sends the events of one containerd namespace to the containerd that listens at *address*.

    With an empty address (nobody told the shim of a containerd) events are logged at debug level and that is all.
    Everything is to be called on the event loop that `start` was called on.
    Raises: InvalidArgumentError for an address that cannot be one.
    """

    def __init__(self, address: str, namespace: str) -> None:
        if address:
            parse_address(address)  # now, rather than at every attempt to deliver
        self._address = address
        self._namespace = namespace
        self._queue: deque[_Queued] = deque()
        self._client: Client | None = None
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._flushing = 0  # callers of flush that wait
        self._nap: asyncio.Future[None] | None = None  # the worker's, between two attempts

    def start(self) -> None:
        """Begin to deliver, on the running loop. What was published before is delivered first."""
        if self._worker is None and self._address:
            self._worker = asyncio.get_running_loop().create_task(self._run())
            self._worker.add_done_callback(_report_end)

    def publish(self, topic: str, event: Encoded) -> None:
        """Queue *event*, as of now, behind all that were published before. Never waits."""
        _log.debug("event %s: %s, %d bytes", topic, event.type_url, len(event.value))
        if not self._address:
            return
        if self._closed:
            _log.error("dropped event %s (%s): the publisher has been closed", topic, event.type_url)
            return
        if len(self._queue) >= QUEUE_LIMIT and not self._make_room(topic, event.type_url):
            return
        self._queue.append(_Queued(topic, event.type_url, _encode(self._namespace, topic, event)))
        self._drained.clear()
        self._filled.set()

    async def flush(self, timeout: float) -> bool:
        """Wait until all is delivered, at most *timeout* seconds, trying more often; whether it is."""
        if self._drained.is_set():
            return True
        self._flushing += 1
        self._wake()
        try:
            await asyncio.wait_for(self._drained.wait(), timeout)
        except asyncio.TimeoutError:
            _log.warning("%d events are undelivered after %g s", len(self._queue), timeout)
        finally:
            self._flushing -= 1
        return self._drained.is_set()

    async def close(self, timeout: float) -> None:
        """Flush for at most *timeout* seconds, then give up what is left, with a line of log each."""
        self._closed = True
        if self._worker is not None:
            await self.flush(timeout)
            self._worker.cancel()
            await asyncio.wait([self._worker])
        await self._disconnect()
        for event in self._queue:
            _log.error(
                "dropped event %s (%s): containerd at %s did not take it", event.topic, event.type_url, self._address
            )
        self._queue.clear()
        self._drained.set()

    def _make_room(self, topic: str, type_url: str) -> bool:
        """Drop the event that matters least; whether there is room now for a new one of *topic*."""
        if topic in _ESSENTIAL_TOPICS:
            # never the head, which may be on its way
            for index in range(len(self._queue) - 1, 0, -1):
                if (victim := self._queue[index]).topic not in _ESSENTIAL_TOPICS:
                    del self._queue[index]
                    _log_overflow(victim.topic, victim.type_url)
                    return True
        _log_overflow(topic, type_url)
        return False

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                await self._deliver(self._queue[0])
                self._queue.popleft()
            self._filled.clear()
            self._drained.set()

    async def _deliver(self, event: _Queued) -> None:
        """Bring *event* to containerd; returns when it is there, or when it is clear that it never will be."""
        refusals = 0
        for delay in _delays():
            try:
                await self._forward(event)
                return
            except (UnavailableError, DeadlineExceededError) as error:
                # once an outage, and not for a connection that a restarted containerd has closed
                level = logging.WARNING if delay == _FIRST_DELAY else logging.DEBUG
                _log.log(level, "event %s waits: %s", event.topic, error)
                await self._disconnect()
            except InvalidArgumentError as error:
                _log.error("dropped event %s (%s): containerd refused it: %s", event.topic, event.type_url, error)
                return
            except ShimError as error:
                refusals += 1
                if refusals == _MAX_REFUSALS:
                    _log.error(
                        "dropped event %s (%s) after %d attempts: %s", event.topic, event.type_url, refusals, error
                    )
                    return
            await self._pause(delay)

    async def _forward(self, event: _Queued) -> None:
        if self._client is None or self._client.closed:
            self._client = await Client.connect(self._address, _TIMEOUT)
        await self._client.call(_SERVICE, _METHOD, event.request, timeout=_TIMEOUT)

    async def _pause(self, delay: float) -> None:
        """Wait before the next attempt; less when somebody waits for us, from the moment they do."""
        loop = asyncio.get_running_loop()
        self._nap = loop.create_future()
        timer = loop.call_later(min(delay, _URGENT_DELAY) if self._flushing else delay, self._wake)
        try:
            await self._nap
        finally:
            timer.cancel()

    def _wake(self) -> None:
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _delays() -> Iterator[float]:
    """Seconds before each further attempt: none before the first, for a restarted containerd closes old connections."""
    yield 0.0
    delay = _FIRST_DELAY
    while True:
        yield delay
        delay = min(delay * 2, _LAST_DELAY)


def _encode(namespace: str, topic: str, event: Encoded) -> bytes:
    seconds, nanos = divmod(time.time_ns(), _BILLION)
    envelope = forward_pb2.Envelope(
        timestamp=timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos),
        namespace=namespace,
        topic=topic,
        event=any_pb2.Any(type_url=event.type_url, value=event.value),
    )
    return forward_pb2.ForwardRequest(envelope=envelope).SerializeToString()


def _log_overflow(topic: str, type_url: str) -> None:
    _log.error("dropped event %s (%s): %d events wait for containerd already", topic, type_url, QUEUE_LIMIT)


def _report_end(worker: asyncio.Task[None]) -> None:
    if not worker.cancelled() and (error := worker.exception()) is not None:
        _log.critical("the delivery of events has ended: containerd will hear of none", exc_info=error)
