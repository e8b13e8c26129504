"""The table between exceptions and ttrpc's codes."""

from __future__ import annotations

import ast
import asyncio
import errno
from pathlib import Path

import pytest
from containerd_shimkit import errors, ttrpc
from containerd_shimkit.proto import task_pb2
from containerd_shimkit.ttrpc import Code, Status, error_of, status_of
from google.protobuf.message import DecodeError

KINDS = {
    errors.InvalidArgumentError: Code.INVALID_ARGUMENT,
    errors.DeadlineExceededError: Code.DEADLINE_EXCEEDED,
    errors.NotFoundError: Code.NOT_FOUND,
    errors.AlreadyExistsError: Code.ALREADY_EXISTS,
    errors.PermissionDeniedError: Code.PERMISSION_DENIED,
    errors.ResourceExhaustedError: Code.RESOURCE_EXHAUSTED,
    errors.FailedPreconditionError: Code.FAILED_PRECONDITION,
    errors.AbortedError: Code.ABORTED,
    errors.UnimplementedError: Code.UNIMPLEMENTED,
    errors.InternalError: Code.INTERNAL,
    errors.UnavailableError: Code.UNAVAILABLE,
    errors.ShimError: Code.UNKNOWN,
}


class MissingBundleError(errors.NotFoundError):
    """A kind of a shim author's own."""


def test_every_kind_of_error_has_its_code_and_keeps_its_words() -> None:
    assert {kind: status_of(kind("why")) for kind in KINDS} == {kind: Status(KINDS[kind], "why") for kind in KINDS}


def test_every_kind_in_errors_is_in_the_table() -> None:
    assert set(KINDS) == {getattr(errors, name) for name in errors.__all__}


def test_a_kind_made_by_others_counts_as_what_it_derives_from() -> None:
    assert status_of(MissingBundleError("no bundle /b")) == Status(Code.NOT_FOUND, "no bundle /b")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, Code.NOT_FOUND),
        (errno.EEXIST, Code.ALREADY_EXISTS),
        (errno.EACCES, Code.PERMISSION_DENIED),
        (errno.EPERM, Code.PERMISSION_DENIED),
        (errno.ENOSPC, Code.RESOURCE_EXHAUSTED),
        (errno.EDQUOT, Code.RESOURCE_EXHAUSTED),
        (errno.EMFILE, Code.RESOURCE_EXHAUSTED),
        (errno.ENFILE, Code.RESOURCE_EXHAUSTED),
        (errno.ENOMEM, Code.RESOURCE_EXHAUSTED),
        (errno.ENOBUFS, Code.RESOURCE_EXHAUSTED),
        (errno.EAGAIN, Code.RESOURCE_EXHAUSTED),
        (errno.ETIMEDOUT, Code.DEADLINE_EXCEEDED),
        (errno.EIO, Code.UNKNOWN),
        (errno.EBUSY, Code.UNKNOWN),
    ],
)
def test_an_operating_systems_error_is_told_by_its_errno(number: int, code: Code) -> None:
    error = OSError(number, "why", "/thing")
    assert status_of(error) == Status(code, f"[Errno {number}] why: '/thing'")


def test_an_operating_systems_error_without_errno_is_told_by_its_kind() -> None:
    assert status_of(FileNotFoundError("gone")) == Status(Code.NOT_FOUND, "gone")
    assert status_of(OSError("odd")) == Status(Code.UNKNOWN, "odd")


@pytest.mark.parametrize("kind", [TimeoutError, asyncio.TimeoutError])
def test_a_time_out_of_either_kind_is_a_deadline(kind: type[Exception]) -> None:
    assert status_of(kind()) == Status(Code.DEADLINE_EXCEEDED, kind.__name__)


def test_cancellation_and_exhausted_memory_have_codes() -> None:
    assert status_of(asyncio.CancelledError()).code is Code.CANCELLED
    assert status_of(MemoryError()).code is Code.RESOURCE_EXHAUSTED


def test_a_payload_that_protobuf_cannot_decode_is_internal() -> None:
    with pytest.raises(DecodeError) as caught:
        task_pb2.KillRequest.FromString(b"\x0a\x05abc")
    assert status_of(caught.value).code is Code.INTERNAL


def test_an_error_that_nobody_foresaw_names_its_kind() -> None:
    assert status_of(KeyError("id")) == Status(Code.UNKNOWN, "KeyError: 'id'")


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_a_status_comes_back_as_an_error_of_its_kind(code: Code) -> None:
    error = error_of(Status(code, "why"))
    assert isinstance(error, errors.ShimError)
    assert str(error) == "why"
    if code in KINDS.values():
        assert status_of(error) == Status(code, "why")


def test_codes_without_a_kind_of_their_own_take_the_nearest() -> None:
    assert type(error_of(Status(Code.CANCELLED))) is errors.AbortedError
    assert type(error_of(Status(Code.OUT_OF_RANGE))) is errors.InvalidArgumentError
    assert type(error_of(Status(Code.DATA_LOSS))) is errors.InternalError
    assert type(error_of(Status(Code.UNAUTHENTICATED))) is errors.PermissionDeniedError


def test_a_status_without_words_says_its_code() -> None:
    assert str(error_of(Status(Code.NOT_FOUND))) == "not found"


def test_a_success_is_no_error() -> None:
    with pytest.raises(ValueError, match="is a success"):
        error_of(Status(Code.OK))


def test_the_core_imports_neither_an_event_loop_nor_protobuf() -> None:
    for path in Path(ttrpc.__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in imported if name.split(".")[0] in ("asyncio", "google", "proto", "socket", "aio")]
