"""What a container sees of control groups, made by a plan's own steps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import FailedPreconditionError
from containerd_shimkit.container.apply_cgroup_mounts import controllers_by_directory
from containerd_shimkit.linux import mounts, namespaces
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.mounts import MountInfo, read_mountinfo

from .conftest import Host, OnHost

pytestmark = pytest.mark.root


@pytest.fixture
def cgroup() -> Iterator[CgroupV1]:
    """A group in each of the host's hierarchies of version 1."""
    if not read_mountinfo("cgroup"):
        pytest.skip("this host has no control groups of version 1")
    made = CgroupV1.for_path(f"/shimkit-mounts-{os.getpid()}/c1")
    made.create()
    yield made
    made.remove()
    CgroupV1({name: os.path.dirname(path) for name, path in made.paths.items()}).remove()


def entry(kind: str, *options: str) -> dict[str, Any]:
    return {"destination": "/sys/fs/cgroup", "type": kind, "source": "cgroup", "options": list(options)}


def below(host: Host) -> dict[str, MountInfo]:
    """What is mounted at /sys/fs/cgroup and below, by its path from there on."""
    start = f"{host.rootfs}/sys/fs/cgroup"
    found = [each for each in read_mountinfo() if each.mount_point.startswith(start)]
    return {each.mount_point.removeprefix(start).lstrip("/"): each for each in found}


def test_controllers_that_share_a_directory_are_told_together() -> None:
    paths = {"cpu": "/a", "memory": "/b", "cpuacct": "/a", "name=systemd": "/c", "note": "x"}
    expected = {"/a": ("cpu", "cpuacct"), "/b": ("memory",), "/c": ("name=systemd",)}
    assert controllers_by_directory(paths) == expected


@pytest.mark.parametrize("options", [("ro", "nosuid", "nodev", "noexec"), ("rw",)])
@pytest.mark.parametrize("namespaced", [False, True])
def test_each_hierarchy_shows_the_containers_own_group(
    on_host: OnHost, cgroup: CgroupV1, namespaced: bool, options: tuple[str, ...]
) -> None:
    def work(host: Host) -> None:
        host.cgroup = cgroup
        cgroup.join()
        if namespaced:
            namespaces.unshare(namespaces.CLONE_NEWCGROUP)
        host.container(entry("cgroup", *options), namespaced=namespaced).build()
        found = below(host)
        top = found.pop("")
        assert top.fstype == "tmpfs"
        assert ("ro" in top.options.split(",")) is ("ro" in options)
        assert set(found) == {name.removeprefix("name=") for name in cgroup.paths}
        for name, mount in found.items():
            assert mount.fstype == "cgroup", name
            assert mount.root == ("/" if namespaced else f"/shimkit-mounts-{os.getppid()}/c1"), name
            assert ("ro" in mount.options.split(",")) is ("ro" in options), name
            assert ("noexec" in mount.options.split(",")) is ("noexec" in options or namespaced), name
            shown = (host.rootfs / "sys/fs/cgroup" / name / "cgroup.procs").read_text().split()
            assert str(os.getpid()) in shown, name

    on_host(work)


def test_a_hierarchy_of_two_controllers_has_a_link_for_each(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        for name in ("one", "two"):
            (host.directory / name).mkdir()
        (host.directory / "one" / "file").touch()
        one, two = str(host.directory / "one"), str(host.directory / "two")
        host.cgroup = CgroupV1({"cpu": one, "cpuacct": one, "name=systemd": two})
        host.container(entry("cgroup", "ro", "rprivate")).build()
        made = host.rootfs / "sys/fs/cgroup"
        assert sorted(os.listdir(made)) == ["cpu", "cpu,cpuacct", "cpuacct", "systemd"]
        assert os.readlink(made / "cpu") == os.readlink(made / "cpuacct") == "cpu,cpuacct"
        assert (made / "cpuacct" / "file").exists()
        with pytest.raises(OSError, match="Read-only"):
            (made / "cpu" / "new").touch()
        assert all(each.optional == () for each in below(host).values())

    on_host(work)


def has_unified() -> bool:
    return bool(read_mountinfo("cgroup2"))


@pytest.mark.skipif(not has_unified(), reason="no control groups of version 2 here")
@pytest.mark.parametrize("namespaced", [False, True])
def test_version_two_shows_the_own_group_beside_version_one(on_host: OnHost, namespaced: bool) -> None:
    mounted = read_mountinfo("cgroup2")[0].mount_point
    own = Path(mounted) / f"shimkit-mounts-{os.getpid()}"

    def work(host: Host) -> None:
        (own / "cgroup.procs").write_text("0")
        if namespaced:
            namespaces.unshare(namespaces.CLONE_NEWCGROUP)
        host.container(entry("cgroup2", "ro", "nosuid"), namespaced=namespaced).build()
        (found,) = below(host).values()
        assert (found.fstype, found.root) == ("cgroup2", "/" if namespaced else f"/{own.name}")
        assert {"ro", "nosuid"} <= set(found.options.split(","))
        assert (host.rootfs / "sys/fs/cgroup/cgroup.procs").read_text().split() == [str(os.getpid())]

    own.mkdir()
    try:
        on_host(work)
    finally:
        own.rmdir()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EBUSY])
@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
def test_where_version_two_cannot_be_mounted_it_is_bound(
    on_host: OnHost, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    real = mounts.mount

    def refuse(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
        if fstype == "cgroup2":
            raise OSError(number, os.strerror(number))
        real(source, target, fstype, flags, data)

    def work(host: Host) -> None:
        (host.directory / "own").mkdir()
        (host.directory / "own" / "cgroup.procs").touch()
        host.cgroup = CgroupV1({"unified": str(host.directory / "own")})  # as that of a host of version 2 alone
        host.container(entry(kind, "ro"), namespaced=True).build()
        (found,) = below(host).values()
        assert "ro" in found.options.split(",")
        assert (host.rootfs / "sys/fs/cgroup/cgroup.procs").exists()

    monkeypatch.setattr(mounts, "mount", refuse)
    on_host(work)


def test_a_host_without_version_two_is_told_so(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        for each in reversed(read_mountinfo("cgroup2")):
            mounts.umount(each.mount_point, mounts.MNT_DETACH)
        with pytest.raises(FailedPreconditionError, match="cgroup2, but this host has no"):
            host.container(entry("cgroup2")).build()

    on_host(work)
