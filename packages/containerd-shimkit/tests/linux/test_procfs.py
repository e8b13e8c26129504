"""What is written to is in a procfs, or is not written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.container.apply import apply
from containerd_shimkit.container.operations import SetOomScoreAdj, SetSysctl
from containerd_shimkit.container.site import Site
from containerd_shimkit.container.steps import step_of
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.linux import mounts, namespaces, procfs
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.oci import mount_options as ms

InChild = Callable[[Callable[[], object]], None]


def test_a_procfs_is_known_by_its_type() -> None:
    with open("/proc/self/attr/current", "rb") as real, open("/etc/passwd", "rb") as other:
        assert procfs.is_on_procfs(real.fileno())
        assert not procfs.is_on_procfs(other.fileno())


def test_a_file_elsewhere_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "oom_score_adj").write_text("0")
    (tmp_path / "link").symlink_to("/proc/self/oom_score_adj")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="in no procfs") as caught:
        procfs.open_to_write(str(tmp_path / "oom_score_adj"))
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(OSError, match="symbolic links"):
        procfs.open_to_write(str(tmp_path / "link"))
    assert os.listdir("/proc/self/fd") == before


def test_what_is_there_is_opened() -> None:
    os.close(procfs.open_to_write("/proc/self/oom_score_adj"))
    with pytest.raises(FileNotFoundError):
        procfs.open_setting("net/no/such/setting")


@pytest.mark.root
def test_settings_are_not_written_to_what_only_looks_like_a_procfs(in_child: InChild, tmp_path: Path) -> None:
    """CVE-2025-52881: a write that is led to another file, in a procfs or not, is made nowhere."""

    def work() -> None:
        namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET)
        mounts.mount("", "/", "", ms.MS_REC | ms.MS_PRIVATE)
        mounts.mount("/proc", str(tmp_path), "", ms.MS_BIND)
        site = Site("", CgroupV1({}))
        net = Path("/proc/sys/net/ipv4")
        mounts.mount("tmpfs", str(net), "tmpfs")
        forwarding = net / "ip_forward"
        forwarding.write_text("0")
        with pytest.raises(InvalidArgumentError, match="in no procfs"):
            apply(step_of(SetSysctl("net/ipv4/ip_forward", "1", "network")), site)
        assert forwarding.read_text() == "0"
        forwarding.unlink()
        forwarding.symlink_to(tmp_path / "sys/kernel/core_pattern")
        before = Path("/proc/sys/kernel/core_pattern").read_text()
        with pytest.raises(InvalidArgumentError, match="symbolic links"):
            apply(step_of(SetSysctl("net/ipv4/ip_forward", "|/evil", "network")), site)
        assert Path("/proc/sys/kernel/core_pattern").read_text() == before
        mounts.mount("tmpfs", "/proc", "tmpfs")
        os.mkdir("/proc/self")
        Path("/proc/self/oom_score_adj").touch()
        with pytest.raises(InvalidArgumentError, match="in no procfs"):
            apply(step_of(SetOomScoreAdj(500)), site)

    in_child(work)
