"""A mapping of user and group ids, as the kernel takes one: a user namespace, which nobody needs to live in.

Source: user_namespaces(7).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from .namespaces import CLONE_NEWUSER, unshare
from .user_namespaces import IdRange, write_id_maps

__all__ = ["open_mapping"]

_FAILED: Final = b"!"
_LONGEST: Final = 64


def open_mapping(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> int:
    """Make a user namespace with these mappings; a descriptor, which is all that keeps it.

    Forks: the caller has one thread, and a procfs at /proc. Raises: OSError; EINVAL for ranges that overlap.
    """
    told, teller = os.pipe()
    released, release = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live_in_new_namespace(teller, released, (told, release))
    os.close(teller)
    os.close(released)
    try:
        name = os.read(told, _LONGEST)
        if not name or name.startswith(_FAILED):
            number = int(name[1:] or b"0")
            raise OSError(number, f"unshare: {os.strerror(number)}", "user")
        number = int(name)
        write_id_maps(number, uids, gids)
        return os.open(f"/proc/{number}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(told)
        os.close(release)  # now it ends
        os.waitpid(pid, 0)


def _live_in_new_namespace(teller: int, released: int, others: Sequence[int]) -> None:
    """The child's life: it enters a namespace, says which process it is in /proc's eyes, and waits to be let go."""
    try:
        for descriptor in others:
            os.close(descriptor)
        unshare(CLONE_NEWUSER)
        os.write(teller, os.fsencode(os.readlink("/proc/self")))  # the procfs may be another pid namespace's
        os.read(released, 1)
    except OSError as error:
        os.write(teller, _FAILED + str(error.errno).encode())
    finally:
        os._exit(0)
