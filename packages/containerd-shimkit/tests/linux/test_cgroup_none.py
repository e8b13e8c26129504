from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containerd_shimkit import FailedPreconditionError, UnimplementedError
from containerd_shimkit.container.stats import read_stats
from containerd_shimkit.linux import cgroups
from containerd_shimkit.linux.cgroup import FreezerState
from containerd_shimkit.linux.cgroup_mounts import UNIFIED
from containerd_shimkit.linux.cgroup_none import NoCgroup, may_make
from containerd_shimkit.linux.cgroup_v2 import CgroupV2
from containerd_shimkit.linux.cgroups import cgroup_for, cgroup_of
from containerd_shimkit.linux.pidfd import identify
from containerd_shimkit.linux.user_namespaces import Standing
from containerd_shimkit.oci.resources import DeviceRule, Memory, Pids, Resources


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the host's root, and without any right to groups."""
    monkeypatch.setattr(cgroups, "own_standing", lambda: Standing(is_hosts_root=False, has_fixed_groups=True))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_args, **_more: False)


@pytest.mark.usefixtures("somebody")
def test_who_may_make_none_has_none_unless_one_is_named() -> None:
    assert isinstance(cgroup_for("", "c1"), NoCgroup)
    with pytest.raises(
        FailedPreconditionError, match=r"linux\.cgroupsPath is '/x', but user 1000 may make no cgroup in"
    ):
        cgroup_for("/x")
    with pytest.raises(UnimplementedError, match=r"'a\.slice:b:c', for the systemd cgroup driver, but user 1000"):
        cgroup_for("a.slice:b:c")
    with pytest.raises(UnimplementedError, match="leave it and --systemd-cgroup out"):
        cgroup_for("", by_systemd=True)


@pytest.mark.usefixtures("somebody")
def test_a_delegated_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_args, **_more: True)
    assert cgroup_for("", "c1").paths


@pytest.mark.root
def test_a_group_can_be_made_where_its_nearest_parent_and_what_moves_processes_are_writable(
    in_child: Callable[[Callable[[], object]], None],
) -> None:
    if os.geteuid():
        pytest.skip("becoming somebody else needs root")

    def work() -> None:
        with tempfile.TemporaryDirectory(dir="/tmp") as directory:
            os.chown(directory, 54321, 54321)
            os.seteuid(54321)
            group = CgroupV2({UNIFIED: f"{directory}/not/there"})
            assert may_make(group) == directory, "nobody can be moved to it"
            Path(directory, "cgroup.procs").touch()
            assert may_make(group) == ""
            Path(directory, "cgroup.procs").chmod(0o400)
            assert may_make(group) == directory
            os.chmod(directory, 0o500)
            assert may_make(group) == directory
            os.seteuid(0)

    in_child(work)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(memory=Memory(limit=5)), r"linux\.resources\.memory\.limit is '5', but the container of user"),
        (Resources(pids=Pids(limit=7)), r"linux\.resources\.pids\.limit is '7'"),
        (Resources(unified=(("memory.high", "1"),)), r"linux\.resources\.unified\['memory\.high'\] is '1'"),
    ],
)
def test_limits_are_refused_however_they_come(resources: Resources, message: str) -> None:
    for ask in (NoCgroup().check, NoCgroup().apply, NoCgroup().update):
        with pytest.raises(FailedPreconditionError, match=message):
            ask(resources)


def test_rules_of_devices_and_no_limits_are_taken() -> None:
    resources = Resources(devices=(DeviceRule(allow=False),), memory=Memory(limit=-1), pids=Pids(limit=-1))
    NoCgroup().check(resources)
    NoCgroup().make(os.getpid(), resources)


def test_what_needs_a_group_says_that_there_is_none() -> None:
    group = NoCgroup()
    assert group.freezer_state() is FreezerState.THAWED
    for ask in (group.freeze, group.thaw, group.watch_oom, lambda: read_stats(group)):
        with pytest.raises(FailedPreconditionError, match="no cgroup"):
            ask()
    group.create()
    group.join()
    group.let_killed_end()
    group.remove()
    assert group.try_remove()
    assert isinstance(cgroup_of({}), NoCgroup), "as it comes to an init"


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """An init in a pid namespace of its own, with a child, and a grandchild in a namespace of its own; says a line."""
    if os.geteuid():
        pytest.skip("a pid namespace takes root")
    script = "sleep 1005 & unshare --pid --fork sleep 1006 & echo; exec sleep 1007"
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.root
def test_its_processes_are_those_of_the_pid_namespace_and_below(family: subprocess.Popen[str]) -> None:
    assert family.stdout is not None
    family.stdout.readline()
    init = child_of(family.pid)
    group = NoCgroup(init=identify(init))
    found = group.pids()
    while len(found) < 4:  # init, its child, unshare(1) and what that has forked
        found = group.pids()
    assert found[0] == init
    assert family.pid not in found
    assert os.getpid() not in found
    assert group.has_processes()
    assert group.signal_all(signal.SIGKILL, but=init)
    while len(group.pids()) > 1:
        pass
    group.kill_all()
    assert group.pids() == []
    assert not group.has_processes()


def test_one_in_this_pid_namespace_has_no_company() -> None:
    assert NoCgroup(init=identify(os.getpid())).pids() == [os.getpid()]
    assert NoCgroup().pids() == []
