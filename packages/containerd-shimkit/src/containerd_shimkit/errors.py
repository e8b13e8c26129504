"""What can go wrong, by what it means to the caller. No wire codes here: `ttrpc.status` has the one table."""

from __future__ import annotations

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "ShimError",
    "UnavailableError",
    "UnimplementedError",
]


class ShimError(Exception):
    """The base of every error that a shim reports on purpose.

    The message names the thing, its value and, where there is one, the cure: it reaches containerd's user as it is.
    """


class InvalidArgumentError(ShimError):
    """The caller sent something that can never be right: a malformed spec, a bad signal number."""


class NotFoundError(ShimError):
    """The thing named does not exist, or has ended."""


class AlreadyExistsError(ShimError):
    """The thing to be made exists."""


class FailedPreconditionError(ShimError):
    """Right in itself, but not in the state that the thing is in."""


class PermissionDeniedError(ShimError):
    """The caller, or this process, may not do that."""


class ResourceExhaustedError(ShimError):
    """A limit was reached: of a message, of descriptors, of processes."""


class AbortedError(ShimError):
    """The work was given up half way, and undone."""


class DeadlineExceededError(ShimError):
    """The caller's time ran out first."""


class UnimplementedError(ShimError):
    """Nobody has taught this shim to do that."""


class UnavailableError(ShimError):
    """The other side is not there now; trying again later may help."""


class InternalError(ShimError):
    """Something that ought not to happen did: a bug of ours, or a kernel that answered oddly."""
