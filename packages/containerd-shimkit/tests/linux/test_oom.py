from __future__ import annotations

from pathlib import Path

import pytest
from containerd_shimkit.linux.cgroup import Cgroup
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.cgroup_v2 import CgroupV2


@pytest.mark.parametrize(
    ("kind", "controller", "file", "text"),
    [
        (CgroupV1, "memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        (CgroupV2, "unified", "memory.events", "low 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n"),
    ],
)
def test_killed_processes_are_counted_as_long_as_the_group_is_there(
    tmp_path: Path, kind: type[Cgroup], controller: str, file: str, text: str
) -> None:
    group = kind({controller: str(tmp_path)})
    assert group.oom_kills() == 0
    (tmp_path / file).write_text(text)
    assert group.oom_kills() == 3
    (tmp_path / file).write_text("under_oom 0\n")  # a kernel that does not count
    assert group.oom_kills() == 0


def test_a_host_without_the_memory_controller_counts_nothing(tmp_path: Path) -> None:
    assert CgroupV1({"pids": str(tmp_path)}).oom_kills() == 0
