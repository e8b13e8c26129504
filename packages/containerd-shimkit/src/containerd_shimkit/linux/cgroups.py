"""A container's control group, version 1: one directory in each hierarchy. Source: kernel, admin-guide/cgroup-v1."""

from __future__ import annotations

import errno
import functools
import os
import posixpath
import time
from collections.abc import Iterator, Mapping
from signal import SIGKILL
from typing import Final

from ..errors import InvalidArgumentError, UnimplementedError
from ..oci.spec import Cpu, DeviceRule, Memory, Resources
from .mounts import read_mountinfo

__all__ = ["CgroupV1"]

_RETRIES: Final = 50
_RETRY_SECONDS: Final = 0.01
_UNLIMITED: Final = -1


class CgroupV1:
    """The directories of one control group, by controller (named hierarchies as `name=systemd`)."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)

    @classmethod
    def for_path(cls, cgroups_path: str) -> CgroupV1:
        """The control group at *cgroups_path*, counted from each hierarchy's mount; nothing is made yet.

        Raises: InvalidArgumentError for a path that names no group of its own; UnimplementedError for systemd's form,
        and on a host without version 1.
        """
        if cgroups_path.count(":") == 2 and "/" not in cgroups_path:
            raise UnimplementedError(
                f"linux.cgroupsPath {cgroups_path!r} is for the systemd cgroup driver, which this version does not "
                "have; set the kubelet's cgroupDriver to cgroupfs"
            )
        if ".." in cgroups_path.split("/"):
            raise InvalidArgumentError(f"linux.cgroupsPath {cgroups_path!r} has `..` in it")
        path = posixpath.normpath("/" + cgroups_path.lstrip("/"))
        if path == "/":
            raise InvalidArgumentError(
                f"linux.cgroupsPath {cgroups_path!r} is the root of all control groups; name one for this container"
            )
        mounts = _hierarchies()
        if not mounts:
            raise UnimplementedError(
                f"linux.cgroupsPath {cgroups_path!r}: this host has no cgroup version 1 hierarchies, and this version "
                "of the shim does not know version 2; boot with systemd.unified_cgroup_hierarchy=0"
            )
        return cls({controller: mount + path for controller, mount in mounts.items()})

    @classmethod
    def from_paths(cls, paths: Mapping[str, str]) -> CgroupV1:
        """The control group whose `paths` were noted down earlier."""
        return cls(paths)

    def create(self) -> None:
        """Make the directories where they are missing. Raises: OSError."""
        for controller, path in self._directories():
            if "cpuset" in controller.split(","):
                _make_cpuset(path)
            else:
                os.makedirs(path, mode=0o755, exist_ok=True)

    def apply(self, resources: Resources) -> None:
        """Set the limits of *resources*.

        Raises: InvalidArgumentError with field and value for what the kernel refuses; FileNotFoundError for a
        controller that the host does not have.
        """
        if resources.devices:
            self._apply_devices(resources.devices)
        if resources.cpu:
            self._apply_cpu(resources.cpu)
        if resources.memory:
            self._apply_memory(resources.memory)
        if resources.pids and resources.pids.limit is not None:
            limit = resources.pids.limit
            self._set("pids", "pids.max", "pids.limit", "max" if limit <= 0 else limit)

    def join(self) -> None:
        """Move the calling process in, which must have one thread.

        By `tasks`, not `cgroup.procs`: moving a single thread takes no global lock, and on an idle host saves the
        10 ms of an RCU grace period. Raises: OSError.
        """
        for _controller, path in self._directories():
            _write(f"{path}/tasks", "0")

    def pids(self) -> list[int]:
        """The processes in the group and in groups below it, in this process's pid namespace. Empty when it is gone."""
        path = self.paths.get("pids") or next(iter(self.paths.values()), "")
        found: list[int] = []
        for directory, _names, _files in os.walk(path):
            found += _read_pids(directory)
        return found

    def signal_all(self, signal: int) -> bool:
        """Send *signal* to every process there is now; False when there was none."""
        pids = self.pids()
        for pid in pids:
            try:
                os.kill(pid, signal)
            except ProcessLookupError:
                pass
        return bool(pids)

    def kill_all(self) -> None:
        """End every process, also those that are born meanwhile; blocks until they have gone, 2 s at most."""
        for _attempt in range(_RETRIES * 4):
            if not self.signal_all(SIGKILL):
                return
            time.sleep(_RETRY_SECONDS)

    def remove(self) -> None:
        """Remove the group and those below it; the groups above stay. Raises: OSError for one still in use."""
        for _controller, path in self._directories():
            if not os.path.isdir(path):
                continue
            for directory, _names, _files in os.walk(path, topdown=False):
                _remove_directory(directory)

    def _directories(self) -> Iterator[tuple[str, str]]:
        """Each directory once, though controllers may share a hierarchy (cpu and cpuacct)."""
        seen: set[str] = set()
        for controller, path in self.paths.items():
            if path not in seen:
                seen.add(path)
                yield controller, path

    def _set(self, controller: str, file: str, field: str, value: int | str) -> None:
        directory = self.paths.get(controller)
        if directory is None:
            raise InvalidArgumentError(
                f"linux.resources.{field} is {value}, but this host has no {controller} cgroup controller; "
                "leave the limit out, or enable the controller"
            )
        try:
            _write(f"{directory}/{file}", str(value))
        except OSError as error:
            raise InvalidArgumentError(
                f"linux.resources.{field} is {value}, which the kernel refuses: {error.strerror} ({file})"
            ) from error

    def _apply_devices(self, rules: tuple[DeviceRule, ...]) -> None:
        for index, rule in enumerate(rules):
            file = "devices.allow" if rule.allow else "devices.deny"
            self._set("devices", file, f"devices[{index}]", _device_rule(rule))

    def _apply_cpu(self, cpu: Cpu) -> None:
        table = (
            ("cpu", "cpu.shares", "cpu.shares", cpu.shares),
            ("cpu", "cpu.cfs_period_us", "cpu.period", cpu.period),
            ("cpu", "cpu.cfs_quota_us", "cpu.quota", cpu.quota),
            ("cpu", "cpu.cfs_burst_us", "cpu.burst", cpu.burst),
            ("cpuset", "cpuset.cpus", "cpu.cpus", cpu.cpus),
            ("cpuset", "cpuset.mems", "cpu.mems", cpu.mems),
        )
        for controller, file, field, value in table:
            if value:  # 0 means "not set" to everybody who writes these
                self._set(controller, file, field, value)

    def _apply_memory(self, memory: Memory) -> None:
        if memory.disable_oom_killer:
            self._set("memory", "memory.oom_control", "memory.disableOOMKiller", 1)
        limits = [("memory.limit_in_bytes", "memory.limit", memory.limit)]
        if memory.swap:
            limits.append(("memory.memsw.limit_in_bytes", "memory.swap", memory.swap))
        if memory.limit == _UNLIMITED and memory.swap:
            limits.reverse()  # the sum's limit may never be below the memory's, at any moment
        for file, field, value in [*limits, ("memory.soft_limit_in_bytes", "memory.reservation", memory.reservation)]:
            if value:
                self._set("memory", file, field, value)
        if memory.swappiness is not None:
            self._set("memory", "memory.swappiness", "memory.swappiness", memory.swappiness)


@functools.cache
def _hierarchies() -> Mapping[str, str]:
    """Mount points by controller. Read once: a host does not change them."""
    found: dict[str, str] = {}
    for mount in read_mountinfo():
        if mount.fstype != "cgroup":
            continue
        words = [word for word in mount.super_options.split(",") if word not in ("rw", "ro", "xattr", "clone_children")]
        found.update({word: mount.mount_point for word in words if "=" not in word or word.startswith("name=")})
    return found


def _device_rule(rule: DeviceRule) -> str:
    kind = rule.type or "a"
    major, minor = ("*" if number in (None, -1) else str(number) for number in (rule.major, rule.minor))
    return f"{kind} {major}:{minor} {rule.access or 'rwm'}"


def _make_cpuset(path: str) -> None:
    """Make a cpuset and its parents: none may be joined before it has CPUs and memory nodes."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_cpuset(parent)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return  # by another container at the same moment, which fills it in too
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not _read(f"{path}/{file}").strip():
            _write(f"{path}/{file}", _read(f"{parent}/{file}").strip())


def _remove_directory(path: str) -> None:
    for attempt in range(_RETRIES):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            # a process that has just ended may still be counted
            if error.errno != errno.EBUSY or attempt == _RETRIES - 1:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _read_pids(directory: str) -> list[int]:
    try:
        return [int(line) for line in _read(f"{directory}/cgroup.procs").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    except OSError as error:
        if error.errno == errno.ENODEV:  # removed while it was read
            return []
        raise


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
