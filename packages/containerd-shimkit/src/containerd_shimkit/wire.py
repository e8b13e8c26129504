"""Protobuf's wire format for the few messages that must not cost the import of a protobuf runtime.

`start` and `delete` stand in every container's way and send or read one small message each; the ttrpc envelope is
three fields deep. Everything else uses the generated classes in `proto`.
Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["WireError", "bytes_field", "decode_fields", "decode_varint", "encode_varint", "text_of", "varint_field"]

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_MASK64: Final = (1 << 64) - 1


class WireError(ValueError):
    """The bytes are not a protobuf message."""


def encode_varint(value: int) -> bytes:
    """Encode *value*, modulo 2^64, so that a negative int64 comes out as protobuf wants it (ten bytes)."""
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Read one varint at *offset*; gives (value below 2^64, offset behind it). Raises: WireError."""
    result = shift = 0
    while True:
        if offset >= len(data) or shift > 63:
            raise WireError("a varint is cut short or longer than ten bytes")
        byte = data[offset]
        offset += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & _MASK64, offset
        shift += 7


def varint_field(number: int, value: int) -> bytes:
    """One integer field; nothing at all for 0, which is what absence means in proto3."""
    return encode_varint(number << 3 | _VARINT) + encode_varint(value) if value else b""


def bytes_field(number: int, value: bytes | str, *, keep_empty: bool = False) -> bytes:
    """One string, bytes or message field; nothing when empty, unless *keep_empty* (repeated fields, empty messages)."""
    data = value.encode() if isinstance(value, str) else value
    return encode_varint(number << 3 | _LENGTH) + encode_varint(len(data)) + data if data or keep_empty else b""


def decode_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Read a message's fields in order as (number, value): int for varint and fixed ones, bytes for the rest.

    Raises: WireError for anything that is not whole: cut short, field number 0, a group.
    """
    offset = 0
    while offset < len(data):
        key, offset = decode_varint(data, offset)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("field number 0")
        if kind == _VARINT:
            value, offset = decode_varint(data, offset)
            yield number, value
            continue
        if kind == _LENGTH:
            size, offset = decode_varint(data, offset)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise WireError(f"wire type {kind} of field {number} is not supported")
        if offset + size > len(data):
            raise WireError(f"field {number} of {size} bytes is cut short")
        chunk = data[offset : offset + size]
        offset += size
        yield number, chunk if kind == _LENGTH else int.from_bytes(chunk, "little")


def text_of(value: int | bytes) -> str:
    """A field's value as text. Raises: WireError when it is no UTF-8 string."""
    if isinstance(value, int):
        raise WireError("a number stands where a string belongs")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WireError("a string is not UTF-8") from error
