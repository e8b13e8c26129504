"""Real containers without a shim's program around them: an instance, its streams, and what its programs say."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.container.forker import Forker
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.instance import Encoded, InstanceConfig
from containerd_shimkit.linux.mounts import read_mountinfo
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.shim.reaper import Reaper

BUSYBOX = Path("/bin/busybox")
MAPPED_ROOT = 100_000
Change = Callable[[dict[str, Any]], object]


def same(spec: dict[str, Any]) -> None:
    """Leave the specification as it is."""
    del spec


def in_user_namespace(spec: dict[str, Any]) -> None:
    """Give the container a user namespace, whose root is the host's user `MAPPED_ROOT`."""
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        spec["linux"][kind] = [{"containerID": 0, "hostID": MAPPED_ROOT, "size": 65536}]


def open_descriptors() -> list[str]:
    """What is open here, as far as it can be told."""
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # of the directory that is being read
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


@dataclass
class Bench:
    """Makes containers of busybox, in a directory of its own, and ends them."""

    directory: Path
    made: list[ContainerInstance] = field(default_factory=list)
    commands: int = 0

    async def container(
        self,
        *args: str,
        change: Change = same,
        files: Mapping[str, str] = {},
        kind: type[ContainerInstance] = ContainerInstance,
        **config: Any,
    ) -> ContainerInstance:
        """A container that has been created; by default it sleeps."""
        id = f"x{secrets.token_hex(6)}"  # noqa: A001
        bundle = self.directory / id
        (bundle / "rootfs" / "bin").mkdir(parents=True)
        shutil.copy(BUSYBOX, bundle / "rootfs" / "bin" / "busybox")
        for name in ("sh", "sleep", "cat", "id", "ls", "readlink", "stty", "kill", "tty", "grep", "true", "ps"):
            (bundle / "rootfs" / "bin" / name).symlink_to("busybox")
        for path, text in files.items():
            target = bundle / "rootfs" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            target.chmod(0o755)
        spec = default_spec(list(args) or ["/bin/sleep", "1000"], cgroups_path=f"/{self.directory.name}/{id}")
        change(spec)
        (bundle / "config.json").write_text(json.dumps(spec))
        if "uidMappings" in spec["linux"]:
            self.directory.chmod(0o755)
            for each in (bundle / "rootfs", *(bundle / "rootfs").rglob("*")):
                os.chown(each, MAPPED_ROOT, MAPPED_ROOT, follow_symlinks=False)
        instance = kind(id, InstanceConfig(str(bundle), "tests", **config))
        await instance.create()
        self.made.append(instance)
        return instance

    async def running(self, *args: str, **more: Any) -> ContainerInstance:
        """A container that has been started as well."""
        instance = await self.container(*args, **more)
        await instance.start()
        return instance

    async def add(self, instance: ContainerInstance, *args: str, config: Mapping[str, Any] = {}, **fields: Any) -> str:
        """Register *args* in the container, with *fields* of its `process`; its id. Output goes to a file."""
        self.commands += 1
        name = f"e{self.commands}"
        said = str(self.directory / name)
        Path(said).touch()
        process = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": True, **fields}
        streams = {"stdout": said, "stderr": said, **config}
        await instance.exec(name, Encoded("", json.dumps(process).encode()), InstanceConfig("", "tests", **streams))
        return name

    async def run(self, instance: ContainerInstance, *args: str, **more: Any) -> tuple[int, str]:
        """Run *args* in the container to its end; its exit status and what it said."""
        name = await self.add(instance, *args, **more)
        await instance.start_exec(name)
        ended = await asyncio.wait_for(instance.wait_exec(name), 10)
        await instance.delete_exec(name)
        return ended.status, self.said(name)

    def said(self, name: str) -> str:
        return (self.directory / name).read_text(errors="replace")

    async def end(self) -> None:
        for instance in self.made:
            await instance.delete()


Play = Callable[[Callable[[Bench], Awaitable[None]]], None]


@pytest.fixture
def play() -> Iterator[Play]:
    """Run a scenario in a loop of its own, and fail when a process, descriptor, mount or cgroup is left."""
    if os.geteuid():
        pytest.skip("containers need root")
    directory = Path(tempfile.mkdtemp(prefix="exec-", dir="/run"))

    def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
        async def whole() -> None:
            reaper, bench = Reaper.current(), Bench(directory)
            before = open_descriptors()
            try:
                await asyncio.wait_for(scenario(bench), 50)
            finally:
                await bench.end()
                Forker.of(reaper)._let_helper_go()
                for _ in range(100):
                    if not reaper._watched:
                        break
                    await asyncio.sleep(0.02)
            assert set(open_descriptors()) <= set(before), "descriptors are left open"
            assert not reaper._watched, "processes are left"
            reaper.stop()

        asyncio.run(whole())

    yield run
    assert not [each for each in read_mountinfo() if str(directory) in each.mount_point]
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        parent = hierarchy / directory.name
        if parent.is_dir():
            assert not [each for each in parent.iterdir() if each.is_dir()], parent
            parent.rmdir()
    shutil.rmtree(directory)
