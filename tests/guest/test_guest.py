"""The guest of scripts/test --vm is what its other tests take it for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from containerd_shimkit.linux.mounts import read_mountinfo

pytestmark = pytest.mark.guest

if not Path("/opt/project/guest.json").exists():
    pytest.skip("this is not the guest of scripts/test --vm", allow_module_level=True)


def test_control_groups_are_of_version_2_with_their_controllers() -> None:
    kinds = {mount.mount_point: mount.fstype for mount in read_mountinfo() if mount.fstype.startswith("cgroup")}
    assert kinds == {"/sys/fs/cgroup": "cgroup2"}
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"cpu", "cpuset", "hugetlb", "io", "memory", "pids"} <= set(controllers)


def test_systemd_is_the_init_and_answers_on_d_bus() -> None:
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    call = ["busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
    asked = [*call, "org.freedesktop.systemd1.Manager", "Version"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.startswith('s "')


def test_apparmor_is_enabled_and_profiles_can_be_loaded() -> None:
    assert Path("/sys/module/apparmor/parameters/enabled").read_text() == "Y\n"
    assert Path("/sys/kernel/security/lsm").read_text().split(",").count("apparmor") == 1
    profile = "profile of-a-test { }\n"
    for option in ("--add", "--remove"):
        subprocess.run(["apparmor_parser", option], input=profile, text=True, check=True)


def test_everything_runs_as_root_of_the_first_user_namespace() -> None:
    assert os.geteuid() == 0
    assert Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
