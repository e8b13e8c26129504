"""Lifecycle hooks of whole containers: when each runs, where, what it sees, and what its failure does."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD
from containerd_shimkit import AbortedError
from harness.images import BUSYBOX
from harness.pod import Play, Pod

pytestmark = pytest.mark.root

WASM = "/app/program.wasm"
SHELL = {"/bin/sh": Path(BUSYBOX).read_bytes()}
INSIDE = ("createContainer", "startContainer")


def hook(script: str) -> list[dict[str, Any]]:
    return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]


def noting(file: Path) -> dict[str, Any]:
    """Every kind of hook, which notes its kind and its state; those inside do it in a directory that is mounted."""
    places = {kind: "/noted" if kind == "startContainer" else str(file.parent) for kind in KINDS}
    script = 'read -r state; echo "%s $state" >> %s/%s'
    return {kind: hook(script % (kind, places[kind], file.name)) for kind in KINDS}


KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def changed(hooks: Mapping[str, Any], shared: Path) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        spec["hooks"] = hooks
        spec["annotations"] = {"a": "b"}
        mount = {"destination": "/noted", "type": "bind", "source": str(shared), "options": ["rbind"]}
        spec["mounts"].append(mount)

    return change


@pytest.mark.parametrize("kind", ["native", "wasm"])
def test_each_hook_runs_when_the_specification_says_with_the_state_of_that_moment(
    play: Play, tmp_path: Path, kind: str
) -> None:
    async def scenario(pod: Pod) -> None:
        file = tmp_path / "notes"
        change = changed(noting(file), tmp_path)
        args, files = (["/bin/sh", "-c", "true"], SHELL) if kind == "native" else ([WASM], {WASM: HELLO_WORLD.bytes})
        container = pod.container(args, {**SHELL, **files}, change=change)

        def noted() -> dict[str, Any]:
            lines = file.read_text().splitlines()
            return {line.split(" ", 1)[0]: json.loads(line.split(" ", 1)[1]) for line in lines}

        pid = await container.create()
        assert list(noted()) == ["prestart", "createRuntime", "createContainer"]
        await container.start()
        assert await container.wait() == 0
        await container.delete()
        states = noted()
        assert list(states) == list(KINDS)
        assert {kind: state["status"] for kind, state in states.items()} == {
            "prestart": "creating",
            "createRuntime": "creating",
            "createContainer": "creating",
            "startContainer": "created",
            "poststart": "running",
            "poststop": "stopped",
        }
        assert [states[kind].get("pid") for kind in KINDS] == [pid, pid, 1, 1, pid, None]
        for state in states.values():
            assert (state["id"], state["bundle"]) == (container.id, str(container.bundle))
            assert state["annotations"] == {"a": "b"}

    play(scenario)


def test_hooks_of_the_runtime_can_enter_the_container_and_those_inside_are_in_it(play: Play, tmp_path: Path) -> None:
    script = (
        f"state=$(cat); pid=$(echo $state | sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); "
        f"readlink /proc/$pid/ns/mnt /proc/self/ns/mnt > {tmp_path}/%s; pwd >> {tmp_path}/%s"
    )

    async def scenario(pod: Pod) -> None:
        hooks = {kind: hook(script % (kind, kind)) for kind in ("createRuntime", "createContainer")}
        hooks["startContainer"] = hook("readlink /proc/self/ns/mnt > /noted/startContainer")
        files = {**SHELL, "/bin/readlink": SHELL["/bin/sh"]}
        container = pod.container(["/bin/sh", "-c", "true"], files, change=changed(hooks, tmp_path))
        pid = await container.create()
        inside = os.readlink(f"/proc/{pid}/ns/mnt")
        own = os.readlink("/proc/self/ns/mnt")
        assert (tmp_path / "createRuntime").read_text().split() == [inside, own, str(container.bundle)]
        assert (tmp_path / "createContainer").read_text().split()[-2] == inside
        await container.start()
        assert await container.wait() == 0
        assert (tmp_path / "startContainer").read_text().split()[0] == inside

    play(scenario)


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_that_fails_fails_create_and_poststop_hooks_run(play: Play, tmp_path: Path, kind: str) -> None:
    async def scenario(pod: Pod) -> None:
        hooks = {kind: hook("echo no disk >&2; exit 7"), "poststop": hook(f"touch {tmp_path}/stopped")}
        container = pod.container(["/bin/sh", "-c", "true"], SHELL, change=changed(hooks, tmp_path))
        with pytest.raises(AbortedError, match=rf"hooks\.{kind}\[0\] .*status 7, having printed: no disk"):
            await container.create()
        assert (tmp_path / "stopped").exists()

    play(scenario)


def test_a_hook_that_fails_at_start_fails_start(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        change = changed({"startContainer": hook("exit 7")}, tmp_path)
        container = pod.container(["/bin/sh", "-c", "echo ran"], SHELL, change=change)
        await container.create()
        with pytest.raises(AbortedError, match=r"hooks\.startContainer\[0\] .*status 7"):
            await container.start()
        assert await container.wait() == 1
        assert container.stdout == ""

    play(scenario)


def test_what_fails_after_the_start_changes_nothing(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        change = changed({"poststart": hook("exit 7"), "poststop": hook("exit 7")}, tmp_path)
        container = pod.container(["/bin/sh", "-c", "echo ran"], SHELL, change=change)
        assert await container.run() == 0
        assert container.stdout == "ran\n"

    play(scenario)


def test_poststop_hooks_run_for_a_shim_that_was_killed(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        change = changed({"poststop": hook(f"cat > {tmp_path}/stopped")}, tmp_path)
        container = pod.container(["/bin/sh", "-c", "while :; do sleep 1; done"], SHELL, change=change)
        await container.create()
        await container.start()
        os.kill(await pod.shim_pid(), 9)
        done = await asyncio.to_thread(pod.action, "delete", container, "-bundle", str(container.bundle))
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "stopped").read_text())["status"] == "stopped"

    play(scenario)
