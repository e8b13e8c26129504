"""The driver against a systemd that is ours: what it says, and what it makes of each answer."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from containerd_shimkit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from containerd_shimkit.linux import booted, cgroup_v2, systemd_cgroups
from containerd_shimkit.linux.cgroup import Cgroup
from containerd_shimkit.linux.cgroup_mounts import Hierarchies, Hierarchy
from containerd_shimkit.linux.cgroups import cgroup_for, cgroup_from
from containerd_shimkit.oci.resources import Memory, Pids, Resources

UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"


def _load(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


fake = _load("fake_systemd")
Start = Callable[..., Any]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a fake systemd; keywords are handlers by method."""
    path = tmp_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    started: list[Any] = []

    def start(*, job_result: str = "done", **handlers: Any) -> Any:
        place = {"Get": lambda body: ("v", (("s", "/a.slice/x-c1.scope" if body[1] == "ControlGroup" else "active"),))}
        started.append(fake.FakeSystemd(path, {**place, **handlers}, job_result=job_result))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    """A scope in a hierarchy that is a directory of ours, whose group systemd has made."""
    top = tmp_path / "cgroup"
    directory = top / "a.slice" / "x-c1.scope"
    directory.mkdir(parents=True)
    for each in (top, directory.parent, directory):
        (each / "cgroup.controllers").write_text("memory pids\n")
        (each / "cgroup.subtree_control").write_text("memory pids\n")
    for name in ("memory.max", "pids.max", "memory.swap.max"):
        (directory / name).write_text("max\n")
    hierarchies = Hierarchies({}, Hierarchy(str(top), "/"), is_unified=True)
    monkeypatch.setattr(systemd_cgroups, "read_hierarchies", lambda: hierarchies)
    monkeypatch.setattr(cgroup_v2, "read_hierarchies", lambda: hierarchies)
    monkeypatch.setattr(booted, "_DIRECTORY", str(tmp_path))
    return cgroup_for("a.slice:x:c1")


def test_a_scope_is_started_for_the_process_and_its_limits_are_set(systemd: Start, group: Cgroup) -> None:
    peer = systemd()
    group.make(4321, Resources(memory=Memory(limit=1 << 20)))
    assert peer.names() == ["StartTransientUnit", "GetUnit", "Get"]
    (_, arguments) = next(call for call in peer.calls if call[0] == "StartTransientUnit")
    unit, mode, properties, others = arguments
    assert (unit, mode, others) == ("x-c1.scope", "replace", [])
    assert dict(properties) == {
        "Description": ("s", "container x-c1"),
        "Slice": ("s", "a.slice"),
        "Delegate": ("b", True),
        "PIDs": ("au", [4321]),
        "DefaultDependencies": ("b", False),
        "CollectMode": ("s", "inactive-or-failed"),
        "CPUAccounting": ("b", True),
        "MemoryAccounting": ("b", True),
        "IOAccounting": ("b", True),
        "TasksAccounting": ("b", True),
        "MemoryMax": ("t", 1 << 20),
        "TasksMax": ("t", (1 << 64) - 1),
    }
    assert Path(group.directory, "memory.max").read_text().startswith(str(1 << 20))


def test_a_unit_that_has_ended_is_reset_and_its_name_taken(systemd: Start, group: Cgroup) -> None:
    answers = [fake.Refusal(UNIT_EXISTS), ("o", (fake.JOB,))]
    peer = systemd(
        StartTransientUnit=lambda _: answers.pop(0),
        Get=lambda body: ("v", (("s", "/a.slice/x-c1.scope" if body[1] == "ControlGroup" else "failed"),)),
    )
    group.make(1, None)
    first = ["StartTransientUnit", "GetUnit", "Get", "ResetFailedUnit", "StartTransientUnit"]
    assert peer.names() == [*first, "GetUnit", "Get"]


def test_a_unit_that_lives_is_left_alone(systemd: Start, group: Cgroup) -> None:
    peer = systemd(StartTransientUnit=lambda _: fake.Refusal(UNIT_EXISTS))
    with pytest.raises(FailedPreconditionError, match=r"x-c1\.scope, which exists already and is active"):
        group.make(1, None)
    assert peer.names() == ["StartTransientUnit", "GetUnit", "Get"]


def test_a_unit_that_never_goes_is_given_up(systemd: Start, group: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_cgroups, "_LEFT_OVER_SECONDS", 0.05)
    systemd(StartTransientUnit=lambda _: fake.Refusal(UNIT_EXISTS), Get=lambda _: ("v", (("s", "deactivating"),)))
    with pytest.raises(FailedPreconditionError, match="which exists already and is ending"):
        group.make(1, None)


def test_what_systemd_refuses_is_said_in_its_words(systemd: Start, group: Cgroup) -> None:
    systemd(StartTransientUnit=lambda _: fake.Refusal("org.x.Odd", "no such property"))
    with pytest.raises(FailedPreconditionError, match=re.escape("x-c1.scope: no such property (org.x.Odd)")):
        group.make(1, None)


def test_a_job_that_fails_is_an_error(systemd: Start, group: Cgroup) -> None:
    systemd(job_result="timeout")
    with pytest.raises(InternalError, match="the job's result is 'timeout'"):
        group.make(1, None)


def test_a_scope_in_another_place_is_an_error(systemd: Start, group: Cgroup) -> None:
    systemd(Get=lambda _: ("v", (("s", "/other.slice/x-c1.scope"),)))
    with pytest.raises(InternalError, match=r"has put x-c1\.scope into '/other\.slice/x-c1\.scope'"):
        group.make(1, None)


def test_a_systemd_that_does_not_answer_is_given_up(
    systemd: Start, group: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_cgroups, "START_SECONDS", 0.2)
    systemd(StartTransientUnit=lambda _: None)
    with pytest.raises(DeadlineExceededError, match="did not answer"):
        group.make(1, None)


def test_without_a_bus_the_cure_is_said(group: Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    with pytest.raises(UnavailableError, match="start dbus, or set the kubelet's cgroupDriver to cgroupfs"):
        group.make(1, None)


def test_a_bus_that_will_not_have_us_is_one_that_cannot_be_used(systemd: Start, group: Cgroup) -> None:
    systemd(Hello=lambda _: fake.Refusal("org.freedesktop.DBus.Error.LimitsExceeded", "too many"))
    with pytest.raises(UnavailableError, match=r"cannot be used.*too many"):
        group.make(1, None)


def test_an_update_is_told_to_systemd_before_it_is_written(systemd: Start, group: Cgroup) -> None:
    peer = systemd()
    group.update(Resources(pids=Pids(5)))
    assert peer.calls[-1] == ("SetUnitProperties", ("x-c1.scope", True, [("TasksMax", ("t", 5))]))
    assert Path(group.directory, "pids.max").read_text().startswith("5")


def test_an_update_that_systemd_refuses_changes_nothing(systemd: Start, group: Cgroup) -> None:
    systemd(SetUnitProperties=lambda _: fake.Refusal("org.x.Odd"))
    with pytest.raises(FailedPreconditionError, match="because"):
        group.update(Resources(pids=Pids(5)))
    assert Path(group.directory, "pids.max").read_text() == "max\n"


def empty(group: Cgroup) -> None:
    """Make the group's directory as empty as the kernel's are."""
    for path in Path(group.directory).iterdir():
        path.unlink()


def test_removing_stops_the_unit_and_waits_for_it(systemd: Start, group: Cgroup) -> None:
    peer = systemd()
    empty(group)
    group.remove()
    assert peer.names() == ["GetUnit", "Get", "StopUnit", "ResetFailedUnit"]
    assert not os.path.exists(group.directory)


@pytest.mark.parametrize("place", ["/other.slice/x-c1.scope", "/x-c1.scope"])
def test_removing_leaves_a_unit_of_the_name_elsewhere_alone(systemd: Start, group: Cgroup, place: str) -> None:
    peer = systemd(Get=lambda _: ("v", (("s", place),)))
    empty(group)
    group.remove()
    assert peer.names() == ["GetUnit", "Get"]


def test_removing_what_systemd_has_forgotten_is_no_error(systemd: Start, group: Cgroup) -> None:
    systemd(GetUnit=lambda _: fake.Refusal(NO_SUCH_UNIT), StopUnit=lambda _: fake.Refusal(NO_SUCH_UNIT))
    empty(group)
    group.remove()
    assert not os.path.exists(group.directory)


def test_removing_does_without_a_bus(group: Cgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    empty(group)
    group.remove()
    assert not os.path.exists(group.directory)


def test_nothing_is_removed_under_systemds_hands(group: Cgroup) -> None:
    empty(group)
    assert not group.try_remove()
    os.rmdir(group.directory)  # by systemd, as the last process has ended
    assert group.try_remove()


def test_noted_paths_lead_back_to_the_scope(group: Cgroup) -> None:
    again = cgroup_from(group.paths)
    assert (type(again), again.paths) == (type(group), group.paths)


@pytest.mark.parametrize(
    "paths",
    [
        {"unified": "/cg/a.slice/x.scope", "scope": "/cg/a.slice/sshd.service"},
        {"unified": "/cg/a.slice/x.scope", "scope": "/cg/a.slice/y.scope"},
        {"scope": "/cg/a.slice/y.scope"},
        {"unified": "/cg/../x.scope", "scope": "/cg/../x.scope"},
    ],
)
def test_paths_that_cannot_be_a_scopes_are_refused(paths: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be"):
        cgroup_from(paths)


def test_where_systemd_is_not_the_init_the_cure_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(booted, "_DIRECTORY", str(tmp_path / "none"))
    with pytest.raises(FailedPreconditionError, match=r"'a\.slice:x:c1'.*cgroupDriver, or the runtime's, to cgroupfs"):
        cgroup_for("a.slice:x:c1")


def test_a_host_of_version_1_has_the_scope_in_each_hierarchy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hierarchies = Hierarchies({"name=systemd": Hierarchy("/cg/systemd", "/"), "cpu": Hierarchy("/cg/cpu", "/")})
    monkeypatch.setattr(systemd_cgroups, "read_hierarchies", lambda: hierarchies)
    monkeypatch.setattr(booted, "_DIRECTORY", str(tmp_path))
    group = cgroup_for("a-b.slice:x:c1")
    assert group.version == 1
    assert group.paths == {
        "name=systemd": "/cg/systemd/a.slice/a-b.slice/x-c1.scope",
        "cpu": "/cg/cpu/a.slice/a-b.slice/x-c1.scope",
        "scope": "/cg/systemd/a.slice/a-b.slice/x-c1.scope",
    }
    assert cgroup_from(group.paths).paths == group.paths


def test_a_path_of_the_other_form_is_refused_when_systemd_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(booted, "_DIRECTORY", str(tmp_path))
    with pytest.raises(InvalidArgumentError, match="takes slice:prefix:name"):
        cgroup_for("/default/c1", by_systemd=True)
