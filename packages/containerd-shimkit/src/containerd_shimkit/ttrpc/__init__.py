"""ttrpc, containerd's small RPC: the core of both roles, without sockets and without a protobuf runtime."""

from __future__ import annotations

from .connection import Connection, Event, Refused, RequestReceived, ResponseReceived, Role
from .envelope import Request
from .frames import MAX_DATA_SIZE, Flag, Frame, FrameDecoder, FrameType, OversizeFrame, encode_frame
from .status import Code, Status, error_of, status_of

__all__ = [
    "MAX_DATA_SIZE",
    "Code",
    "Connection",
    "Event",
    "Flag",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "OversizeFrame",
    "Refused",
    "Request",
    "RequestReceived",
    "ResponseReceived",
    "Role",
    "Status",
    "encode_frame",
    "error_of",
    "status_of",
]
