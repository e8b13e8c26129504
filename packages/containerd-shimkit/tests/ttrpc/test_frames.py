"""ttrpc's frames: any cut of the bytes, any garbage, frames that are too long."""

from __future__ import annotations

import pytest
from containerd_shimkit.errors import ResourceExhaustedError
from containerd_shimkit.ttrpc import MAX_DATA_SIZE, Flag, Frame, FrameDecoder, FrameType, OversizeFrame, encode_frame
from containerd_shimkit.ttrpc.frames import HEADER_SIZE
from hypothesis import given, settings
from hypothesis import strategies as st

FRAMES = st.builds(
    Frame,
    stream_id=st.integers(0, 2**32 - 1),
    type=st.integers(0, 255),
    data=st.binary(max_size=50),
    flags=st.integers(0, 255),
)


def _cut(whole: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def _decode(pieces: list[bytes]) -> list[Frame | OversizeFrame]:
    decoder = FrameDecoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def _oversize(stream_id: int, size: int) -> bytes:
    return size.to_bytes(4, "big") + stream_id.to_bytes(4, "big") + bytes((FrameType.REQUEST, 0))


def test_a_header_has_ten_big_endian_bytes() -> None:
    frame = Frame(0x01020304, FrameType.DATA, b"abc", Flag.REMOTE_CLOSED | Flag.NO_DATA)
    assert encode_frame(frame) == bytes.fromhex("00000003 01020304 03 05") + b"abc"


@settings(deadline=None)
@given(sent=st.lists(FRAMES, max_size=5), data=st.data())
def test_decoding_ignores_how_the_stream_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    assert _decode(_cut(b"".join(map(encode_frame, sent)), data)) == sent


def test_a_frame_is_given_as_soon_as_its_last_byte_is_there() -> None:
    decoder = FrameDecoder()
    sent = Frame(1, FrameType.REQUEST, b"abc")
    *most, last = (bytes((byte,)) for byte in encode_frame(sent))
    assert [frame for byte in most for frame in decoder.feed(byte)] == []
    assert decoder.feed(last) == [sent]


def test_a_frame_of_exactly_the_limit_passes_both_ways() -> None:
    sent = Frame(1, FrameType.REQUEST, bytes(MAX_DATA_SIZE))
    assert _decode([encode_frame(sent)]) == [sent]


def test_a_frame_beyond_the_limit_is_not_sent() -> None:
    with pytest.raises(ResourceExhaustedError, match="of 4194305 bytes is longer than ttrpc's limit of 4194304 bytes"):
        encode_frame(Frame(1, FrameType.REQUEST, bytes(MAX_DATA_SIZE + 1)))


@settings(deadline=None, max_examples=25)
@given(
    before=st.lists(FRAMES, max_size=2),
    after=st.lists(FRAMES, max_size=2),
    extra=st.integers(1, 70_000),
    data=st.data(),
)
def test_a_frame_that_is_too_long_is_skipped_exactly_wherever_it_stands(
    before: list[Frame], after: list[Frame], extra: int, data: st.DataObject
) -> None:
    size = MAX_DATA_SIZE + extra
    skipped = _oversize(9, size) + data.draw(st.binary(min_size=1, max_size=1)) * size
    stream = b"".join(map(encode_frame, before)) + skipped + b"".join(map(encode_frame, after))
    assert _decode(_cut(stream, data)) == [*before, OversizeFrame(9, FrameType.REQUEST, size), *after]


def test_nothing_of_a_frame_that_is_too_long_is_kept() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(_oversize(1, 2**32 - 1)) == []
    for _ in range(20):
        assert decoder.feed(bytes(1 << 20)) == []
    assert len(decoder._buffer) == 0


@settings(deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=8))
def test_any_garbage_only_ever_makes_frames(pieces: list[bytes]) -> None:
    frames = _decode(pieces)
    consumed = sum(HEADER_SIZE + (len(f.data) if isinstance(f, Frame) else f.size) for f in frames)
    assert consumed <= sum(map(len, pieces))
