"""Everything a containerd shim needs that is not WebAssembly: the part that authors of shims program against."""

from .errors import (
    AbortedError,
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
    UnavailableError,
    UnimplementedError,
)
from .instance import Encoded, ExitStatus, Instance, InstanceConfig, Mount, ProcessInfo
from .tracing import NO_TRACE, TraceContext, span

__all__ = [
    "NO_TRACE",
    "AbortedError",
    "AlreadyExistsError",
    "DeadlineExceededError",
    "Encoded",
    "ExitStatus",
    "FailedPreconditionError",
    "Instance",
    "InstanceConfig",
    "InternalError",
    "InvalidArgumentError",
    "Mount",
    "NotFoundError",
    "PermissionDeniedError",
    "ProcessInfo",
    "ResourceExhaustedError",
    "ShimError",
    "TraceContext",
    "UnavailableError",
    "UnimplementedError",
    "span",
]
