"""The messages that ttrpc itself sends around a payload: Request and Response, by hand.

They are three fields deep, and whoever calls one method of a shim should not have to import a protobuf runtime for it.

    Request   service=1 method=2 payload=3 timeout_nano=4 (int64) metadata=5 (repeated: key=1 value=2)
    Response  status=1 (code=1 message=2) payload=2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..wire import WireError, bytes_field, decode_fields, text_of, varint_field
from .status import Code, Status

__all__ = ["Request", "decode_request", "decode_response", "encode_request", "encode_response"]

_MAX_STATUS_MESSAGE: Final = 64 << 10  # an error's text must never be what makes its frame too long


@dataclass(frozen=True, slots=True)
class Request:
    """One call. *timeout_nano* is relative: 0 is no deadline, a negative one has passed. Keys may come repeatedly."""

    service: str
    method: str
    payload: bytes = b""
    timeout_nano: int = 0
    metadata: tuple[tuple[str, str], ...] = ()


def encode_request(request: Request) -> bytes:
    """The bytes of *request*. Raises: UnicodeEncodeError for a lone surrogate in a name."""
    pairs = (bytes_field(1, key) + bytes_field(2, value) for key, value in request.metadata)
    return b"".join(
        (
            bytes_field(1, request.service),
            bytes_field(2, request.method),
            bytes_field(3, request.payload),
            varint_field(4, request.timeout_nano),
            *(bytes_field(5, pair, keep_empty=True) for pair in pairs),
        )
    )


def decode_request(data: bytes) -> Request:
    """Read a request; unknown fields are skipped. Raises: WireError for what is not one."""
    service = method = ""
    payload, timeout_nano = b"", 0
    metadata: list[tuple[str, str]] = []
    for number, value in decode_fields(data):
        if number == 1:
            service = text_of(value)
        elif number == 2:
            method = text_of(value)
        elif number == 3:
            payload = _bytes_of(value)
        elif number == 4:
            timeout_nano = _signed(value, 64)
        elif number == 5:
            metadata.append(_decode_pair(_bytes_of(value)))
    return Request(service, method, payload, timeout_nano, tuple(metadata))


def encode_response(answer: bytes | Status) -> bytes:
    """A success with its payload, or a failure: which carries no payload, for Go would read that first."""
    if isinstance(answer, bytes):
        return bytes_field(2, answer)
    return bytes_field(1, varint_field(1, answer.code) + bytes_field(2, _bounded(answer.message)), keep_empty=True)


def decode_response(data: bytes) -> bytes | Status:
    """Read a response: its payload, or how the call failed. Raises: WireError for what is not one."""
    status: Status | None = None
    payload = b""
    for number, value in decode_fields(data):
        if number == 1:
            status = _decode_status(_bytes_of(value))
        elif number == 2:
            payload = _bytes_of(value)
    return payload if status is None or status.code is Code.OK else status


def _decode_pair(data: bytes) -> tuple[str, str]:
    key = value = ""
    for number, field in decode_fields(data):
        if number == 1:
            key = text_of(field)
        elif number == 2:
            value = text_of(field)
    return key, value


def _decode_status(data: bytes) -> Status:
    code, message = 0, ""
    for number, value in decode_fields(data):
        if number == 1:
            code = _signed(value, 32)
        elif number == 2:
            message = text_of(value)
    try:
        return Status(Code(code), message)
    except ValueError:
        return Status(Code.UNKNOWN, f"{message} (status code {code}, which is not one of gRPC's)")


def _bytes_of(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise WireError(f"the number {value} stands where bytes belong")
    return value


def _signed(value: int | bytes, bits: int) -> int:
    """Protobuf's reading of a varint as int32 or int64: the low bits, in two's complement."""
    if isinstance(value, bytes):
        raise WireError(f"{len(value)} bytes stand where a number belongs")
    low = value & ((1 << bits) - 1)
    return low - (1 << bits) if low >> (bits - 1) else low


def _bounded(message: str) -> bytes:
    """*message* as UTF-8 whatever it holds (paths may hold undecodable bytes), cut between two characters."""
    encoded = message.encode(errors="backslashreplace")
    if len(encoded) <= _MAX_STATUS_MESSAGE:
        return encoded
    return encoded[:_MAX_STATUS_MESSAGE].decode(errors="ignore").encode() + b"..."
