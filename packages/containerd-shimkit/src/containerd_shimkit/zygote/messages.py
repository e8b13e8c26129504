"""What a caller and a zygote say to each other, as values and as bytes: no sockets here.

A request is a command as containerd gave it: words, environment; two descriptors come with it, of the current directory
and of standard input. The answer is one byte as soon as the zygote has taken it, and in the end what the command would
have printed, and its exit status. Both sides bound every length before they believe it; numbers are little-endian.

    request   "SKZ1" u32 length of body, u32 words, u32 variables; then each, ended by a NUL
    accepted  "A"
    committed "C", before standard input is read: from here on nobody else can carry the request out
    reply     "SKR1" u32 exit status, u32 length of stdout, u32 length of stderr; then both
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError

__all__ = [
    "ACCEPTED",
    "COMMITTED",
    "DESCRIPTORS",
    "HEADER_SIZE",
    "MAX_BODY",
    "Reply",
    "Request",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
    "request_size",
]

ACCEPTED: Final = b"A"
COMMITTED: Final = b"C"  # between the two: standard input is being read, so nobody else can do it any more
DESCRIPTORS: Final = 2  # current directory, standard input
HEADER_SIZE: Final = 16
MAX_BODY: Final = 1 << 20
MAX_WORDS: Final = 64
MAX_VARIABLES: Final = 4096

_HEADER: Final = struct.Struct("<4s3I")
_REQUEST: Final = b"SKZ1"
_REPLY: Final = b"SKR1"


@dataclass(frozen=True, slots=True)
class Request:
    """A command line, the program's name first, and its environment."""

    words: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """How a command ended, 0 to 255, and what it has for its standard output and standard error."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""


def encode_request(words: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """A request's bytes. Raises: ResourceExhaustedError beyond the bounds; InvalidArgumentError for a NUL."""
    texts = [*words, *(f"{name}={value}" for name, value in environment.items())]
    if any("\0" in text for text in texts):
        raise InvalidArgumentError("a NUL character in the command line or the environment")
    body = b"".join(os.fsencode(text) + b"\0" for text in texts)
    header = _HEADER.pack(_REQUEST, len(body), len(words), len(environment))
    request_size(header)  # the same bounds for both sides
    return header + body


def request_size(header: bytes) -> int:
    """The length of the request that begins with *header*. Raises: InvalidArgumentError, ResourceExhaustedError."""
    magic, length, words, variables = _HEADER.unpack_from(header)
    if magic != _REQUEST:
        raise InvalidArgumentError(f"a request begins with {magic!r}, not with {_REQUEST!r}: of another version?")
    for what, value, limit in (
        ("bytes", length, MAX_BODY),
        ("words", words, MAX_WORDS),
        ("environment variables", variables, MAX_VARIABLES),
    ):
        if value > limit:
            raise ResourceExhaustedError(f"a request has {value} {what}; a zygote takes {limit}")
    return HEADER_SIZE + int(length)


def decode_request(data: bytes) -> Request:
    """A whole request, as `request_size` has it. Raises: InvalidArgumentError, ResourceExhaustedError."""
    if len(data) < HEADER_SIZE or len(data) != request_size(data):
        raise InvalidArgumentError(f"a request of {len(data)} bytes is not as long as it says")
    _magic, _length, words, variables = _HEADER.unpack_from(data)
    body = data[HEADER_SIZE:]
    texts = body.split(b"\0")
    if texts.pop() or len(texts) != words + variables or not words:
        raise InvalidArgumentError(
            f"a request of {len(texts)} texts where {words} words and {variables} variables belong"
        )
    pairs = [os.fsdecode(text).partition("=") for text in texts[words:]]
    # a variable without "=" or a name means nothing to anybody; of two of one name the first one counts, as in C
    environment = {name: value for name, equals, value in reversed(pairs) if name and equals}
    return Request(tuple(map(os.fsdecode, texts[:words])), environment)


def encode_reply(reply: Reply) -> bytes:
    """A reply's bytes; of what is longer than the bound, the end of stderr and then of stdout is left out."""
    stdout = reply.stdout[:MAX_BODY]
    stderr = reply.stderr[: MAX_BODY - len(stdout)]
    return _HEADER.pack(_REPLY, reply.status & 0xFF, len(stdout), len(stderr)) + stdout + stderr


def decode_reply(data: bytes) -> Reply | None:
    """The reply in *data*, all that came after "accepted"; None when there is none, and nothing has been lost.

    Raises: UnavailableError when the one who worked on it is gone with what it has read.
    """
    committed = data.startswith(COMMITTED)
    reply = _decode_reply(data[len(COMMITTED) :] if committed else data)
    if reply is None and committed:
        raise UnavailableError("the process that carried this out was killed in the middle of it; try again")
    return reply


def _decode_reply(data: bytes) -> Reply | None:
    if len(data) < HEADER_SIZE:
        return None
    magic, status, stdout, stderr = _HEADER.unpack_from(data)
    if magic != _REPLY or status > 0xFF or stdout + stderr > MAX_BODY or len(data) != HEADER_SIZE + stdout + stderr:
        return None
    return Reply(status, data[HEADER_SIZE : HEADER_SIZE + stdout], data[HEADER_SIZE + stdout :])
