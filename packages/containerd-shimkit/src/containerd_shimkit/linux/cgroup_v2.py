"""A container's control group, version 2: one directory in the host's one hierarchy.

Source: kernel, admin-guide/cgroup-v2.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from signal import SIGKILL
from typing import ClassVar, Final

from ..errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ShimError,
)
from ..oci.resources import DeviceRule, Resources
from .bpf import load_device_program, replace_device_program
from .cgroup import Cgroup, FreezerState, checked_path, path_parts
from .cgroup_files import GONE, make_directory, pids_below, read, steps, write, write_if_there
from .cgroup_mounts import UNIFIED, own_directory, own_groups, read_hierarchies
from .cgroup_settings import Setting
from .cgroup_settings_v2 import compile_unified
from .device_program import compile_rules
from .oom import OomWatch, OomWatchV2, read_oom_kills

__all__ = ["CgroupV2"]

_KILL_SECONDS: Final = 5.0


class CgroupV2(Cgroup):
    """One directory."""

    __slots__ = ("_not_enabled", "_top")

    version: ClassVar[int] = 2

    def __init__(self, paths: Mapping[str, str], top: str = "") -> None:
        """*top* is where the hierarchy is mounted; only needed to make the group."""
        super().__init__(paths)
        self._top = top
        self._not_enabled: dict[str, OSError] = {}

    @classmethod
    def for_path(cls, cgroups_path: str, id: str = "") -> CgroupV2:  # noqa: A002
        """The group that `linux.cgroupsPath` names; nothing is made yet.

        An absolute path counts from the hierarchy's mount, a relative one from the group above this process's own: a
        group with processes cannot have limited groups in it. Raises: InvalidArgumentError, UnimplementedError, naming
        the field and its value; FailedPreconditionError when this host has no hierarchy.
        """
        path = checked_path(cgroups_path or id)
        hierarchy = read_hierarchies().v2
        if hierarchy is None:
            raise FailedPreconditionError(
                f"linux.cgroupsPath is {cgroups_path!r}, but cgroup version 2 is not mounted on this host"
            )
        top = hierarchy.mount_point
        if not path.startswith("/"):
            above = own_directory(os.path.dirname(own_groups().get("", "/")), hierarchy)
            return cls({UNIFIED: os.path.join(above, path)}, top)
        return cls({UNIFIED: top.rstrip("/") + path}, top)

    @classmethod
    def from_paths(cls, paths: Mapping[str, str]) -> CgroupV2:
        """The group whose `paths` were noted down earlier. Raises: InvalidArgumentError for what cannot be ones."""
        path = paths.get(UNIFIED, "")
        if not path.startswith("/") or ".." in path.split("/") or len(path_parts(path)) < 2:
            raise InvalidArgumentError(f"{path!r} cannot be the directory of a container's cgroup")
        return cls({UNIFIED: path})

    def create(self) -> None:
        """As for every group. Each group above, up to the hierarchy's root, hands on the controllers that it can."""
        directory = self._top
        for name in path_parts(os.path.relpath(self.directory, self._top)):
            self._enable_controllers(directory)
            directory = f"{directory}/{name}"
            make_directory(directory)

    def check(self, resources: Resources) -> None:
        settings = compile_unified(resources)
        if resources.devices:
            compile_rules(resources.devices)
        if settings and self._top:
            there = {*read(f"{self._top}/cgroup.controllers").split(), "cgroup"}
            for setting in settings:
                if setting.controller not in there and not setting.may_lack:
                    raise _no_controller(setting)

    def apply(self, resources: Resources) -> None:
        super().apply(resources)
        if resources.devices:
            program = _load(resources.devices)
            try:
                self._guard_devices(program)
            finally:
                os.close(program)

    def update(self, resources: Resources) -> None:
        if not resources.devices:
            return super().update(resources)
        program = _load(resources.devices)  # first, as it is the more likely to fail
        try:
            super().update(resources)
            self._guard_devices(program)
        finally:
            os.close(program)

    def join(self) -> None:
        try:
            write(f"{self.directory}/cgroup.procs", "0")
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                reason = "a group above is a threaded one, in which no process can be; choose another linux.cgroupsPath"
                raise OSError(error.errno, reason, self.directory) from None
            if error.errno == errno.EBUSY:
                reason = "the group hands controllers on to groups in it, and cannot have processes of its own"
                raise OSError(error.errno, reason, self.directory) from None
            raise

    def pids(self) -> list[int]:
        return sorted(pids_below(self._directories))

    def has_processes(self) -> bool:
        try:
            return "populated 1" in read(f"{self.directory}/cgroup.events")
        except OSError as error:
            if error.errno in GONE:
                return False
            raise

    def kill_all(self, signal: int = SIGKILL) -> None:
        if signal != SIGKILL:
            self.signal_all(signal)
            return
        if not self.has_processes():
            return
        if write_if_there(f"{self.directory}/cgroup.kill", "1"):
            is_empty = self._wait_for("populated 0", _KILL_SECONDS)
        else:  # before Linux 5.14; the frozen can die here
            is_empty = any(not self.signal_all(SIGKILL) for _ in steps(_KILL_SECONDS))
        if not is_empty:
            raise self._left_over(_KILL_SECONDS)

    def let_killed_end(self) -> None:
        """Here the frozen can die."""

    def freeze(self, timeout: float = 10.0) -> None:
        self._write_freezer("1")
        if not self._wait_for("frozen 1", timeout):
            self._write_freezer("0")
            raise DeadlineExceededError(
                f"the processes of {self.directory} did not all stop within {timeout:g} s; they go on"
            )

    def thaw(self, timeout: float = 10.0) -> None:
        self._write_freezer("0")
        if not self._wait_for("frozen 0", timeout):
            raise FailedPreconditionError(
                f"{self.directory} stays frozen: a group above is, which somebody else has to thaw"
            )

    def freezer_state(self) -> FreezerState:
        if "frozen 1" in self._read(f"{self.directory}/cgroup.events"):
            return FreezerState.FROZEN
        asked = self._read(f"{self.directory}/cgroup.freeze").strip() == "1"
        return FreezerState.FREEZING if asked else FreezerState.THAWED

    def watch_oom(self) -> OomWatch:
        try:
            return OomWatchV2(self.directory)
        except OSError as error:
            if error.errno not in GONE:
                raise
            if not os.path.isdir(self.directory):
                raise self._gone() from error
            raise FailedPreconditionError(
                f"the memory controller, which would tell of OOM kills, is not enabled for {self.directory}"
            ) from error

    def oom_kills(self) -> int:
        return read_oom_kills(f"{self.directory}/memory.events")

    def _settings(self, resources: Resources) -> Sequence[Setting]:
        return compile_unified(resources)

    def _directory_of(self, controller: str) -> str | None:
        return self.directory

    def _memory_usage(self) -> int:
        return int(self._present("memory.current") or 0)

    def _completed(self, resources: Resources) -> Resources:
        """A period without a quota, and a sum with swap without a memory limit, keep the other as it is."""
        cpu, memory = resources.cpu, resources.memory
        if cpu is not None and bool(cpu.quota) != bool(cpu.period) and (text := self._present("cpu.max")):
            quota, period = text.split()
            now = -1 if quota == "max" else int(quota)
            cpu = replace(cpu, quota=cpu.quota or now, period=cpu.period or int(period))
        if memory is not None and memory.swap and memory.swap > 0 and not memory.limit:
            limit = self._present("memory.max") or "max"
            memory = replace(memory, limit=None if limit == "max" else int(limit))
        return replace(resources, cpu=cpu, memory=memory)

    def _present(self, file: str) -> str:
        """What a file says now; empty when there is no such file. Raises: NotFoundError when the group is gone."""
        try:
            return self._read(f"{self.directory}/{file}").strip()
        except NotFoundError:
            if not os.path.isdir(self.directory):
                raise
            return ""

    def _why_missing(self, setting: Setting) -> ShimError:
        if not os.path.isdir(self.directory):
            return self._gone()
        what = f"linux.resources.{setting.field} is {setting.value!r}"
        controllers = read(f"{self.directory}/cgroup.controllers").split()
        if setting.controller in (*controllers, "cgroup"):
            return FailedPreconditionError(
                f"{what}, but this kernel has no {setting.file}: it is switched off there; leave the limit out"
            )
        reason = self._not_enabled.get(setting.controller)
        if reason is None:
            return _no_controller(setting)
        return FailedPreconditionError(
            f"{what}, but {reason.filename} cannot hand on its {setting.controller} controller: {reason.strerror}; "
            "a group with processes, or real-time ones, cannot: choose another linux.cgroupsPath"
        )

    def _enable_controllers(self, directory: str) -> None:
        path = f"{directory}/cgroup.subtree_control"
        enabled = read(path).split()
        missing = [name for name in read(f"{directory}/cgroup.controllers").split() if name not in enabled]
        if not missing:
            return
        try:
            write(path, " ".join(f"+{name}" for name in missing))
        except OSError:
            # all or none are enabled by one write: those that can be, by one each
            for name in missing:
                try:
                    write(path, f"+{name}")
                except OSError as error:
                    self._not_enabled[name] = OSError(error.errno, error.strerror, directory)

    def _guard_devices(self, program: int) -> None:
        try:
            group = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise self._gone() from error
        try:
            replace_device_program(group, program)
        except OSError as error:
            raise PermissionDeniedError(
                f"linux.resources.devices cannot be put in force for {self.directory}: {error.strerror}"
            ) from error
        finally:
            os.close(group)

    def _write_freezer(self, word: str) -> None:
        if not write_if_there(f"{self.directory}/cgroup.freeze", word):
            if not os.path.isdir(self.directory):
                raise self._gone()
            raise FailedPreconditionError("this kernel cannot freeze cgroups of version 2: it is older than Linux 5.2")

    def _wait_for(self, line: str, timeout: float) -> bool:
        """Wait until `cgroup.events` has *line*, at most *timeout* seconds; whether it does. A removed group does."""
        give_up = time.monotonic() + timeout
        try:
            events = os.open(f"{self.directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while line.encode() not in os.pread(events, 4096, 0):
                left = give_up - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
        except OSError as error:
            if error.errno not in GONE:
                raise
        finally:
            os.close(events)
        return True


def _no_controller(setting: Setting) -> ShimError:
    return FailedPreconditionError(
        f"linux.resources.{setting.field} is {setting.value!r}, but this host's cgroup version 2 has no "
        f"{setting.controller} controller; leave it out or enable that"
    )


def _load(rules: tuple[DeviceRule, ...]) -> int:
    try:
        return load_device_program(compile_rules(rules))
    except OSError as error:
        raise PermissionDeniedError(
            f"linux.resources.devices cannot be put in force: the kernel refuses the eBPF program: {error.strerror}; "
            "the shim needs CAP_SYS_ADMIN, and the kernel CONFIG_CGROUP_BPF"
        ) from error
