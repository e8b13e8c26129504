"""Containers whose clocks are not the host's."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import SPINNER
from containerd_shimkit import InvalidArgumentError
from harness.native import Change, run_in_pod
from harness.pod import Play, Pod

pytestmark = pytest.mark.root

DAY = 86400


def in_time_namespace(path: str = "", **offsets: int) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"].append({"type": "time", "path": path})
        if offsets:
            spec["linux"]["timeOffsets"] = {clock: {"secs": secs} for clock, secs in offsets.items()}

    return change


def test_a_native_program_and_its_children_see_the_clocks_that_were_asked_for(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        said = await run_in_pod(pod, "/bin/busybox cat /proc/uptime", in_time_namespace(boottime=30 * DAY))
        assert 30 * DAY <= float(said.split()[0]) - time.clock_gettime(time.CLOCK_BOOTTIME) + 60 < 30 * DAY + 120

    play(scenario)


def test_a_wasm_guest_is_in_the_namespace_without_an_execve(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        wasm = "/app.wasm"
        container = pod.container([wasm], {wasm: SPINNER.bytes}, change=in_time_namespace(monotonic=DAY))
        pid = await container.create()
        await container.start()
        assert os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time")
        assert os.readlink(f"/proc/{pid}/ns/time") == os.readlink(f"/proc/{pid}/ns/time_for_children")
        assert Path(f"/proc/{pid}/timens_offsets").read_text().split()[:2] == ["monotonic", str(DAY)]
        # another container may join it
        uptime = "/bin/busybox readlink /proc/self/ns/time"
        said = await run_in_pod(pod, uptime, in_time_namespace(f"/proc/{pid}/ns/time"))
        assert said.strip() == os.readlink(f"/proc/{pid}/ns/time")
        await container.call("Kill", signal=9)
        assert await container.wait() == 137

    play(scenario)


def test_a_clock_cannot_go_below_the_boot(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        with pytest.raises(InvalidArgumentError, match=r"linux\.timeOffsets would put a clock before the host's boot"):
            await run_in_pod(pod, "true", in_time_namespace(boottime=-90000 * DAY))

    play(scenario)
