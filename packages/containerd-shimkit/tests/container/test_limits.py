"""Limits that are changed: of containers made for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.container.limits import parse_update
from containerd_shimkit.instance import Encoded
from containerd_shimkit.linux.cgroup import Cgroup
from containerd_shimkit.oci.resources import Memory, Resources

from .bench import Bench, Play

LIMITS = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
MIB = 1 << 20


def limits(**fields: object) -> Encoded:
    return Encoded(LIMITS, json.dumps(fields).encode())


def group_of(container: ContainerInstance) -> Cgroup:
    return container.container._cgroup


def memory_limit(group: Cgroup) -> int:
    unified = group.version == 2
    path = Path(group.directory, "memory.max") if unified else Path(group.paths["memory"], "memory.limit_in_bytes")
    return int(path.read_text())


def test_what_is_sent_is_read_and_what_is_no_limit_of_linux_is_named() -> None:
    assert parse_update(limits(memory={"limit": 7})) == Resources(memory=Memory(limit=7))
    assert parse_update(limits()) == parse_update(Encoded()) == Resources()
    with pytest.raises(UnimplementedError, match="resources of the type 'x/WindowsResources' cannot be set"):
        parse_update(Encoded("x/WindowsResources", b"{}"))
    for value, words in ((b"[", "resources"), (b'{"memory": {"limit": "much"}}', r"memory\.limit is 'much'")):
        with pytest.raises(InvalidArgumentError, match=words):
            parse_update(Encoded(LIMITS, value))


@pytest.mark.root
def test_a_limit_is_changed_and_all_others_stay(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["resources"] = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}}

        container = await bench.container(change=change)
        await container.update(limits(memory={"limit": 96 * MIB}), {})
        assert memory_limit(group_of(container)) == 96 * MIB
        await container.start()
        await container.pause()
        await container.update(limits(memory={"limit": 128 * MIB}), {})
        await container.resume()
        assert memory_limit(group_of(container)) == 128 * MIB
        pids = group_of(container).paths.get("pids", group_of(container).directory)
        assert Path(pids, "pids.max").read_text() == "20\n"

    play(scenario)


@pytest.mark.root
def test_a_limit_that_is_refused_is_named_and_nothing_is_changed(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        await container.update(limits(memory={"limit": 64 * MIB}), {})
        refused = limits(memory={"limit": 4096, "checkBeforeUpdate": True})
        with pytest.raises(
            FailedPreconditionError, match=r"linux\.resources\.memory\.limit is 4096, but the container"
        ):
            await container.update(refused, {})
        with pytest.raises(InvalidArgumentError, match=r"linux\.resources\.cpu\.cpus is '999'"):
            await container.update(limits(cpu={"cpus": "999"}), {})
        assert memory_limit(group_of(container)) == 64 * MIB

    play(scenario)


@pytest.mark.root
def test_devices_are_replaced_by_others_and_the_default_ones_stay(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        rules = [{"allow": False, "access": "rwm"}]

        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["resources"] = {"devices": rules}
            device = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}
            spec["linux"]["devices"] = [device]

        async def opens(path: str) -> bool:
            return (await bench.run(container, "/bin/sh", "-c", f": > {path}"))[0] == 0

        container = await bench.running(change=change)
        assert not await opens("/dev/kmsg")
        allowed = [*rules, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"}]
        await container.update(limits(devices=allowed), {})
        assert await opens("/dev/kmsg")
        assert await opens("/dev/null")
        await container.update(limits(pids={"limit": 50}), {})
        assert await opens("/dev/kmsg")
        await container.update(limits(devices=rules), {})
        assert not await opens("/dev/kmsg")
        assert await opens("/dev/null")

    play(scenario)


@pytest.mark.root
def test_device_rules_that_are_in_force_already_are_not_written_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        rules = [{"allow": False, "access": "rwm"}]

        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["resources"] = {"devices": rules}

        container = await bench.running(change=change)
        seen = bench.directory / "seen"

        def record(self: Cgroup, resources: Resources) -> None:  # in the child
            with seen.open("a") as file:
                file.write(f"{len(resources.devices) > 0} ")

        monkeypatch.setattr(type(group_of(container)), "update", record)
        other = [*rules, {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rw"}]
        for devices in (rules, other, other, rules):
            await container.update(limits(devices=devices, pids={"limit": 50}), {})
        assert seen.read_text().split() == ["False", "True", "False", "True"]

    play(scenario)


@pytest.mark.root
def test_hooks_that_come_later_are_told_of_the_annotations_that_an_update_brings(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        told = bench.directory / "told"

        def change(spec: dict[str, Any]) -> None:
            spec["annotations"] = {"old": "1", "both": "1"}
            hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {told}"]}
            spec["hooks"] = {"poststop": [hook]}

        container = await bench.running(change=change)
        await container.update(Encoded(), {"both": "2", "new": "2"})
        await container.delete()
        assert json.loads(told.read_text())["annotations"] == {"old": "1", "both": "2", "new": "2"}

    play(scenario)
