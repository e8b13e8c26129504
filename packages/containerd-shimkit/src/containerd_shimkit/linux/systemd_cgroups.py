"""The systemd cgroup driver: systemd makes a container's group, as a scope, and leaves what is in it to us.

The scope is made for the container's init and delegated. What stands in its files is then set, read and watched as in
any other group; what systemd keeps a value of is told to systemd besides, as it would write its own at its next reload.
Everything here blocks until systemd has answered, for as long as `START_SECONDS` says. Needs systemd 244 or newer.
Source: org.freedesktop.systemd1(5); systemd, docs/CGROUP_DELEGATION.md and docs/CONTROL_GROUP_INTERFACE.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final

from jeepney import DBusAddress

from ..errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    ShimError,
    UnavailableError,
)
from ..oci.resources import Pids, Resources
from .booted import require_systemd
from .cgroup import Cgroup, path_parts
from .cgroup_files import steps
from .cgroup_mounts import UNIFIED, read_hierarchies
from .cgroup_v1 import CgroupV1
from .cgroup_v2 import CgroupV2
from .dbus import Bus, BusError
from .systemd_scope import Property, parse_scope_path, properties_of

__all__ = ["SCOPE", "START_SECONDS", "scope_for", "scope_from"]

SCOPE: Final = "scope"
"""Marks the `paths` of a group that systemd has made; its value is the directory whose last name is the unit's."""

START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 3.0  # containerd gives `delete` 5 s in all
_LEFT_OVER_SECONDS: Final = 1.0
_NAME: Final = "org.freedesktop.systemd1"
_MANAGER: Final = DBusAddress("/org/freedesktop/systemd1", _NAME, f"{_NAME}.Manager")
_JOB_REMOVED: Final = f"type='signal',sender='{_NAME}',interface='{_NAME}.Manager',member='JobRemoved'"
_UNIT_EXISTS: Final = f"{_NAME}.UnitExists"
_NO_SUCH_UNIT: Final = f"{_NAME}.NoSuchUnit"
_ENDED: Final = ("failed", "inactive", "deactivating")  # as ActiveState says


def scope_for(cgroups_path: str, id: str) -> Cgroup:  # noqa: A002
    """The group of the scope that slice:prefix:name names; nothing is made yet.

    Raises: InvalidArgumentError, naming the field and its value; FailedPreconditionError where systemd can have none.
    """
    name = parse_scope_path(cgroups_path, id)
    hierarchies = read_hierarchies()
    require_systemd(cgroups_path)
    if hierarchies.is_unified and hierarchies.v2 is not None:
        top = hierarchies.v2.mount_point
        directory = top.rstrip("/") + name.path
        return _ScopeV2({UNIFIED: directory, SCOPE: directory}, top)
    own = hierarchies.v1.get("name=systemd")
    if own is None:
        raise FailedPreconditionError(
            f"linux.cgroupsPath is {cgroups_path!r}, but systemd's own cgroup hierarchy is not mounted on this host"
        )
    paths = {controller: each.mount_point + name.path for controller, each in hierarchies.v1.items()}
    return _ScopeV1({**paths, SCOPE: own.mount_point + name.path})


def scope_from(paths: Mapping[str, str]) -> Cgroup:
    """The scope whose `paths` were noted down earlier. Raises: InvalidArgumentError for what cannot be ones."""
    directory = paths.get(SCOPE, "")
    if not directory.endswith(".scope") or directory not in [path for name, path in paths.items() if name != SCOPE]:
        raise InvalidArgumentError(f"{directory!r} cannot be the directory of a systemd scope")
    return _ScopeV2.from_paths(paths) if UNIFIED in paths else _ScopeV1.from_paths(paths)


class _Scope(Cgroup):
    """What systemd does of a group's life; the rest is done as for any other group."""

    __slots__ = ()

    waits: ClassVar[bool] = True

    @property
    def unit(self) -> str:
        """The scope's name."""
        return os.path.basename(self.paths[SCOPE])

    @property
    def slice_name(self) -> str:
        """The name of the slice that it is in: the group above says it whole."""
        above = os.path.basename(os.path.dirname(self.paths[SCOPE]))
        return above if above.endswith(".slice") else "-.slice"

    def make(self, pid: int, resources: Resources | None) -> None:
        resources = resources or Resources()
        properties = [
            ("Description", ("s", f"container {self.unit.removesuffix('.scope')}")),
            ("Slice", ("s", self.slice_name)),
            ("Delegate", ("b", True)),
            ("PIDs", ("au", [pid])),
            ("DefaultDependencies", ("b", False)),
            ("CollectMode", ("s", "inactive-or-failed")),  # what has ended is forgotten, failed or not
            *((f"{kind}Accounting", ("b", True)) for kind in ("CPU", "Memory", "IO", "Tasks")),
            *self._properties(resources if resources.pids and resources.pids.limit else _unlimited(resources)),
        ]
        with Bus.open_system(START_SECONDS) as bus:
            _start(bus, self.unit, properties)
            place = _control_group(bus, self.unit)
        if place and not _is_at(self.paths[SCOPE], place):
            raise InternalError(f"systemd has put {self.unit} into {place!r}, not where it was to be: {self.directory}")
        super().make(pid, resources)

    def update(self, resources: Resources) -> None:
        resources = self._completed(resources)
        self.check(resources)
        properties = self._properties(resources)
        if properties:
            with Bus.open_system(_STOP_SECONDS) as bus:
                _explained(bus, self.unit, "SetUnitProperties", "sba(sv)", self.unit, True, properties)
        super().update(resources)  # after systemd, which rounds

    def remove(self) -> None:
        if os.path.isdir(self.paths[SCOPE]):
            try:
                with Bus.open_system(_STOP_SECONDS) as bus:
                    _stop(bus, self.unit, self.paths[SCOPE])
            except (UnavailableError, DeadlineExceededError):
                pass  # nothing runs in it any more, which systemd sees for itself as soon as it can
        super().remove()

    def try_remove(self) -> bool:
        """Never does systemd's part: it looks at a group when its last process has ended, and removes it."""
        return not os.path.isdir(self.paths[SCOPE]) and super().try_remove()

    def _properties(self, resources: Resources) -> list[Property]:
        return list(properties_of(resources, self.version))


class _ScopeV1(_Scope, CgroupV1):
    __slots__ = ()


class _ScopeV2(_Scope, CgroupV2):
    __slots__ = ()

    @classmethod
    def from_paths(cls, paths: Mapping[str, str]) -> _ScopeV2:
        CgroupV2.from_paths(paths)
        return cls(paths)


def _unlimited(resources: Resources) -> Resources:
    """Without a limit of its own a scope would get systemd's default one for tasks."""
    return replace(resources, pids=Pids(-1))


def _start(bus: Bus, unit: str, properties: Sequence[Property]) -> None:
    """Start the scope and wait until it has been. Raises: ShimError."""
    bus.subscribe(_JOB_REMOVED)
    _explained(bus, unit, "Subscribe")
    job = _try_start(bus, unit, properties)
    for _ in steps(_LEFT_OVER_SECONDS):
        if job is not None:
            break
        job = _try_start(bus, unit, properties)  # systemd forgets a unit that has ended when it comes to it
    if job is None:
        raise _taken(unit, "ending")
    result = _wait_for(bus, job)
    if result != "done":
        raise InternalError(f"systemd could not start {unit}: the job's result is {result!r}; see journalctl -u {unit}")


def _try_start(bus: Bus, unit: str, properties: Sequence[Property]) -> object | None:
    """The job that starts the scope; None when one of that name had ended but was still there. Raises: ShimError."""
    try:
        return bus.call(_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, [])[0]
    except BusError as error:
        if error.name != _UNIT_EXISTS:
            raise _refused(unit, error) from error
        state = _active_state(bus, unit)
        if state not in (*_ENDED, ""):
            raise _taken(unit, state) from error
        _reset(bus, unit)
        return None


def _taken(unit: str, state: str) -> ShimError:
    return FailedPreconditionError(
        f"linux.cgroupsPath names the systemd unit {unit}, which exists already and is {state}; give each container a "
        "name of its own"
    )


def _stop(bus: Bus, unit: str, directory: str) -> None:
    """Stop the scope, if its group is *directory*, and wait until it has been. Raises: ShimError."""
    bus.subscribe(_JOB_REMOVED)
    try:
        bus.call(_MANAGER, "Subscribe")
        place = _control_group(bus, unit)
        if place and not _is_at(directory, place):
            return  # another one's, in another slice
        (job,) = bus.call(_MANAGER, "StopUnit", "ss", unit, "replace")
    except BusError as error:
        if error.name == _NO_SUCH_UNIT:
            return
        raise _refused(unit, error) from error
    _wait_for(bus, job)
    _reset(bus, unit)


def _reset(bus: Bus, unit: str) -> None:
    try:
        bus.call(_MANAGER, "ResetFailedUnit", "s", unit)
    except BusError as error:
        if error.name != _NO_SUCH_UNIT:
            raise _refused(unit, error) from error


def _wait_for(bus: Bus, job: object) -> object:
    """The result of a job. Source: org.freedesktop.systemd1(5), JobRemoved(id, job, unit, result)."""
    return bus.wait_for_signal("JobRemoved", lambda body: len(body) == 4 and body[1] == job)[3]


def _active_state(bus: Bus, unit: str) -> str:
    """What the unit is doing; empty when there is none."""
    return _unit_property(bus, unit, f"{_NAME}.Unit", "ActiveState")


def _control_group(bus: Bus, unit: str) -> str:
    """The unit's group below the hierarchy's root; empty when it has none."""
    return _unit_property(bus, unit, f"{_NAME}.Scope", "ControlGroup")


def _is_at(directory: str, place: str) -> bool:
    """Whether *directory* is where the group *place* is mounted: what stands before it is no part of the hierarchy."""
    return directory.endswith(place) and not any(
        name.endswith(".slice") for name in path_parts(directory.removesuffix(place))
    )


def _unit_property(bus: Bus, unit: str, interface: str, name: str) -> str:
    try:
        (path,) = bus.call(_MANAGER, "GetUnit", "s", unit)
        address = DBusAddress(str(path), _NAME, "org.freedesktop.DBus.Properties")
        (value,) = bus.call(address, "Get", "ss", interface, name)
    except BusError:
        return ""
    return value[1] if isinstance(value, tuple) and isinstance(value[1], str) else ""


def _explained(bus: Bus, unit: str, method: str, signature: str = "", *arguments: object) -> tuple[object, ...]:
    try:
        return bus.call(_MANAGER, method, signature, *arguments)
    except BusError as error:
        raise _refused(unit, error) from error


def _refused(unit: str, error: BusError) -> ShimError:
    return FailedPreconditionError(f"systemd refuses the scope {unit}: {error}")
