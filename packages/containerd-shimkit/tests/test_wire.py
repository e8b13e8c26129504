"""The hand-written wire format against the real protobuf runtime."""

from __future__ import annotations

import pytest
from containerd_shimkit.proto import runc_options_pb2, task_pb2
from containerd_shimkit.wire import (
    WireError,
    bytes_field,
    decode_fields,
    decode_varint,
    encode_varint,
    text_of,
    varint_field,
)
from google.protobuf import any_pb2, timestamp_pb2
from google.protobuf.internal import decoder, encoder
from hypothesis import given, settings
from hypothesis import strategies as st

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_varints_are_protobufs(value: int) -> None:
    encoded = encode_varint(value)
    assert encoded == encoder._VarintBytes(value)  # type: ignore[attr-defined]
    assert decoder._DecodeVarint(encoded, 0) == (value, len(encoded))  # type: ignore[attr-defined]
    assert decode_varint(encoded, 0) == (value, len(encoded))


@settings(deadline=None)
@given(INT64)
def test_a_negative_int64_becomes_ten_bytes_as_protobuf_wants(value: int) -> None:
    expected = timestamp_pb2.Timestamp(seconds=value).SerializeToString()
    assert varint_field(1, value) == expected
    assert value >= 0 or len(expected) == 11


@settings(deadline=None)
@given(id=TEXT, exec_id=TEXT, signal=UINT32, all_of_them=st.booleans())
def test_fields_are_encoded_as_protobuf_does(id: str, exec_id: str, signal: int, all_of_them: bool) -> None:  # noqa: A002
    encoded = bytes_field(1, id) + bytes_field(2, exec_id) + varint_field(3, signal) + varint_field(4, int(all_of_them))
    expected = task_pb2.KillRequest(id=id, exec_id=exec_id, signal=signal, all=all_of_them)
    assert encoded == expected.SerializeToString()


@settings(deadline=None)
@given(pid=UINT32, status=UINT32, seconds=INT64, nanos=st.integers(0, 999_999_999))
def test_what_protobuf_encodes_is_decoded(pid: int, status: int, seconds: int, nanos: int) -> None:
    exited_at = timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)
    message = task_pb2.DeleteResponse(pid=pid, exit_status=status, exited_at=exited_at)
    fields = dict(decode_fields(message.SerializeToString()))
    assert fields.get(1, 0) == pid
    assert fields.get(2, 0) == status
    assert fields[3] == exited_at.SerializeToString()
    inner = dict(decode_fields(exited_at.SerializeToString()))
    assert inner.get(1, 0) == seconds % 2**64


def test_empty_values_are_left_out_unless_they_are_asked_for() -> None:
    assert (varint_field(1, 0), bytes_field(1, b""), bytes_field(1, "")) == (b"", b"", b"")
    kept = bytes_field(6, b"", keep_empty=True)
    assert kept == runc_options_pb2.CheckpointOptions(empty_namespaces=[""]).SerializeToString()


def test_fixed_width_fields_become_numbers() -> None:
    assert list(decode_fields(b"\x0d\x01\x02\x00\x00\x11\x01\x00\x00\x00\x00\x00\x00\x80")) == [
        (1, 0x201),
        (2, 0x8000000000000001),
    ]


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_do_more_than_raise_a_wire_error(data: bytes) -> None:
    try:
        fields = list(decode_fields(data))
    except WireError:
        return
    assert all(number > 0 for number, _ in fields)


@settings(deadline=None)
@given(type_url=TEXT, value=st.binary(min_size=1, max_size=40), data=st.data())
def test_a_message_that_is_cut_short_never_passes_for_the_whole(
    type_url: str, value: bytes, data: st.DataObject
) -> None:
    encoded = any_pb2.Any(type_url=type_url, value=value).SerializeToString()
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    try:
        fields = list(decode_fields(cut))
    except WireError:
        return
    assert (2, value) not in fields


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x00\x01", "field number 0"),
        (b"\x0b", "wire type 3 of field 1 is not supported"),
        (b"\x0f", "wire type 7 of field 1 is not supported"),
        (b"\x08", "a varint is cut short"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "longer than ten bytes"),
        (b"\x0a\x05abc", "field 1 of 5 bytes is cut short"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "is cut short"),
        (b"\x09\x01", "field 1 of 8 bytes is cut short"),
    ],
)
def test_malformed_bytes_are_named(data: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        list(decode_fields(data))


def test_text_is_utf8_or_refused() -> None:
    assert text_of("grüezi".encode()) == "grüezi"
    with pytest.raises(WireError, match="not UTF-8"):
        text_of(b"\xff")
    with pytest.raises(WireError, match="a number stands where a string belongs"):
        text_of(7)
