"""Mounts of whole containers, wasm and native, that a plan's steps alone do not show."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import ShimError
from harness.images import BUSYBOX
from harness.pod import Pod, pod

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")]

MAPPINGS = {
    kind: [{"containerID": 0, "hostID": first, "size": 65536}]
    for kind, first in (("uidMappings", 100000), ("gidMappings", 200000))
}
# prints the names in /data, the first directory that a guest may look into
LISTER = b"""(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "data")
  (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
  (func (export "_start")
    (call $check (call $open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 4) (i32.const 2)
      (i64.const 16386) (i64.const 16386) (i32.const 0) (i32.const 0)))
    (call $check (call $list (i32.load (i32.const 0)) (i32.const 1024) (i32.const 4096) (i64.const 0) (i32.const 8)))
    (i32.store (i32.const 16) (i32.const 1024))
    (i32.store (i32.const 20) (i32.load (i32.const 8)))
    (call $check (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"""


def play(shim_directory: str, scenario: Callable[[Pod], Awaitable[None]]) -> None:
    """Run the scenario in a pod of its own, and fail when it leaves anything behind."""

    async def whole() -> None:
        async with pod(os.path.join(shim_directory, "containerd-shim-wasmtime-v1")) as made:
            await scenario(made)

    asyncio.run(whole())


def adding(*entries: dict[str, Any], **linux: Any) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] += entries
        spec["linux"].update(linux)

    return change


def bind(source: Path | str, *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/data", "type": "bind", "source": str(source), "options": ["rbind", *options], **more}


COPIED = {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}


@pytest.mark.parametrize("kind", ["bound", "mapped", "copied"])
@pytest.mark.parametrize("propagation", ["", "rslave", "rshared", "runbindable"])
def test_a_wasm_guest_finds_what_is_mounted(shim_directory: str, tmp_path: Path, kind: str, propagation: str) -> None:
    (tmp_path / "one").touch()
    (tmp_path / "another").touch()
    entries = {"bound": bind(tmp_path, "rro"), "mapped": bind(tmp_path, "idmap", **MAPPINGS), "copied": COPIED}

    async def scenario(made: Pod) -> None:
        files = {"/app.wasm": LISTER} | ({"/data/one": b"", "/data/another": b""} if kind == "copied" else {})
        change = adding(entries[kind], rootfsPropagation=propagation)
        container = made.container(["/app.wasm"], files, change=change)
        status = await container.run()
        assert status == 0, container.stderr
        assert "one" in container.stdout
        assert "another" in container.stdout

    play(shim_directory, scenario)


def test_every_container_of_a_pod_has_them_whoever_forks_it(shim_directory: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cgroup = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    script = "/bin/busybox stat -c %u:%g /data/file; /bin/busybox ls /sys/fs/cgroup"

    async def scenario(made: Pod) -> None:
        change = adding(bind(tmp_path, "idmap", "ro", **MAPPINGS), cgroup)
        for _ in range(4):
            container = made.container(
                [BUSYBOX, "sh", "-c", script], {BUSYBOX: Path(BUSYBOX).read_bytes()}, change=change
            )
            assert await container.run() == 0, container.stderr
            owner, *names = container.stdout.split()
            assert owner == "100000:200000"
            assert {"memory", "pids", "cpu"} <= set(names)

    play(shim_directory, scenario)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (bind("/sys", "idmap", **MAPPINGS), "cannot map ids"),
        ({**COPIED, "options": ["tmpcopyup", "size=4k"]}, "No space left"),
        (bind("/sys", "idmap"), "there is no mapping"),
    ],
)
@pytest.mark.parametrize("propagation", ["", "rshared"])
def test_a_create_that_fails_at_a_mount_leaves_nothing(
    shim_directory: str, entry: dict[str, Any], words: str, propagation: str
) -> None:
    async def scenario(made: Pod) -> None:
        files = {BUSYBOX: Path(BUSYBOX).read_bytes(), "/data/large": bytes(1 << 20)}
        container = made.container([BUSYBOX], files, change=adding(entry, rootfsPropagation=propagation))
        with pytest.raises(ShimError, match=words):
            await container.create()

    play(shim_directory, scenario)


def test_a_mapping_needs_no_more_than_the_container_may_have(shim_directory: str, tmp_path: Path) -> None:
    async def scenario(made: Pod) -> None:
        change = adding(bind(tmp_path, "idmap", **MAPPINGS), resources={"pids": {"limit": 1}})
        container = made.container([BUSYBOX, "true"], {BUSYBOX: Path(BUSYBOX).read_bytes()}, change=change)
        assert await container.run() == 0, container.stderr

    play(shim_directory, scenario)


@pytest.mark.parametrize("cgroup_namespace", [False, True])
def test_a_container_of_a_user_namespace_has_them_too(
    shim_directory: str, tmp_path: Path, cgroup_namespace: bool
) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0o777)  # for whom the plain mount shows as nobody's
    kinds = ["pid", "ipc", "uts", "mount", "network", "user", *(["cgroup"] if cgroup_namespace else [])]
    namespaces = [{"type": kind} for kind in kinds]
    copied = {**COPIED, "destination": "/copied"}
    cgroup = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    plain = bind(tmp_path, "rro", destination="/plain")
    script = """stat -c %u:%g /data/file; stat -c %u:%g /plain/file; stat -c %u:%g /copied/file
        touch /data/new && stat -c %u:%g /data/new; touch /plain/new 2>&1 | grep -o Read-only
        ls /sys/fs/cgroup | grep -c -e memory -e pids"""

    async def scenario(made: Pod) -> None:
        change = adding(bind(tmp_path, "idmap"), plain, copied, cgroup, namespaces=namespaces, **MAPPINGS)
        files = {BUSYBOX: Path(BUSYBOX).read_bytes(), "/copied/file": b""}
        container = made.container([BUSYBOX, "sh", "-c", script], files, change=change)
        for name in ("stat", "touch", "ls", "grep"):
            (container.rootfs / "bin" / name).symlink_to("busybox")
        for path in (container.rootfs, *container.rootfs.rglob("*")):
            os.chown(path, 100000, 200000, follow_symlinks=False)
        assert await container.run() == 0, container.stderr
        assert container.stdout.split() == ["0:0", "65534:65534", "0:0", "0:0", "Read-only", "2"]
        assert ((tmp_path / "new").stat().st_uid, (tmp_path / "new").stat().st_gid) == (0, 0)

    play(shim_directory, scenario)
