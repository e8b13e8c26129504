"""The mounts that a whole container sees: of the same config.json, what runc makes of it, line by line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.linux.mounts import MountInfo, parse_mountinfo
from harness.images import BUSYBOX
from harness.pod import Container, Pod, pod

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="no runc on PATH to compare with"),
]

SCRIPT = """exec 2>/dev/null
/bin/busybox cat /proc/self/mountinfo
echo
/bin/busybox ls -R /volume
/bin/busybox ls /sys/fs/cgroup
/bin/busybox stat -c '%n %a %u %g' /copied /copied/*
exit 0
"""
NAMESPACES = ("pid", "ipc", "uts", "mount", "network", "cgroup")
SAFE = ["nosuid", "noexec", "nodev"]


def cgroup(*options: str) -> dict[str, Any]:
    return {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": list(options)}


def volume(*options: str) -> dict[str, Any]:
    return {"destination": "/volume", "type": "bind", "source": "@volume", "options": list(options)}


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "hierarchies, read-only": ([cgroup(*SAFE, "relatime", "ro")], {}),
    "hierarchies, writable": ([cgroup("rw")], {}),
    "hierarchies of a namespace": (
        [cgroup(*SAFE, "relatime", "ro")],
        {"namespaces": [{"type": each} for each in NAMESPACES]},
    ),
    "a shared volume": ([volume("rbind", "rshared", "nosuid")], {"rootfsPropagation": "rshared"}),
    "a slave": ([volume("rbind", "rslave", "ro")], {"rootfsPropagation": "rslave"}),
    "private": ([volume("bind", "rprivate", "noatime", "nodiratime")], {"rootfsPropagation": "rprivate"}),
    "unset": ([volume("rbind", "rw")], {}),
    "recursive attributes": ([volume("rbind", "rro", "rnoexec", "rnoatime", "rnosymfollow")], {}),
    "a tmpfs over what is there": (
        [{"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nodev", "size=1m"]}],
        {},
    ),
    "a mode that is there": (
        [{"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}],
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_container_has_the_mounts_that_runc_gives_it(shim_directory: str, tmp_path: Path, case: str) -> None:
    entries, more = CASES[case]
    directory = tmp_path / "volume"
    (directory / "below").mkdir(parents=True)

    def change(spec: dict[str, Any]) -> None:
        spec["linux"].update(
            {"maskedPaths": [], **more}
        )  # runc masks by the container's own /dev/null, we by the host's
        spec["mounts"] += json.loads(json.dumps(entries).replace("@volume", str(directory)))

    async def both(made: Pod) -> tuple[str, str]:
        busybox = {BUSYBOX: Path(BUSYBOX).read_bytes()}
        container = made.container([BUSYBOX, "sh", "-c", SCRIPT], busybox, change=change)
        (container.rootfs / "copied").mkdir(mode=0o750)
        (container.rootfs / "copied" / "file").touch()
        theirs = run_runc(container)
        assert await container.run() == 0, container.stderr
        return container.stdout, theirs

    async def whole() -> tuple[str, str]:
        async with pod(os.path.join(shim_directory, "containerd-shim-wasmtime-v1")) as made:
            return await both(made)

    # two mounts, one in the other: the second tells what is recursive
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    try:
        (directory / "below").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory / "below"], check=True)
        ours, theirs = asyncio.run(whole())
    finally:
        subprocess.run(["umount", "--recursive", directory], check=True)
    assert normal(ours) == normal(theirs)


def run_runc(container: Container) -> str:
    """Run the bundle with runc, under another name; its output."""
    name = f"runc-{container.id}"
    config = json.loads((container.bundle / "config.json").read_text())
    config["linux"]["cgroupsPath"] = f"/{name}"
    copy = container.bundle.parent.parent / name
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps({**config, "root": {"path": str(container.rootfs)}}))
    state = copy / "state"
    done = subprocess.run(
        ["runc", "--root", state, "run", "--bundle", copy, name],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(copy)
    return done.stdout


def normal(output: str) -> list[tuple[str, ...]]:
    """The mounts without what is any container's own: numbers, names, and the order of words."""
    table, _, listing = output.partition("\n\n")
    return [*(_normal(each) for each in parse_mountinfo(table)), *((line,) for line in listing.splitlines())]


def _normal(mount: MountInfo) -> tuple[str, ...]:
    point, options, data = mount.mount_point, mount.options, mount.super_options
    # runc 1.1 does not give the root the propagation that the specification says
    kinds = sorted(field.partition(":")[0] for field in mount.optional) if point.startswith("/volume") else ()
    if point == "/sys/fs/cgroup":
        options = options.partition(",")[2]  # runc leaves the directories' tmpfs writable, whatever is asked
    if point == "/copied":
        data = data.partition(",mode=")[0]  # we say the mode when we mount, runc changes it later; it is listed below
    root = re.sub(r"^/(runc-|.*/)?c[0-9a-f]{12}$", "/own", mount.root)
    source = "cgroup" if mount.fstype == "cgroup" else mount.source  # runc calls one of them by its hierarchy
    return (point, root, options, *kinds, mount.fstype, source, data)
