"""The ids of a user namespace: which of its users and groups are which of those around it.

Source: user_namespaces(7).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["IdRange", "become_root", "read_id_map", "write_id_maps"]

IdRange: TypeAlias = tuple[int, int, int]
"""The first id inside, the first id outside, how many."""


def write_id_maps(pid: int, uids: Iterable[IdRange], gids: Iterable[IdRange], proc: str = "/proc") -> None:
    """Give the new user namespace of the process *pid*, a child of this one's, its users and groups.

    Whoever is not root may map only its own group, and only where setgroups(2) can take nobody's permissions off.
    Raises: OSError (EINVAL: ranges overlap, or are too many; EPERM: not these ids).
    """
    if os.geteuid():
        _write(f"{proc}/{pid}/setgroups", "deny")
    _write(f"{proc}/{pid}/gid_map", _lines(gids))
    _write(f"{proc}/{pid}/uid_map", _lines(uids))


def read_id_map(path: str) -> tuple[IdRange, ...]:
    """The ranges in a file such as /proc/self/uid_map, in its order. Raises: OSError."""
    with open(path, encoding="ascii") as file:
        return tuple((int(inside), int(outside), int(size)) for inside, outside, size in map(str.split, file))


def become_root() -> None:
    """Become the user and the group 0 of this process's user namespace, without any other group. Raises: OSError."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _lines(ranges: Iterable[IdRange]) -> str:
    return "".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())  # in one call: a map can be written once
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)
