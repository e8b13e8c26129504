"""Events reach containerd in order, whatever containerd does, and what is dropped is logged."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from containerd_shimkit import errors
from containerd_shimkit.instance import Encoded
from containerd_shimkit.proto import forward_pb2
from containerd_shimkit.shim import publisher
from containerd_shimkit.shim.publisher import Publisher
from containerd_shimkit.ttrpc import MAX_DATA_SIZE
from containerd_shimkit.ttrpc.aio import Call, Server


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="events-", dir="/tmp") as directory:
        yield str(Path(directory) / "s")


class _Containerd:
    """Containerd's event service: keeps what it gets; fails a call with the next of *failures*, if any."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.envelopes: list[forward_pb2.Envelope] = []
        self.attempts = 0
        self.failures: list[BaseException | float] = []  # a number: seconds of silence

    @property
    def topics(self) -> list[str]:
        return [envelope.topic for envelope in self.envelopes]

    async def _forward(self, call: Call, payload: bytes) -> bytes:
        self.attempts += 1
        failure = self.failures.pop(0) if self.failures else 0.0
        if isinstance(failure, BaseException):
            raise failure
        await asyncio.sleep(failure)
        self.envelopes.append(forward_pb2.ForwardRequest.FromString(payload).envelope)
        return b""

    async def __aenter__(self) -> _Containerd:
        Path(self.address).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen()
        self._server = Server({"containerd.services.events.ttrpc.v1.Events": {"Forward": self._forward}})
        self._server.start(self._listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close(0)
        self._listener.close()


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(bounded())


def _event(text: str = "x") -> Encoded:
    return Encoded("containerd.events.TaskOOM", b"\x0a" + bytes((len(text),)) + text.encode())


def _publish(events: Publisher, *topics: str) -> None:
    for topic in topics:
        events.publish(topic, _event())


def _dropped(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("dropped")]


def test_an_event_arrives_as_containerd_wants_it(address: str) -> None:
    async def test() -> None:
        async with _Containerd(address) as containerd:
            events = Publisher(address, "k8s.io")
            events.start()
            begun = time.time_ns()
            events.publish("/tasks/oom", _event("c1"))
            ended = time.time_ns()
            assert await events.flush(5)
            (envelope,) = containerd.envelopes
            assert (envelope.namespace, envelope.topic) == ("k8s.io", "/tasks/oom")
            assert envelope.event.type_url == "containerd.events.TaskOOM"
            assert envelope.event.value == b"\x0a\x02c1"
            assert begun <= envelope.timestamp.ToNanoseconds() <= ended
            await events.close(1)

    _run(test)


def test_events_arrive_in_the_order_of_publishing(address: str) -> None:
    topics = [f"/tasks/{number}" for number in range(100)]

    async def test() -> None:
        async with _Containerd(address) as containerd:
            events = Publisher(f"unix://{address}", "ns")
            _publish(events, *topics[:50])
            events.start()
            events.start()
            _publish(events, *topics[50:])
            await events.close(5)
            assert containerd.topics == topics

    _run(test)


def test_events_outlive_a_restart_of_containerd_in_order(address: str) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        _publish(events, "/a/1", "/a/2")
        await asyncio.sleep(0.05)
        async with _Containerd(address) as first:
            assert await events.flush(5)
            assert first.topics == ["/a/1", "/a/2"]
        _publish(events, "/a/3", "/a/4")
        await asyncio.sleep(0.05)
        _publish(events, "/a/5")
        async with _Containerd(address) as second:
            assert await events.flush(5)
            assert second.topics == ["/a/3", "/a/4", "/a/5"]
            await events.close(1)

    _run(test)


def test_a_restart_between_two_events_costs_no_waiting_and_no_warning(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        for number in (1, 2):
            async with _Containerd(address) as containerd:
                _publish(events, f"/a/{number}")
                begun = time.monotonic()
                while not containerd.topics:
                    await asyncio.sleep(0.005)
                assert time.monotonic() - begun < 0.5
        await events.close(1)

    _run(test)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_absence_of_containerd_is_told_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        _publish(events, "/a/1")
        await asyncio.sleep(0.8)
        async with _Containerd(address):
            await events.close(5)

    _run(test)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"event /a/1 waits: cannot connect to {address}: ")


def test_waiting_grows_to_five_seconds() -> None:
    delays = publisher._delays()
    assert [round(next(delays), 1) for _ in range(9)] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_refused_event_is_dropped_and_the_next_goes_on(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with _Containerd(address) as containerd:
            containerd.failures = [errors.InvalidArgumentError("bad topic")]
            events = Publisher(address, "ns")
            events.start()
            _publish(events, "nonsense", "/tasks/exit")
            await events.close(5)
            assert (containerd.topics, containerd.attempts) == (["/tasks/exit"], 2)

    _run(test)
    assert _dropped(caplog) == ["dropped event nonsense (containerd.events.TaskOOM): containerd refused it: bad topic"]


def test_an_event_that_fails_for_other_reasons_is_tried_a_few_times(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "_FIRST_DELAY", 0.001)

    async def test() -> None:
        async with _Containerd(address) as containerd:
            containerd.failures = [errors.InternalError("boltdb is sad")] * 4
            events = Publisher(address, "ns")
            events.start()
            _publish(events, "/a/1")
            assert await events.flush(5)
            assert containerd.topics == ["/a/1"]
            containerd.failures = [errors.InternalError("boltdb is sad")] * 5
            _publish(events, "/a/2", "/a/3")
            await events.close(5)
            assert containerd.topics == ["/a/1", "/a/3"]

    _run(test)
    assert _dropped(caplog) == ["dropped event /a/2 (containerd.events.TaskOOM) after 5 attempts: boltdb is sad"]


def test_an_event_too_long_for_ttrpc_does_not_block_the_queue(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "_FIRST_DELAY", 0.001)

    async def test() -> None:
        async with _Containerd(address) as containerd:
            events = Publisher(address, "ns")
            events.start()
            events.publish("/a/1", Encoded("big", bytes(MAX_DATA_SIZE)))
            _publish(events, "/a/2")
            await events.close(5)
            assert containerd.topics == ["/a/2"]

    _run(test)
    assert "longer than ttrpc's limit" in _dropped(caplog)[0]


@pytest.mark.parametrize("failure", [60.0, errors.UnavailableError("not yet"), errors.DeadlineExceededError("slow")])
def test_an_event_is_held_while_containerd_is_silent_or_not_ready(
    address: str, monkeypatch: pytest.MonkeyPatch, failure: BaseException | float
) -> None:
    monkeypatch.setattr(publisher, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(publisher, "_LAST_DELAY", 0.01)
    monkeypatch.setattr(publisher, "_TIMEOUT", 0.05)

    async def test() -> None:
        async with _Containerd(address) as containerd:
            containerd.failures = [failure] * 8
            events = Publisher(address, "ns")
            events.start()
            _publish(events, "/a/1", "/a/2")
            await events.close(10)
            assert (containerd.topics, containerd.attempts) == (["/a/1", "/a/2"], 10)

    _run(test)


def test_flushing_keeps_to_its_time_and_loses_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        _publish(events, "/a/1", "/a/2")
        begun = time.monotonic()
        assert not await events.flush(0.1)
        assert time.monotonic() - begun < 1
        assert "2 events are undelivered after 0.1 s" in caplog.text
        async with _Containerd(address) as containerd:
            assert await events.flush(5)
            assert containerd.topics == ["/a/1", "/a/2"]
            await events.close(0)

    _run(test)


def test_flushing_does_not_wait_for_the_next_attempt(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_FIRST_DELAY", 300.0)
    monkeypatch.setattr(publisher, "_LAST_DELAY", 300.0)

    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        _publish(events, "/a/1")
        await asyncio.sleep(0.05)
        async with _Containerd(address) as containerd:
            assert await events.flush(5)
            assert containerd.topics == ["/a/1"]
        _publish(events, "/a/2")
        flushing = asyncio.ensure_future(events.flush(5))
        await asyncio.sleep(0.1)
        async with _Containerd(address) as containerd:
            assert await flushing
            assert containerd.topics == ["/a/2"]
            await events.close(0)

    _run(test)


def test_flushing_an_empty_queue_needs_no_containerd(address: str) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        assert await events.flush(0)
        events.start()
        assert await events.flush(0)
        await events.close(0)

    _run(test)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_closing_gives_up_in_time_and_names_what_is_left(
    address: str, caplog: pytest.LogCaptureFixture, timeout: float
) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        _publish(events, "/tasks/exit", "/tasks/delete")
        await asyncio.sleep(0.02)
        begun = time.monotonic()
        await events.close(timeout)
        assert time.monotonic() - begun < 1
        _publish(events, "/tasks/late")
        await events.close(timeout)

    _run(test)
    what = "(containerd.events.TaskOOM)"
    assert _dropped(caplog) == [
        f"dropped event /tasks/exit {what}: containerd at {address} did not take it",
        f"dropped event /tasks/delete {what}: containerd at {address} did not take it",
        f"dropped event /tasks/late {what}: the publisher has been closed",
    ]


def test_a_publisher_that_was_never_started_names_what_it_could_not_send(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        events = Publisher(address, "ns")
        _publish(events, "/a/1")
        await events.close(5)

    _run(test)
    assert len(_dropped(caplog)) == 1


def test_a_full_queue_drops_what_matters_least_and_newest_and_says_so(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "QUEUE_LIMIT", 4)

    async def test() -> None:
        events = Publisher(address, "ns")
        _publish(events, "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/paused")
        _publish(events, "/tasks/resumed")  # is dropped itself
        _publish(events, "/tasks/delete")  # in the place of paused
        _publish(events, "/tasks/exit")  # in the place of start
        _publish(events, "/tasks/delete")  # is dropped: create is the head
        events.start()
        async with _Containerd(address) as containerd:
            await events.close(5)
            assert containerd.topics == ["/tasks/create", "/tasks/exit", "/tasks/delete", "/tasks/exit"]

    _run(test)
    assert _dropped(caplog) == [
        f"dropped event /tasks/{name} (containerd.events.TaskOOM): 4 events wait for containerd already"
        for name in ("resumed", "paused", "start", "delete")
    ]


def test_without_an_address_events_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, publisher.__name__)

    async def test() -> None:
        events = Publisher("", "ns")
        events.start()
        _publish(events, "/tasks/exit")
        assert await events.flush(0)
        await events.close(0)

    _run(test)
    assert [record.getMessage() for record in caplog.records] == [
        "event /tasks/exit: containerd.events.TaskOOM, 3 bytes"
    ]


def test_an_address_that_cannot_be_one_is_told_at_once() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="is not the address of a unix socket"):
        Publisher("tcp://127.0.0.1:1", "ns")


def test_a_bug_in_the_delivery_is_told_loudly(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Publisher, "_forward", broken)

    async def test() -> None:
        events = Publisher(address, "ns")
        events.start()
        _publish(events, "/a/1")
        await asyncio.sleep(0.02)
        await events.close(0.02)

    _run(test)
    assert "the delivery of events has ended: containerd will hear of none" in caplog.text
