"""Which control groups the containers of this process have: deleting one ends every process in its group."""

from __future__ import annotations

from ..errors import FailedPreconditionError
from ..linux.cgroup import Cgroup

__all__ = ["claim", "count", "release"]

_claimed: set[str] = set()


def claim(cgroup: Cgroup, id: str) -> str:  # noqa: A002
    """Take *cgroup* for container *id*; what `release` wants. Raises: FailedPreconditionError when it is not free."""
    if not cgroup.paths:
        return ""  # there is none
    wanted = cgroup.directory
    if any(_overlap(wanted, other) for other in _claimed) or cgroup.has_processes():
        raise FailedPreconditionError(
            f"linux.cgroupsPath: the cgroup {wanted} of container {id!r} belongs to another container or has "
            "processes in it; give each container a path of its own"
        )
    _claimed.add(wanted)
    return wanted


def release(claimed: str) -> None:
    """Let others have what has been claimed; nothing when nobody has."""
    _claimed.discard(claimed)


def count() -> int:
    """How many groups are claimed."""
    return len(_claimed)


def _overlap(path: str, other: str) -> bool:
    """Whether one of two groups is the other, or lies in it."""
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")
