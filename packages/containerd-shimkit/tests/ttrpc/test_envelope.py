"""Request and Response by hand, against the reference's bytes and a protobuf runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from containerd_shimkit.ttrpc import Code, Request, Status
from containerd_shimkit.ttrpc.envelope import decode_request, decode_response, encode_request, encode_response
from containerd_shimkit.wire import WireError
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
REQUESTS = st.builds(
    Request,
    service=TEXT,
    method=TEXT,
    payload=st.binary(max_size=40),
    timeout_nano=st.integers(-(2**63), 2**63 - 1),
    metadata=st.lists(st.tuples(TEXT, TEXT), max_size=4).map(tuple),
)
STATUSES = st.builds(Status, code=st.sampled_from([code for code in Code if code]), message=TEXT)


def _message_class(name: str) -> type[message.Message]:
    """ttrpc's messages as a protobuf runtime knows them, in a pool of the test's own."""
    kinds = descriptor_pb2.FieldDescriptorProto
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="ttrpc.proto", package="ttrpc", syntax="proto3")
    pair = file.message_type.add(name="KeyValue")
    request = file.message_type.add(name="Request")
    one = kinds.LABEL_OPTIONAL
    for number, text in enumerate(("key", "value"), 1):
        pair.field.append(field(name=text, number=number, type=kinds.TYPE_STRING, label=one))
    request.field.extend(
        [
            field(name="service", number=1, type=kinds.TYPE_STRING, label=one),
            field(name="method", number=2, type=kinds.TYPE_STRING, label=one),
            field(name="payload", number=3, type=kinds.TYPE_BYTES, label=one),
            field(name="timeout_nano", number=4, type=kinds.TYPE_INT64, label=one),
            field(
                name="metadata",
                number=5,
                type=kinds.TYPE_MESSAGE,
                type_name=".ttrpc.KeyValue",
                label=kinds.LABEL_REPEATED,
            ),
        ]
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ttrpc.{name}"))


_PB_REQUEST = _message_class("Request")


@settings(deadline=None)
@given(REQUESTS)
def test_a_request_has_protobufs_bytes_and_comes_back(request: Request) -> None:
    metadata = [{"key": key, "value": value} for key, value in request.metadata]
    theirs = _PB_REQUEST(
        service=request.service,
        method=request.method,
        payload=request.payload,
        timeout_nano=request.timeout_nano,
        metadata=metadata,
    )
    assert encode_request(request) == theirs.SerializeToString()
    assert decode_request(theirs.SerializeToString()) == request


def test_the_reference_bytes_of_a_connect_call_are_understood() -> None:
    data = b"\x0a\x17containerd.task.v2.Task\x12\x07Connect\x1a\x04\x0a\x02c1"
    request = Request("containerd.task.v2.Task", "Connect", b"\x0a\x02c1")
    assert decode_request(data) == request
    assert encode_request(request) == data


def test_unknown_fields_are_skipped() -> None:
    assert decode_request(b"\x0a\x01s\x98\x06\x01\x12\x01m") == Request("s", "m")
    assert decode_response(b"\x1a\x01x\x12\x01p") == b"p"
    assert decode_response(b"\x0a\x07\x08\x05\x12\x01w\x1a\x00") == Status(Code.NOT_FOUND, "w")
    assert decode_request(b"\x2a\x09\x0a\x01k\x12\x01v\x1a\x01x").metadata == (("k", "v"),)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x08\x01",
        b"\x0a\x01\xff",
        b"\x18\x01",
        b"\x22\x01x",
        b"\x28\x01",
        b"\x2a\x02\x08\x01",
        b"\x2a\x01\x0a",
    ],
)
def test_bytes_that_are_no_request_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_request(data)


@pytest.mark.parametrize("data", [b"\xff", b"\x08\x01", b"\x10\x01", b"\x0a\x03\x0a\x01x", b"\x0a\x03\x12\x01\xff"])
def test_bytes_that_are_no_response_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_response(data)


@settings(deadline=None)
@given(data=st.binary(max_size=60), decode=st.sampled_from([decode_request, decode_response]))
def test_any_garbage_is_decoded_or_refused(data: bytes, decode: Callable[[bytes], object]) -> None:
    with contextlib.suppress(WireError):
        decode(data)


@settings(deadline=None)
@given(st.binary(max_size=40) | STATUSES)
def test_a_response_comes_back(answer: bytes | Status) -> None:
    assert decode_response(encode_response(answer)) == answer


def test_a_success_has_the_reference_bytes_and_no_status() -> None:
    payload = bytes.fromhex("08d20910d309")
    assert encode_response(payload) == b"\x12\x06" + payload
    assert encode_response(b"") == b""


def test_an_explicit_status_of_zero_is_a_success() -> None:
    assert decode_response(b"\x0a\x00\x12\x01p") == b"p"


@pytest.mark.parametrize(("data", "code"), [(b"\x08\x63", 99), (b"\x08" + b"\xff" * 9 + b"\x01", -1)])
def test_a_code_that_nobody_knows_is_unknown_and_told(data: bytes, code: int) -> None:
    answer = decode_response(b"\x0a" + bytes((len(data) + 3,)) + data + b"\x12\x01w")
    assert answer == Status(Code.UNKNOWN, f"w (status code {code}, which is not one of gRPC's)")


def test_an_errors_text_is_always_sendable() -> None:
    assert decode_response(encode_response(Status(Code.NOT_FOUND, "no /b\udcff"))) == Status(
        Code.NOT_FOUND, "no /b\\udcff"
    )


def test_an_errors_text_is_cut_between_two_characters() -> None:
    answer = decode_response(encode_response(Status(Code.UNKNOWN, "x" + "ü" * 40_000)))
    assert isinstance(answer, Status)
    assert answer.message == "x" + "ü" * 32_767 + "..."
