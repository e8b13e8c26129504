"""Removing what containers leave without making the loop wait."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from containerd_shimkit.container.remover import Remover
from containerd_shimkit.container.state import ContainerState
from containerd_shimkit.linux import mounts
from containerd_shimkit.shim.reaper import Reaper

pytestmark = pytest.mark.root


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[ContainerState]:
    if os.geteuid():
        pytest.skip("mounting needs root")
    mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0)
    yield ContainerState("c", mounted_rootfs=str(tmp_path))
    mounts.unmount_tree(str(tmp_path), detach=True)


def play(scenario: Callable[[Remover], Awaitable[None]]) -> None:
    async def whole() -> None:
        reaper = Reaper.current()
        remover = Remover.of(reaper)
        assert Remover.of(reaper) is remover
        try:
            await scenario(remover)
        finally:
            if remover._helper is not None:
                remover._helper.close()
                await asyncio.wait_for(remover._helper._ended, 5)
            reaper.stop()

    asyncio.run(whole())


def test_what_the_only_container_leaves_is_removed_by_the_shim_itself(mounted: ContainerState) -> None:
    async def scenario(remover: Remover) -> None:
        await remover.remove(mounted, is_alone=True)
        assert not os.path.ismount(mounted.mounted_rootfs)
        assert remover._helper is None

    play(scenario)


def test_beside_others_a_helper_unmounts_and_a_dead_one_is_replaced(mounted: ContainerState) -> None:
    async def scenario(remover: Remover) -> None:
        await remover.remove(mounted, is_alone=False)
        assert not os.path.ismount(mounted.mounted_rootfs)
        assert remover._helper is not None
        killed = remover._helper
        os.kill(killed.pid, signal.SIGKILL)
        mounts.mount("tmpfs", mounted.mounted_rootfs, "tmpfs", 0)
        await remover.remove(mounted, is_alone=False)
        assert not os.path.ismount(mounted.mounted_rootfs)
        await remover.remove(mounted, is_alone=False)
        assert remover._helper is not killed

    play(scenario)


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_root_with_something_mounted_below_or_in_use_is_removed_too(mounted: ContainerState, is_alone: bool) -> None:
    async def scenario(remover: Remover) -> None:
        below = os.path.join(mounted.mounted_rootfs, "below")
        os.mkdir(below)
        mounts.mount("tmpfs", below, "tmpfs", 0)
        with open(os.path.join(mounted.mounted_rootfs, "file"), "w"):
            await remover.remove(mounted, is_alone=is_alone)
            assert not os.path.ismount(mounted.mounted_rootfs)
        await remover.remove(mounted, is_alone=is_alone)

    play(scenario)
