from __future__ import annotations

import pytest
from containerd_shimkit.linux.cgroup_mounts import Hierarchies, Hierarchy, find_hierarchies, own_directory
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.cgroup_v2 import CgroupV2
from containerd_shimkit.linux.cgroups import cgroup_for, cgroup_from, cgroup_of
from containerd_shimkit.linux.mounts import parse_mountinfo

HYBRID = """\
32 31 0:29 / /cg/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd,release_agent=/x
38 31 0:36 /docker/abc /cg/pids rw - cgroup cgroup rw,pids,clone_children
41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw
42 31 0:39 / /tmp rw - tmpfs cpu rw
"""
UNIFIED = "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
NAMED = "40 31 0:37 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n"
ELSEWHERE = "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n"
NET = "43 31 0:40 / /run/net_cls rw - cgroup cgroup rw,net_cls\n"


def test_hierarchies_are_found_by_controller_and_by_name() -> None:
    assert find_hierarchies(parse_mountinfo(HYBRID)) == Hierarchies(
        {
            "cpu": Hierarchy("/cg/cpu,cpuacct", "/"),
            "cpuacct": Hierarchy("/cg/cpu,cpuacct", "/"),
            "name=systemd": Hierarchy("/cg/systemd", "/"),
            "pids": Hierarchy("/cg/pids", "/docker/abc"),
        },
        Hierarchy("/cg/unified", "/"),
    )


@pytest.mark.parametrize(
    ("mounts", "is_unified"),
    [
        ("", False),
        (HYBRID, False),
        (UNIFIED, True),
        (ELSEWHERE, True),
        (ELSEWHERE + NAMED, True),
        (ELSEWHERE + NET, False),
        (NET + UNIFIED, True),
    ],
)
def test_version_1_wins_where_it_has_the_controllers(
    monkeypatch: pytest.MonkeyPatch, mounts: str, is_unified: bool
) -> None:
    found = find_hierarchies(parse_mountinfo(mounts))
    assert found.is_unified == is_unified
    if mounts:
        for module in ("cgroups", "cgroup_v1", "cgroup_v2"):
            monkeypatch.setattr(f"containerd_shimkit.linux.{module}.read_hierarchies", lambda: found)
        assert isinstance(cgroup_for("/default/c1"), CgroupV2 if is_unified else CgroupV1)


def test_a_group_is_found_again_by_its_paths() -> None:
    for make in (cgroup_from, cgroup_of):
        unified = make({"unified": "/sys/fs/cgroup/default/c1"})
        assert isinstance(unified, CgroupV2)
        assert unified.directory == "/sys/fs/cgroup/default/c1"
        assert isinstance(make({"pids": "/sys/fs/cgroup/pids/default/c1"}), CgroupV1)


def test_our_own_group_may_be_outside_of_what_is_mounted() -> None:
    assert own_directory("/docker/abc/sub", Hierarchy("/cg/pids", "/docker/abc")) == "/cg/pids/sub"
    assert own_directory("/elsewhere", Hierarchy("/cg/pids", "/docker/abc")) == "/cg/pids"
