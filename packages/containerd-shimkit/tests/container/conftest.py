"""A host of a test's own, and roots of containers made on it by a plan's own steps."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.container import apply_cgroup_mounts, apply_mounts
from containerd_shimkit.container.apply import apply
from containerd_shimkit.container.plan import plan_container
from containerd_shimkit.container.site import Site
from containerd_shimkit.container.steps import Step, steps_of
from containerd_shimkit.linux import mounts, namespaces
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.mounts import MountInfo
from containerd_shimkit.oci import mount_options as ms
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec

from .bench import play as play

_MOUNTING = {kind.__name__ for kind in (*apply_mounts.WORK, *apply_cgroup_mounts.WORK)}


@dataclass
class Host:
    """A directory with a root file system in it, on a file system of its own that is shared, as a host's `/` is."""

    directory: Path
    cgroup: CgroupV1

    @property
    def rootfs(self) -> Path:
        return self.directory / "bundle" / "rootfs"

    def mounted(self) -> list[MountInfo]:
        """What is mounted in the directory."""
        return [each for each in mounts.read_mountinfo() if Path(each.mount_point).is_relative_to(self.directory)]

    def container(self, *entries: dict[str, Any], namespaced: bool = False, **linux: Any) -> Root:
        """The root that a spec with the mounts *entries* describes; nothing is made yet."""
        spec = copy.deepcopy(default_spec(["/app"]))
        spec["mounts"] = list(entries)
        spec["linux"].update({"maskedPaths": [], "readonlyPaths": [], **linux})
        if namespaced:
            spec["linux"]["namespaces"].append({"type": "cgroup"})
        steps = steps_of(plan_container(parse_spec(json.dumps(spec)), str(self.rootfs.parent)))
        return Root(self, Site(str(self.rootfs), self.cgroup), (*steps.host, *steps.root), steps.seal)


@dataclass
class Root:
    """A container's root being made, in the mount namespace of who calls `build`."""

    host: Host
    site: Site
    root: tuple[Step, ...]
    seal: tuple[Step, ...]

    def build(self) -> None:
        """Carry the mounts out, in a new mount namespace; the host's paths are still those that count."""
        namespaces.unshare(namespaces.CLONE_NEWNS)
        self._apply(self.root)

    def enter(self) -> None:
        """Make it `/`, with all that is sealed before."""
        self._apply(self.seal)

    def options(self, path: str) -> set[str]:
        """What mountinfo says of the mount on top at *path* in the container, before `enter`: flags and propagation."""
        return self._named(str(self.host.rootfs) + path.rstrip("/"))

    def own_options(self, path: str) -> set[str]:
        """The same, after `enter`; needs a procfs at /proc."""
        return self._named(path)

    @staticmethod
    def _named(point: str) -> set[str]:
        found = [each for each in mounts.read_mountinfo() if each.mount_point == point]
        assert found, f"nothing is mounted at {point}"
        return {*found[-1].options.split(","), *(field.partition(":")[0] for field in found[-1].optional)}

    def _apply(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if step[0] in _MOUNTING:
                apply(step, self.site)


OnHost = Callable[[Callable[[Host], object]], None]


@pytest.fixture
def on_host(tmp_path: Path, in_child: Callable[[Callable[[], object]], None]) -> OnHost:
    """Call a function in a child whose host's mounts are a copy of ours that nothing leads back from."""

    def run(work: Callable[[Host], object]) -> None:
        def alone() -> None:
            os.umask(0)
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mounts.mount("", "/", "", ms.MS_REC | ms.MS_PRIVATE)
            mounts.mount("tmpfs", str(tmp_path), "tmpfs", 0, "mode=755")
            mounts.mount("", "/", "", ms.MS_REC | ms.MS_SHARED)
            host = Host(tmp_path, CgroupV1({}))
            host.rootfs.mkdir(parents=True)
            kept = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)  # or a slave would be nobody's
            work(host)
            os.close(kept)

        in_child(alone)

    return run
