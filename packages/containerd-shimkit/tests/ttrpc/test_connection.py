"""The sans-io core: what each frame means, and that no bytes of a peer end a connection."""

from __future__ import annotations

import pytest
from containerd_shimkit.errors import InvalidArgumentError, ResourceExhaustedError
from containerd_shimkit.ttrpc import (
    MAX_DATA_SIZE,
    Code,
    Connection,
    Event,
    Flag,
    Frame,
    FrameDecoder,
    FrameType,
    Refused,
    Request,
    RequestReceived,
    ResponseReceived,
    Role,
    Status,
    encode_frame,
)
from containerd_shimkit.ttrpc.envelope import decode_response, encode_request, encode_response
from hypothesis import given, settings
from hypothesis import strategies as st

CONNECT = bytes.fromhex("00000028 00000001 01 00") + b"\x0a\x17containerd.task.v2.Task\x12\x07Connect\x1a\x04\x0a\x02c1"
CONNECTED = bytes.fromhex("00000008 00000001 02 00 1206 08d209 10d309")
CALL = encode_request(Request("s", "m", b"p"))


def _server() -> Connection:
    return Connection(Role.SERVER)


def _request(stream_id: int, flags: int = 0, data: bytes = CALL) -> bytes:
    return encode_frame(Frame(stream_id, FrameType.REQUEST, data, flags))


def _oversize(stream_id: int, kind: int = FrameType.REQUEST) -> bytes:
    size = MAX_DATA_SIZE + 1
    return size.to_bytes(4, "big") + stream_id.to_bytes(4, "big") + bytes((kind, 0)) + bytes(size)


def _refusal(events: list[Event]) -> tuple[int, Code, str]:
    """The one event's refusal, after checking that its reply says the same to the peer."""
    (event,) = events
    assert isinstance(event, Refused)
    (frame,) = FrameDecoder().feed(event.reply)
    assert isinstance(frame, Frame)
    assert (frame.stream_id, frame.type, frame.flags) == (event.stream_id, FrameType.RESPONSE, 0)
    assert decode_response(frame.data) == event.status
    return event.stream_id, event.status.code, event.status.message


def _still_serves(server: Connection, stream_id: int) -> bool:
    return server.receive_data(_request(stream_id)) == [RequestReceived(stream_id, Request("s", "m", b"p"))]


def test_a_connect_call_has_the_reference_bytes_both_ways() -> None:
    client, server = Connection(Role.CLIENT), _server()
    assert client.send_request("containerd.task.v2.Task", "Connect", b"\x0a\x02c1") == (1, CONNECT)
    (event,) = server.receive_data(CONNECT)
    assert event == RequestReceived(1, Request("containerd.task.v2.Task", "Connect", b"\x0a\x02c1"))
    assert server.send_response(1, bytes.fromhex("08d20910d309")) == CONNECTED
    assert client.receive_data(CONNECTED) == [ResponseReceived(1, bytes.fromhex("08d20910d309"))]


@settings(deadline=None)
@given(calls=st.lists(st.binary(max_size=20), min_size=1, max_size=6), data=st.data())
def test_two_connections_back_to_back_answer_in_any_order_and_any_cut(calls: list[bytes], data: st.DataObject) -> None:
    client, server = Connection(Role.CLIENT), _server()
    sent = {stream: (payload, wire) for payload in calls for stream, wire in [client.send_request("s", "m", payload)]}
    assert list(sent) == list(range(1, 2 * len(calls), 2))
    stream = b"".join(wire for _, wire in sent.values())
    cut = data.draw(st.integers(0, len(stream)))
    events = [*server.receive_data(stream[:cut]), *server.receive_data(stream[cut:])]
    assert [event.stream_id for event in events] == list(sent)
    order = data.draw(st.permutations(sorted(sent)))
    replies = b"".join(server.send_response(stream_id, sent[stream_id][0]) for stream_id in order)
    cut = data.draw(st.integers(0, len(replies)))
    answers = [*client.receive_data(replies[:cut]), *client.receive_data(replies[cut:])]
    assert answers == [ResponseReceived(stream_id, sent[stream_id][0]) for stream_id in order]


def test_deadline_and_metadata_arrive_with_the_call() -> None:
    client, server = Connection(Role.CLIENT), _server()
    _, wire = client.send_request("s", "m", b"", timeout_nano=-5, metadata={"traceparent": "00-1"})
    (event,) = server.receive_data(wire)
    assert event == RequestReceived(1, Request("s", "m", b"", -5, (("traceparent", "00-1"),)))


def test_a_failure_arrives_with_code_and_words() -> None:
    client, server = Connection(Role.CLIENT), _server()
    _, wire = client.send_request("s", "m", b"")
    server.receive_data(wire)
    reply = server.send_response(1, Status(Code.NOT_FOUND, "no task c1"))
    assert client.receive_data(reply) == [ResponseReceived(1, Status(Code.NOT_FOUND, "no task c1"))]


@pytest.mark.parametrize("cut", [0, 5, 10, 11, MAX_DATA_SIZE])
def test_a_request_that_is_too_long_is_answered_and_the_connection_goes_on(cut: int) -> None:
    server = _server()
    wire = _oversize(1)
    assert server.receive_data(wire[:cut]) == []
    stream_id, code, message = _refusal(server.receive_data(wire[cut:]))
    assert (stream_id, code) == (1, Code.RESOURCE_EXHAUSTED)
    assert message == "the request of 4194305 bytes is longer than ttrpc's limit of 4194304 bytes"
    assert _still_serves(server, 3)


@pytest.mark.parametrize(
    ("stream_id", "why"),
    [(2, "stream id 2 is even"), (5, "5 is not greater than 5"), (3, "3 is not greater than 5"), (0, "even")],
)
def test_a_bad_stream_id_is_refused_on_that_id(stream_id: int, why: str) -> None:
    server = _server()
    assert _still_serves(server, 5)
    refused, code, message = _refusal(server.receive_data(_request(stream_id)))
    assert (refused, code) == (stream_id, Code.INVALID_ARGUMENT)
    assert why in message
    assert _still_serves(server, 7)


def test_a_request_that_does_not_decode_is_refused() -> None:
    server = _server()
    stream_id, code, message = _refusal(server.receive_data(_request(1, data=b"\xff\xff")))
    assert (stream_id, code) == (1, Code.INVALID_ARGUMENT)
    assert message.startswith("the request cannot be decoded: ")
    assert _still_serves(server, 3)


@pytest.mark.parametrize("flags", [Flag.REMOTE_CLOSED, Flag.REMOTE_OPEN])
def test_a_stream_is_refused_once_and_its_data_ignored(flags: Flag) -> None:
    server = _server()
    stream_id, code, message = _refusal(server.receive_data(_request(1, flags)))
    assert (stream_id, code) == (1, Code.UNIMPLEMENTED)
    assert message == "s/m as a stream: this server answers unary calls only"
    assert server.receive_data(encode_frame(Frame(1, FrameType.DATA, b"x"))) == []
    assert server.receive_data(encode_frame(Frame(1, FrameType.DATA, b"", Flag.REMOTE_CLOSED | Flag.NO_DATA))) == []
    with pytest.raises(ValueError, match="no call is open on stream 1"):
        server.send_response(1, b"")
    assert _still_serves(server, 3)


def test_data_out_of_the_blue_is_refused() -> None:
    server = _server()
    stream_id, code, message = _refusal(server.receive_data(encode_frame(Frame(3, FrameType.DATA, b"x"))))
    assert (stream_id, code) == (3, Code.INVALID_ARGUMENT)
    assert message == "data on stream 3, on which there was no request"
    assert _still_serves(server, 3)


@pytest.mark.parametrize("kind", [0, FrameType.RESPONSE, 4, 255])
def test_a_server_ignores_frames_of_other_types(kind: int) -> None:
    server = _server()
    assert server.receive_data(encode_frame(Frame(1, kind, b"x"))) == []
    assert _still_serves(server, 1)


def test_a_call_is_answered_once() -> None:
    server = _server()
    server.receive_data(_request(1))
    server.send_response(1, b"")
    with pytest.raises(ValueError, match="no call is open on stream 1"):
        server.send_response(1, b"")


def test_a_response_that_is_too_long_becomes_an_error() -> None:
    client, server = Connection(Role.CLIENT), _server()
    _, wire = client.send_request("s", "m", b"")
    server.receive_data(wire)
    (event,) = client.receive_data(server.send_response(1, bytes(MAX_DATA_SIZE)))
    assert isinstance(event, ResponseReceived)
    assert isinstance(event.answer, Status)
    assert event.answer.code is Code.RESOURCE_EXHAUSTED
    assert event.answer.message.startswith("the response of 41943")


def test_a_request_that_is_too_long_is_not_sent_and_costs_no_stream_id() -> None:
    client = Connection(Role.CLIENT)
    with pytest.raises(ResourceExhaustedError, match="longer than ttrpc's limit"):
        client.send_request("s", "m", bytes(MAX_DATA_SIZE))
    assert client.send_request("s", "m", b"")[0] == 1


def test_a_name_that_is_no_text_is_not_sent() -> None:
    client = Connection(Role.CLIENT)
    with pytest.raises(InvalidArgumentError, match="cannot be sent as text"):
        client.send_request("s", "m", b"", metadata={"k": "\udcff"})
    assert client.send_request("s", "m", b"")[0] == 1


def test_a_connection_whose_stream_ids_are_used_up_says_so() -> None:
    client = Connection(Role.CLIENT)
    client._last_id = 2**32 - 3
    assert client.send_request("s", "m", b"")[0] == 2**32 - 1
    with pytest.raises(ResourceExhaustedError, match="connect anew"):
        client.send_request("s", "m", b"")


def test_answers_to_calls_that_were_given_up_are_ignored() -> None:
    client = Connection(Role.CLIENT)
    client.send_request("s", "m", b"")
    client.forget(1)
    reply = encode_frame(Frame(1, FrameType.RESPONSE, encode_response(b"late")))
    assert client.receive_data(reply) == []
    assert client.receive_data(_oversize(1)) == []
    stream_id, _ = client.send_request("s", "m", b"")
    reply = encode_frame(Frame(stream_id, FrameType.RESPONSE, encode_response(b"now")))
    assert client.receive_data(reply + reply) == [ResponseReceived(3, b"now")]


@pytest.mark.parametrize(
    ("wire", "code", "why"),
    [
        (_oversize(1, FrameType.RESPONSE), Code.RESOURCE_EXHAUSTED, "the response of 4194305 bytes"),
        (encode_frame(Frame(1, FrameType.RESPONSE, b"\xff")), Code.INTERNAL, "cannot be decoded"),
        (encode_frame(Frame(1, FrameType.DATA, b"x")), Code.UNIMPLEMENTED, "answered with a stream"),
        (encode_frame(Frame(1, 77, b"x")), Code.INTERNAL, "a frame of type 77"),
        (encode_frame(Frame(1, FrameType.REQUEST, b"x")), Code.INTERNAL, "a frame of type 1"),
    ],
)
def test_an_answer_that_makes_no_sense_fails_its_call_only(wire: bytes, code: Code, why: str) -> None:
    client = Connection(Role.CLIENT)
    client.send_request("s", "m", b"")
    client.send_request("s", "m", b"")
    (event,) = client.receive_data(wire)
    assert isinstance(event, ResponseReceived)
    assert isinstance(event.answer, Status)
    assert event.answer.code is code
    assert why in event.answer.message
    good = encode_frame(Frame(3, FrameType.RESPONSE, encode_response(b"fine")))
    assert client.receive_data(good) == [ResponseReceived(3, b"fine")]


def test_each_role_keeps_to_its_own_side() -> None:
    with pytest.raises(ValueError, match="only the client of a connection does that"):
        _server().send_request("s", "m", b"")
    with pytest.raises(ValueError, match="only the client of a connection does that"):
        _server().forget(1)
    with pytest.raises(ValueError, match="only the server of a connection does that"):
        Connection(Role.CLIENT).send_response(1, b"")


FRAMES = st.builds(
    Frame,
    stream_id=st.integers(0, 9),
    type=st.integers(0, 4),
    data=st.binary(max_size=20) | st.just(CALL),
    flags=st.integers(0, 7),
)


@settings(deadline=None)
@given(frames=st.lists(FRAMES, max_size=12), garbage=st.binary(max_size=30))
def test_a_server_survives_any_frames_and_never_opens_a_stream_twice(frames: list[Frame], garbage: bytes) -> None:
    server = _server()
    events = server.receive_data(b"".join(map(encode_frame, frames)))
    opened = [event.stream_id for event in events if isinstance(event, RequestReceived)]
    assert opened == sorted(set(opened))
    for stream_id in opened:
        server.send_response(stream_id, b"")
    server.receive_data(garbage)


@settings(deadline=None)
@given(frames=st.lists(FRAMES, max_size=12), garbage=st.binary(max_size=30))
def test_a_client_survives_any_frames_and_ends_each_call_once(frames: list[Frame], garbage: bytes) -> None:
    client = Connection(Role.CLIENT)
    for _ in range(3):
        client.send_request("s", "m", b"")
    ended = [event.stream_id for event in client.receive_data(b"".join(map(encode_frame, frames)))]
    assert len(ended) == len(set(ended))
    assert set(ended) <= {1, 3, 5}
    client.receive_data(garbage)
