"""ttrpc's frames: ten bytes of header, then data. Bytes in, frames out, and back.

    0        4           8      9       10
    | length | stream id | type | flags | data of that length...

All big endian; the length is the data's alone. Source: ttrpc's PROTOCOL.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from ..errors import ResourceExhaustedError

__all__ = [
    "HEADER_SIZE",
    "MAX_DATA_SIZE",
    "Flag",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "OversizeFrame",
    "encode_frame",
]

MAX_DATA_SIZE: Final = 4 << 20  # ttrpc's messageLengthMax; containerd refuses what is longer
_HEADER: Final = struct.Struct(">IIBB")
HEADER_SIZE: Final = _HEADER.size


class FrameType(IntEnum):
    """What a frame carries. Others may come from newer peers, and are ignored."""

    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(IntFlag):
    """What a frame says about its stream; no flag at all on the frames of a unary call."""

    REMOTE_CLOSED = 0x01  # the sender will send no more
    REMOTE_OPEN = 0x02  # the sender will send data frames
    NO_DATA = 0x04  # there is no message in this frame, not even an empty one


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it travels; *type* and *flags* are plain numbers because any may come."""

    stream_id: int
    type: int
    data: bytes = b""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class OversizeFrame:
    """A frame whose *size* bytes of data were too many and have been skipped; the stream goes on behind them."""

    stream_id: int
    type: int
    size: int


class FrameDecoder:
    """Cuts a byte stream into frames. Holds one frame's bytes at most, and nothing of one that is too long."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._oversize: OversizeFrame | None = None
        self._to_skip = 0

    def feed(self, data: bytes) -> list[Frame | OversizeFrame]:
        """Take the next bytes of the stream; gives the frames that they complete, in order."""
        self._buffer += data
        frames: list[Frame | OversizeFrame] = []
        while (frame := self._skip() if self._oversize else self._take()) is not None:
            frames.append(frame)
        return frames

    def _take(self) -> Frame | OversizeFrame | None:
        if len(self._buffer) < HEADER_SIZE:
            return None
        size, stream_id, kind, flags = _HEADER.unpack_from(self._buffer)
        if size > MAX_DATA_SIZE:
            del self._buffer[:HEADER_SIZE]
            self._oversize, self._to_skip = OversizeFrame(stream_id, kind, size), size
            return self._skip()
        if len(self._buffer) < (end := HEADER_SIZE + size):
            return None
        data = bytes(self._buffer[HEADER_SIZE:end])
        del self._buffer[:end]
        return Frame(stream_id, kind, data, flags)

    def _skip(self) -> OversizeFrame | None:
        skipped = min(self._to_skip, len(self._buffer))
        del self._buffer[:skipped]
        self._to_skip -= skipped
        if self._to_skip:
            return None
        whole, self._oversize = self._oversize, None
        return whole


def encode_frame(frame: Frame) -> bytes:
    """The bytes of *frame*. Raises: ResourceExhaustedError when its data is longer than a peer would take."""
    size = len(frame.data)
    if size > MAX_DATA_SIZE:
        raise ResourceExhaustedError(f"a message of {size} bytes is longer than ttrpc's limit of {MAX_DATA_SIZE} bytes")
    return _HEADER.pack(size, frame.stream_id, frame.type, frame.flags) + frame.data
