"""A plan as an init is given it: each operation as its name and its values, in tuples.

What a fork writes to is copied first, and whatever an object is made of, class, fields and all, is written to when it
is made or looked at: five hundred pages for the plan of an ordinary container. Of tuples it takes next to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, get_args

from ..linux.capabilities import capability_mask, capability_names
from . import operations
from .operations import DropPrivileges, JoinCgroup, Operation
from .plan import Plan

__all__ = ["Step", "Steps", "describe", "step_of", "steps_of"]

Step: TypeAlias = tuple[Any, ...]
"""The name of an operation's class, then the values of its fields; what the shim sees to itself is left out, and
capabilities are masks."""

_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    kind.__name__: kind.__match_args__ for kind in get_args(operations.Operation)
}


@dataclass(frozen=True, slots=True)
class Steps:
    """The groups of a `Plan`, and what else of it an init needs."""

    rootfs: str
    user: int
    host: tuple[Step, ...]
    root: tuple[Step, ...]
    seal: tuple[Step, ...]
    process: tuple[Step, ...]
    last: tuple[Step, ...]


def steps_of(plan: Plan) -> Steps:
    """Take a plan apart. Capabilities that this kernel does not know are left out."""
    host, root, seal, process, last = (
        tuple(map(step_of, group)) for group in (plan.host, plan.root, plan.seal, plan.process, plan.last)
    )
    return Steps(plan.rootfs, plan.process_spec.user.uid, host, root, seal, process, last)


def step_of(operation: Operation) -> Step:
    """One operation as an init is given it."""
    name = type(operation).__name__
    match operation:
        case JoinCgroup():
            return (name, None)  # the limits are set already
        case DropPrivileges(uid, gid, groups, umask, bounding, effective, permitted, inheritable, ambient, no_new):
            masks = map(capability_mask, (bounding, effective, permitted, inheritable, ambient))
            return (name, uid, gid, groups, umask, *masks, no_new)
        case _:
            return (name, *(getattr(operation, field) for field in _FIELDS[name]))


def describe(step: Step) -> str:
    """The step as its operation shows itself."""
    name: str = step[0]
    if name == DropPrivileges.__name__:
        step = (*step[:5], *map(capability_names, step[5:10]), *step[10:])
    return f"{name}({', '.join(f'{field}={value!r}' for field, value in zip(_FIELDS[name], step[1:], strict=True))})"
