"""Mappings of ids that cannot be had."""

from __future__ import annotations

import asyncio
import os

import pytest
from containerd_shimkit import InvalidArgumentError
from containerd_shimkit.container.id_maps import map_ids
from containerd_shimkit.oci.spec import IdMapping, Linux
from containerd_shimkit.shim.reaper import Reaper

WHOLE = (IdMapping(0, 0, 1),)


def test_ids_that_cannot_be_mapped_are_the_specifications_fault() -> None:
    async def scenario() -> None:
        reaper = Reaper.current()
        try:
            with pytest.raises(InvalidArgumentError, match=r"linux\.uidMappings and linux\.gidMappings cannot be had"):
                # of this very process, whose namespace is not new
                await map_ids("c1", Linux(uid_mappings=WHOLE, gid_mappings=WHOLE), os.getpid(), reaper)
        finally:
            reaper.stop()

    asyncio.run(scenario())
