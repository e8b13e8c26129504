from __future__ import annotations

import asyncio
import os

import pytest
from containerd_shimkit import FailedPreconditionError, InternalError
from containerd_shimkit.container.channel import Channel


def test_messages_arrive_whole_with_their_descriptors() -> None:
    ours, theirs = Channel.pair()
    reader, writer = os.pipe()
    theirs.send({"kind": "question", "value": ["x" * 50_000]}, [writer])
    theirs.send({"kind": "second"})
    os.close(writer)
    message, (received,) = ours.receive()
    assert message == {"kind": "question", "value": ["x" * 50_000]}
    os.write(received, b"through")
    assert os.read(reader, 7) == b"through"
    assert not os.get_inheritable(received)
    assert ours.receive() == ({"kind": "second"}, [])
    for descriptor in (reader, received):
        os.close(descriptor)
    ours.close()
    theirs.close()


def test_the_end_of_the_other_side_is_a_message() -> None:
    ours, theirs = Channel.pair()
    theirs.close()
    assert ours.receive() == (None, [])
    with pytest.raises(BrokenPipeError):
        ours.send({"kind": "go"})
    ours.close()
    ours.close()
    assert ours.fileno() == -1


def test_a_message_that_is_too_long_is_refused() -> None:
    ours, theirs = Channel.pair()
    with pytest.raises(InternalError, match="too long"):
        ours.send({"kind": "x" * (1 << 18)})
    ours.close()
    theirs.close()


def test_waiting_for_a_message_can_be_given_up_and_taken_up_again() -> None:
    async def scenario() -> None:
        ours, theirs = Channel.pair()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ours.receive_async(), 0.01)
        waiting = asyncio.ensure_future(ours.receive_async())
        await asyncio.sleep(0)
        theirs.send({"kind": "ready"})
        assert await waiting == ({"kind": "ready"}, [])
        ours.close()
        theirs.close()

    asyncio.run(scenario())


def test_closing_an_end_wakes_who_waits_at_it_and_frees_its_number() -> None:
    async def scenario() -> None:
        ours, theirs = Channel.pair()
        waiting = asyncio.ensure_future(ours.receive_async())
        await asyncio.sleep(0)
        number = ours.fileno()
        ours.close()
        assert await waiting == (None, [])
        again, other = Channel.pair()
        assert again.fileno() == number
        waiting = asyncio.ensure_future(again.receive_async())
        await asyncio.sleep(0)
        other.send({"kind": "heard"})
        assert await waiting == ({"kind": "heard"}, [])
        for channel in (theirs, again, other):
            channel.close()

    asyncio.run(scenario())


def test_a_waiter_that_is_cancelled_leaves_a_closed_end_alone() -> None:
    async def scenario() -> None:
        ours, theirs = Channel.pair()
        waiting = asyncio.ensure_future(ours.receive_async())
        await asyncio.sleep(0)
        waiting.cancel()
        ours.close()
        await asyncio.gather(waiting, return_exceptions=True)
        theirs.close()

    asyncio.run(scenario())


def test_errors_cross_with_their_kind() -> None:
    init = pytest.importorskip("containerd_shimkit.container.init")
    message = init.error_message(FailedPreconditionError("not now"))
    error = init.error_from(message)
    assert (type(error), str(error)) == (FailedPreconditionError, "not now")
    assert str(init.error_from(init.error_message(ZeroDivisionError("x")))) == "ZeroDivisionError: x"
    assert type(init.error_from({"error": "os", "message": "m"})) is InternalError
