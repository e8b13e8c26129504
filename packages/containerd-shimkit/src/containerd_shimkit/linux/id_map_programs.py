"""Ids of a user namespace besides one's own, for those who are not root: /etc/subuid and /etc/subgid say which.

Only programs that are root's may write such maps. Source: newuidmap(1), newgidmap(1), subuid(5).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from ..errors import FailedPreconditionError, InvalidArgumentError
from .programs import run_program
from .user_namespaces import IdRange, is_own_id

__all__ = ["needs_programs", "write_id_maps_by_programs"]

_TIMEOUT: Final = 20.0


def needs_programs(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> bool:
    """Whether this user may not write the maps itself."""
    return os.geteuid() != 0 and not (is_own_id(uids, os.geteuid()) and is_own_id(gids, os.getegid()))


def write_id_maps_by_programs(pid: int, uids: Sequence[IdRange], gids: Sequence[IdRange]) -> None:
    """Have newuidmap and newgidmap give the user namespace of the process *pid*, this user's, its users and groups.

    Raises: InvalidArgumentError, naming the field, for ids that are not this user's; FailedPreconditionError when the
    programs are not installed.
    """
    _write("newgidmap", "linux.gidMappings", "/etc/subgid", pid, gids)
    _write("newuidmap", "linux.uidMappings", "/etc/subuid", pid, uids)


def _write(program: str, field: str, file: str, pid: int, ranges: Sequence[IdRange]) -> None:
    words = [program, str(pid), *(str(number) for each in ranges for number in each)]
    cure = f"map the container's id 0 to your own id, with size 1, and no other; or let {file} give you these"
    try:
        status, said = run_program(words, "the program", _TIMEOUT)
    except OSError as error:
        raise FailedPreconditionError(
            f"{field} has ids besides user {os.geteuid()}'s own, for which {program} is needed, which cannot be run: "
            f"{error.strerror}; install it (Debian: uidmap), or map the container's id 0 to your own id alone"
        ) from error
    if status != 0:
        raise InvalidArgumentError(f"{field} cannot be had by user {os.geteuid()}: {said or status}; {cure}")
