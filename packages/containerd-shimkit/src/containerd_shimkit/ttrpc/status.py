"""ttrpc's status codes, and the one table between them and exceptions.

Source: google.rpc.Code; containerd's errdefs, which maps these codes one to one.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .. import errors

__all__ = ["Code", "Status", "error_of", "status_of"]


class Code(IntEnum):
    """What became of a call, in gRPC's numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """How a call failed: `google.rpc.Status` without its details, which nobody in containerd sends."""

    code: Code
    message: str = ""


_CODES: Final[Mapping[type[BaseException], Code]] = {
    errors.AbortedError: Code.ABORTED,
    errors.AlreadyExistsError: Code.ALREADY_EXISTS,
    errors.DeadlineExceededError: Code.DEADLINE_EXCEEDED,
    errors.FailedPreconditionError: Code.FAILED_PRECONDITION,
    errors.InternalError: Code.INTERNAL,
    errors.InvalidArgumentError: Code.INVALID_ARGUMENT,
    errors.NotFoundError: Code.NOT_FOUND,
    errors.PermissionDeniedError: Code.PERMISSION_DENIED,
    errors.ResourceExhaustedError: Code.RESOURCE_EXHAUSTED,
    errors.UnavailableError: Code.UNAVAILABLE,
    errors.UnimplementedError: Code.UNIMPLEMENTED,
    BlockingIOError: Code.RESOURCE_EXHAUSTED,
    FileExistsError: Code.ALREADY_EXISTS,
    FileNotFoundError: Code.NOT_FOUND,
    MemoryError: Code.RESOURCE_EXHAUSTED,
    PermissionError: Code.PERMISSION_DENIED,
    TimeoutError: Code.DEADLINE_EXCEEDED,
}

# Kinds whose modules must not be imported for this (an event loop, a protobuf runtime), by their qualified names.
_FOREIGN_CODES: Final[Mapping[str, Code]] = {
    "asyncio.exceptions.CancelledError": Code.CANCELLED,
    "asyncio.exceptions.TimeoutError": Code.DEADLINE_EXCEEDED,  # a kind of its own until Python 3.11
    "google.protobuf.message.DecodeError": Code.INTERNAL,
}

_ERRNO_CODES: Final[Mapping[int, Code]] = {
    errno.EAGAIN: Code.RESOURCE_EXHAUSTED,
    errno.EDQUOT: Code.RESOURCE_EXHAUSTED,
    errno.EMFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENFILE: Code.RESOURCE_EXHAUSTED,
    errno.ENOBUFS: Code.RESOURCE_EXHAUSTED,
    errno.ENOMEM: Code.RESOURCE_EXHAUSTED,
    errno.ENOSPC: Code.RESOURCE_EXHAUSTED,
}

_KINDS: Final[Mapping[Code, type[errors.ShimError]]] = {
    **{code: kind for kind, code in _CODES.items() if issubclass(kind, errors.ShimError)},
    Code.CANCELLED: errors.AbortedError,
    Code.DATA_LOSS: errors.InternalError,
    Code.OUT_OF_RANGE: errors.InvalidArgumentError,
    Code.UNAUTHENTICATED: errors.PermissionDeniedError,
}


def status_of(error: BaseException) -> Status:
    """What *error* means to a caller: by its errno if that says something, else by its nearest kind in the table."""
    by_errno = _ERRNO_CODES.get(error.errno or 0) if isinstance(error, OSError) else None
    return Status(by_errno or _code_of_kind(type(error)), _text_of(error))


def _code_of_kind(kind: type[BaseException]) -> Code:
    for ancestor in kind.__mro__:
        name = f"{ancestor.__module__}.{ancestor.__qualname__}"
        if code := _CODES.get(ancestor) or _FOREIGN_CODES.get(name):
            return code
    return Code.UNKNOWN


def _text_of(error: BaseException) -> str:
    """The error's own words; with its kind in front where those words were not written for a caller."""
    text = str(error)
    if text and isinstance(error, (errors.ShimError, OSError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def error_of(status: Status) -> errors.ShimError:
    """The exception that a failed call raises at its caller: `status_of` of it has the same code where a kind exists.

    Raises: ValueError for `Code.OK`, which is no error.
    """
    if status.code is Code.OK:
        raise ValueError(f"status {status!r} is a success, for which there is no error")
    kind = _KINDS.get(status.code, errors.ShimError)
    return kind(status.message or status.code.name.lower().replace("_", " "))
