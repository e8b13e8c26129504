"""Gives the user namespace that an init has made its users and groups: what only its maker can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from ..errors import InvalidArgumentError
from ..linux.user_namespaces import IdRange, write_id_maps
from ..oci.spec import Linux
from ..shim.reaper import Reaper
from .worker import run_in_child

__all__ = ["map_ids"]

_TIMEOUT: Final = 60.0


async def map_ids(id: str, linux: Linux, pid: int, reaper: Reaper) -> None:  # noqa: A002
    """Write the mappings of *linux* for the init *pid* of container *id*; with programs where this user needs them.

    Raises: InvalidArgumentError, ShimError.
    """
    uids, gids = (
        [(each.container_id, each.host_id, each.size) for each in mappings]
        for mappings in (linux.uid_mappings, linux.gid_mappings)
    )
    if os.geteuid():
        await _map_for_ordinary_user(id, uids, gids, pid, reaper)
    else:
        _write(uids, gids, pid)


async def _map_for_ordinary_user(
    id: str,  # noqa: A002
    uids: Sequence[IdRange],
    gids: Sequence[IdRange],
    pid: int,
    reaper: Reaper,
) -> None:
    from ..linux.id_map_programs import needs_programs, write_id_maps_by_programs  # root has no use for them

    if needs_programs(uids, gids):
        await run_in_child(
            lambda: write_id_maps_by_programs(pid, uids, gids),
            reaper,
            what=f"mapping the ids of container {id!r}",
            timeout=_TIMEOUT,
        )
    else:
        _write(uids, gids, pid)


def _write(uids: Sequence[IdRange], gids: Sequence[IdRange], pid: int) -> None:
    try:
        write_id_maps(pid, uids, gids)
    except OSError as error:
        raise InvalidArgumentError(
            f"linux.uidMappings and linux.gidMappings cannot be had: {error}; the shim must be allowed these ids"
        ) from error
