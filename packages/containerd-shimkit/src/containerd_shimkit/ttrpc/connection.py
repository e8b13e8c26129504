"""One ttrpc connection without its socket: which streams are open, and what each frame means for them.

The core of both roles. It never waits, logs or reads a clock, and no bytes of a peer make it raise: what cannot be
understood is answered or ignored, and the connection goes on, because containerd takes the loss of a connection for the
death of the shim.

Only unary calls are served, which is all that containerd's shim APIs use: a stream is one request and one response.
A call that asks for more is refused on its own stream id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ..errors import InvalidArgumentError, ResourceExhaustedError
from ..wire import WireError
from .envelope import Request, decode_request, decode_response, encode_request, encode_response
from .frames import MAX_DATA_SIZE, Flag, Frame, FrameDecoder, FrameType, OversizeFrame, encode_frame
from .status import Code, Status

__all__ = ["Connection", "Event", "Refused", "RequestReceived", "ResponseReceived", "Role"]

_MAX_STREAM_ID: Final = (1 << 32) - 1


class Role(Enum):
    """Which side of a connection this is."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """To a server: a call, to be answered by `Connection.send_response` with this stream id, once."""

    stream_id: int
    request: Request


@dataclass(frozen=True, slots=True)
class Refused:
    """To a server: something that is no lawful call. *reply* is to be written; nothing else remains to be done."""

    stream_id: int
    status: Status
    reply: bytes


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """To a client: the end of a call, by its payload or by how it failed."""

    stream_id: int
    answer: bytes | Status


Event = RequestReceived | Refused | ResponseReceived


class Connection:
    """The state of one connection. What the `send_` methods give must be written in the order of the calls."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self._decoder = FrameDecoder()
        self._streams: set[int] = set()
        self._last_id = 0 if role is Role.SERVER else -1  # the greatest stream id seen, or used

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the peer, cut anyhow; gives what they say, in order. Never raises."""
        receive = self._receive_as_server if self.role is Role.SERVER else self._receive_as_client
        return [event for frame in self._decoder.feed(data) if (event := receive(frame)) is not None]

    def send_request(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout_nano: int = 0,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Begin a call; gives its stream id and the bytes to write.

        Raises: ResourceExhaustedError when the request is too long, or no stream id is left; InvalidArgumentError when
        a name is no text. Nothing is to be written then, and the connection goes on.
        """
        self._require(Role.CLIENT)
        stream_id = self._last_id + 2
        if stream_id > _MAX_STREAM_ID:
            raise ResourceExhaustedError("every stream id of this ttrpc connection has been used: connect anew")
        request = Request(service, method, payload, timeout_nano, tuple((metadata or {}).items()))
        data = encode_frame(Frame(stream_id, FrameType.REQUEST, _encode_request(request)))
        self._last_id = stream_id
        self._streams.add(stream_id)
        return stream_id, data

    def forget(self, stream_id: int) -> None:
        """Give a call up: its response, if one still comes, will be ignored. ttrpc has no way to tell the server."""
        self._require(Role.CLIENT)
        self._streams.discard(stream_id)

    def send_response(self, stream_id: int, answer: bytes | Status) -> bytes:
        """End a call; gives the bytes to write. A payload that is too long goes out as an error instead.

        Raises: ValueError when no call of that id is open.
        """
        self._require(Role.SERVER)
        if stream_id not in self._streams:
            raise ValueError(f"no call is open on stream {stream_id}, or it has been answered")
        self._streams.remove(stream_id)
        return _encode_answer(stream_id, answer)

    def _require(self, role: Role) -> None:
        if self.role is not role:
            raise ValueError(f"only the {role.value} of a connection does that, and this is its {self.role.value}")

    def _receive_as_server(self, frame: Frame | OversizeFrame) -> Event | None:
        if isinstance(frame, OversizeFrame):
            return _refuse(frame.stream_id, _too_long("request", frame.size))
        if frame.type == FrameType.REQUEST:
            return self._receive_request(frame)
        if frame.type == FrameType.DATA and frame.stream_id > self._last_id:
            message = f"data on stream {frame.stream_id}, on which there was no request"
            return _refuse(frame.stream_id, Status(Code.INVALID_ARGUMENT, message))
        # Data that belongs to a refused stream follows it in good faith, and its call has had its answer.
        return None

    def _receive_request(self, frame: Frame) -> Event:
        if (why := self._why_bad_id(frame.stream_id)) is not None:
            return _refuse(frame.stream_id, Status(Code.INVALID_ARGUMENT, why))
        self._last_id = frame.stream_id
        try:
            request = decode_request(frame.data)
        except WireError as error:
            return _refuse(frame.stream_id, Status(Code.INVALID_ARGUMENT, f"the request cannot be decoded: {error}"))
        if frame.flags & (Flag.REMOTE_CLOSED | Flag.REMOTE_OPEN):
            message = f"{request.service}/{request.method} as a stream: this server answers unary calls only"
            return _refuse(frame.stream_id, Status(Code.UNIMPLEMENTED, message))
        self._streams.add(frame.stream_id)
        return RequestReceived(frame.stream_id, request)

    def _why_bad_id(self, stream_id: int) -> str | None:
        if stream_id % 2 == 0:
            return f"stream id {stream_id} is even: a client's are odd"
        if stream_id <= self._last_id:
            return f"stream id {stream_id} is not greater than {self._last_id}, which came before it"
        return None

    def _receive_as_client(self, frame: Frame | OversizeFrame) -> Event | None:
        if frame.stream_id not in self._streams:
            return None  # the answer to a call that was given up
        self._streams.remove(frame.stream_id)
        return ResponseReceived(frame.stream_id, _answer_in(frame))


def _answer_in(frame: Frame | OversizeFrame) -> bytes | Status:
    """What a frame on a call's stream says to the caller, be it what it should or not."""
    if isinstance(frame, OversizeFrame):
        return _too_long("response", frame.size)
    if frame.type == FrameType.DATA:
        return Status(Code.UNIMPLEMENTED, "the server answered with a stream: this client makes unary calls only")
    if frame.type != FrameType.RESPONSE:
        return Status(Code.INTERNAL, f"the server answered with a frame of type {frame.type}, which is no response")
    try:
        return decode_response(frame.data)
    except WireError as error:
        return Status(Code.INTERNAL, f"the response cannot be decoded: {error}")


def _refuse(stream_id: int, status: Status) -> Refused:
    return Refused(stream_id, status, _encode_answer(stream_id, status))


def _encode_answer(stream_id: int, answer: bytes | Status) -> bytes:
    data = encode_response(answer)
    if len(data) > MAX_DATA_SIZE:
        data = encode_response(_too_long("response", len(data)))
    return encode_frame(Frame(stream_id, FrameType.RESPONSE, data))


def _encode_request(request: Request) -> bytes:
    try:
        return encode_request(request)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{error.object!r} cannot be sent as text: {error.reason}") from error


def _too_long(what: str, size: int) -> Status:
    limit = f"ttrpc's limit of {MAX_DATA_SIZE} bytes"
    return Status(Code.RESOURCE_EXHAUSTED, f"the {what} of {size} bytes is longer than {limit}")
