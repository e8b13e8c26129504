"""What containerd asks of a task that runs, wasm or native: pause and resume, new limits, its checkpoint."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD, SLEEPER
from containerd_shimkit import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnimplementedError
from containerd_shimkit.linux.cgroups import cgroup_for
from google.protobuf import any_pb2
from harness.images import BUSYBOX
from harness.pod import Container, Play, Pod

pytestmark = pytest.mark.root

WASM = "/app/program.wasm"
SPIN = b'(module (func (export "_start") (loop (br 0))))'
RUNNING, STOPPED, PAUSED = 2, 3, 4
LIMITS = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
BOTH = pytest.mark.parametrize("program", ["wasm", "native"])


def busy(pod: Pod, program: str, change: Callable[[dict[str, Any]], object] = lambda spec: None) -> Container:
    """A container that does nothing but count."""
    files = {"/bin/sh": Path(BUSYBOX).read_bytes(), WASM: SPIN}
    args = [WASM] if program == "wasm" else ["/bin/sh", "-c", "while :; do :; done"]
    return pod.container(args, files, change=change)


def cpu_time(pid: int) -> int:
    """In the kernel's ticks. Source: proc_pid_stat(5), utime and stime."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def counts(pid: int) -> bool:
    before = cpu_time(pid)
    await asyncio.sleep(0.2)
    return cpu_time(pid) > before


async def topics_of(pod: Pod, number: int) -> list[str]:
    while len(pod.events) < number:
        await asyncio.sleep(0.01)
    return [topic.rpartition("/")[2] for topic, _ in pod.events]


@BOTH
def test_a_task_is_paused_resumed_paused_again_and_killed(play: Play, program: str) -> None:
    async def scenario(pod: Pod) -> None:
        container = busy(pod, program)
        pid = await container.create()
        with pytest.raises(FailedPreconditionError, match="cannot pause a task that is created"):
            await container.call("Pause")
        await container.start()
        assert await counts(pid)
        await container.call("Pause")
        assert (await container.call("State")).status == PAUSED
        assert not await counts(pid)
        assert [each.pid for each in (await container.call("Pids")).processes] == [pid]
        await container.call("Stats")
        with pytest.raises(FailedPreconditionError, match="cannot delete a task that is paused"):
            await container.delete()
        await container.call("Resume")
        assert (await container.call("State")).status == RUNNING
        assert await counts(pid)
        await container.call("Pause")
        await container.call("Kill", signal=signal.SIGKILL)
        assert await container.wait() == 137
        assert (await container.call("State")).status == STOPPED
        with pytest.raises(FailedPreconditionError, match="cannot resume a task that is stopped"):
            await container.call("Resume")
        await container.delete()
        assert await topics_of(pod, 7) == ["create", "start", "paused", "resumed", "paused", "exit", "delete"]

    play(scenario)


def test_a_paused_wasm_guest_ends_by_sigterm_as_a_running_one_does(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: SLEEPER.bytes})
        await container.create()
        await container.start()
        await container.call("Pause")
        await container.call("Kill", signal=signal.SIGTERM)
        assert await container.wait() == 128 + signal.SIGTERM

    play(scenario)


def test_one_task_of_a_pod_is_paused_while_the_others_go_on(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        still, going = busy(pod, "native"), busy(pod, "wasm")
        pids = []
        for each in (still, going):
            pids.append(await each.create())
            await each.start()
        await still.call("Pause")
        assert [await counts(pid) for pid in pids] == [False, True]
        assert await pod.container([WASM], {WASM: HELLO_WORLD.bytes}).run() == 0

    play(scenario)


def test_a_pod_with_paused_tasks_is_cleaned_up_after_its_shim_has_died(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        containers = [busy(pod, program) for program in ("wasm", "native")]
        for each in containers:
            await each.create()
            await each.start()
            await each.call("Pause")
        os.kill(await pod.shim_pid(), signal.SIGKILL)
        for each in containers:
            assert pod.action("delete", each, "-bundle", str(each.bundle)).returncode == 0

    play(scenario)


def limits(**fields: object) -> any_pb2.Any:
    return any_pb2.Any(type_url=LIMITS, value=json.dumps(fields).encode())


@BOTH
def test_a_tasks_limits_are_changed_and_what_is_refused_is_named(play: Play, program: str) -> None:
    async def scenario(pod: Pod) -> None:
        path = f"/{pod.namespace}/limited"

        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["cgroupsPath"] = path

        container = busy(pod, program, change)
        await container.create()
        await container.call("Update", resources=limits(pids={"limit": 40}))
        await container.start()
        await container.call("Update", resources=limits(pids={"limit": 50}), annotations={"a": "b"})
        await container.call("Update")
        group = cgroup_for(path, "")
        directory = group.paths.get("pids", group.directory)
        assert Path(directory, "pids.max").read_text() == "50\n"
        with pytest.raises(UnimplementedError, match="resources of the type 'some/Type' cannot be set"):
            await container.call("Update", resources=any_pb2.Any(type_url="some/Type"))
        with pytest.raises(InvalidArgumentError, match=r"linux\.resources\.cpu\.cpus is '999'"):
            await container.call("Update", resources=limits(cpu={"cpus": "999"}))
        await container.call("Kill", signal=signal.SIGKILL)
        await container.wait()
        with pytest.raises(FailedPreconditionError, match="cannot change the limits of a task that is stopped"):
            await container.call("Update", resources=limits(pids={"limit": 60}))
        await container.delete()
        with pytest.raises(NotFoundError):
            await container.call("Update", resources=limits(pids={"limit": 60}))

    play(scenario)


def test_checkpoints_are_refused_with_the_reason(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        with pytest.raises(UnimplementedError, match=r"asks for checkpoint = .*can neither save"):
            await container.create(checkpoint="/some/where")
        await container.create()
        with pytest.raises(UnimplementedError, match=r"cannot do Checkpoint for task .*can neither save"):
            await container.call("Checkpoint")

    play(scenario)
