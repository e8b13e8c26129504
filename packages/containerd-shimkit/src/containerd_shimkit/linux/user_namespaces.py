"""The ids of a user namespace: which of its users and groups are which of those around it, and who may say so.

Source: user_namespaces(7).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

__all__ = [
    "IdRange",
    "Standing",
    "are_groups_fixed",
    "become_root",
    "is_own_id",
    "leave_groups",
    "own_standing",
    "read_id_map",
    "what_denies_user_namespaces",
    "write_id_maps",
]

IdRange: TypeAlias = tuple[int, int, int]
"""The first id inside, the first id outside, how many."""

_EVERYBODY: Final = ((0, 0, 0xFFFFFFFF),)
# which value of each setting keeps user namespaces from those who are not root, and which does not
_SETTINGS: Final = (
    ("/proc/sys/user/max_user_namespaces", "0", "a number above 0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),  # Debian's
)
# Ubuntu's keeps rights in them from programs without a profile that says otherwise
_PROFILED: Final = (("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "0"),)


@dataclass(frozen=True, slots=True)
class Standing:
    """What this process is to its host."""

    is_hosts_root: bool  # and not the root of some user namespace
    has_fixed_groups: bool  # nobody in its user namespace may change their groups


@lru_cache(maxsize=1)
def own_standing() -> Standing:
    """What this process is, as it was when this was asked first: what it forks asks while /proc is another's."""
    if os.geteuid() == 0 and read_id_map("/proc/self/uid_map") == _EVERYBODY:
        return Standing(is_hosts_root=True, has_fixed_groups=False)
    return Standing(is_hosts_root=False, has_fixed_groups=are_groups_fixed())


def are_groups_fixed(pid: int | str = "self") -> bool:
    """Whether the user namespace of the process *pid* denies setgroups(2) to everybody in it. Raises: OSError."""
    with open(f"/proc/{pid}/setgroups", encoding="ascii") as file:
        return file.read().strip() == "deny"


def is_own_id(ranges: Sequence[IdRange], own: int) -> bool:
    """Whether *ranges* map the one id *own* and no other: what every user may do without help."""
    return len(ranges) == 1 and ranges[0][1:] == (own, 1)


def write_id_maps(pid: int, uids: Iterable[IdRange], gids: Iterable[IdRange], proc: str = "/proc") -> None:
    """Give the new user namespace of the process *pid*, a child of this one's, its users and groups.

    Whoever is not root may map only its own user and group, and the latter only where setgroups(2) can take nobody's
    permissions off; for more see `id_map_programs`. Raises: OSError (EINVAL: ranges overlap, or are too many; EPERM:
    not these ids).
    """
    if os.geteuid():
        _write(f"{proc}/{pid}/setgroups", "deny")
    _write(f"{proc}/{pid}/gid_map", _lines(gids))
    _write(f"{proc}/{pid}/uid_map", _lines(uids))


def read_id_map(path: str) -> tuple[IdRange, ...]:
    """The ranges in a file such as /proc/self/uid_map, in its order. Raises: OSError."""
    with open(path, encoding="ascii") as file:
        return tuple((int(inside), int(outside), int(size)) for inside, outside, size in map(str.split, file))


def become_root(*, keep_groups: bool = False) -> None:
    """Become the user and the group 0 of this process's user namespace, without any other group. Raises: OSError.

    With *keep_groups*, where they are fixed, its maker's other groups stay: they are nobody's there.
    """
    if not keep_groups:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def leave_groups() -> None:
    """Give up this process's other groups, before it enters a namespace where that may be denied. Raises: OSError.

    Only who is not root keeps them: they give no right there that their user does not have anyhow.
    """
    if os.geteuid() == 0 and not own_standing().has_fixed_groups:
        os.setgroups([])


def what_denies_user_namespaces(*, after_failure: bool = False) -> str:
    """The host's setting that keeps user namespaces from ordinary users, with its cure; or "".

    *after_failure* a setting counts too that keeps rights in them from some programs only.
    """
    for path, denying, allowing in (*_SETTINGS, *(_PROFILED if after_failure else ())):
        try:
            with open(path, encoding="ascii") as file:
                value = file.read().strip()
        except OSError:
            continue  # of another distribution, or out of sight
        if value == denying:
            name = path.removeprefix("/proc/sys/").replace("/", ".")
            return f"the host's setting {name} is {value}: root can set it to {allowing} (sysctl -w)"
    return ""


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
