"""What this version cannot do, said in one way."""

from __future__ import annotations

from ..errors import ShimError, UnimplementedError

__all__ = ["unsupported"]


def unsupported(field: str, what: str) -> ShimError:
    """The error for *field* of config.json; *what* goes on with its name: `is set`."""
    return UnimplementedError(
        f"config.json: {field} {what}, which this version of the shim does not support; leave it out, "
        "or run this container with another runtime"
    )
