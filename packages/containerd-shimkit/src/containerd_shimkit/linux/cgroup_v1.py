"""A container's control group, version 1: one directory in each of the host's hierarchies.

On the path of every start, so no file is looked at that need not be. Source: kernel, admin-guide/cgroup-v1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from signal import SIGKILL
from typing import ClassVar, Final

from ..errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError, NotFoundError, ShimError
from ..oci.resources import Resources
from .cgroup import Cgroup, FreezerState, checked_path, path_parts
from .cgroup_files import GONE, make_directory, pids_below, read, steps, write, write_if_there
from .cgroup_mounts import own_directory, own_groups, read_hierarchies
from .cgroup_settings import Setting, compile_resources
from .oom import OomWatch, OomWatchV1, read_oom_kills

__all__ = ["CgroupV1"]

_log = logging.getLogger(__name__)

_KILL_SECONDS: Final = 5.0
_PIDS_FROM: Final = ("pids", "freezer", "memory")  # whichever there is: a process is in every hierarchy
_CPUSET_FILES: Final = ("cpuset.cpus", "cpuset.mems")


class CgroupV1(Cgroup):
    """The directories of one group, by controller; several controllers may share one directory (cpu and cpuacct)."""

    __slots__ = ()

    version: ClassVar[int] = 1

    @classmethod
    def for_path(cls, cgroups_path: str, id: str = "") -> CgroupV1:  # noqa: A002
        """The group that `linux.cgroupsPath` names; nothing is made yet.

        An absolute path counts from each hierarchy's mount, a relative one from the group that this process is in;
        an empty one is *id* there. Raises: InvalidArgumentError, UnimplementedError, naming the field and its value;
        FailedPreconditionError when this host has no hierarchy.
        """
        path = checked_path(cgroups_path or id)
        hierarchies = read_hierarchies().v1
        if not hierarchies:
            raise FailedPreconditionError(
                f"linux.cgroupsPath is {cgroups_path!r}, but no cgroup hierarchy is mounted on this host; mount "
                "cgroup2 at /sys/fs/cgroup"
            )
        if path.startswith("/"):
            return cls({name: each.mount_point + path for name, each in hierarchies.items()})
        own = own_groups()
        return cls({name: f"{own_directory(own.get(name, '/'), each)}/{path}" for name, each in hierarchies.items()})

    @classmethod
    def from_paths(cls, paths: Mapping[str, str]) -> CgroupV1:
        """The group whose `paths` were noted down earlier. Raises: InvalidArgumentError for what cannot be ones."""
        for name, path in paths.items():
            if not path.startswith("/") or ".." in path.split("/") or len(path_parts(path)) < 2:
                raise InvalidArgumentError(f"{path!r} cannot be the directory of a container's {name} cgroup")
        return cls(paths)

    def create(self) -> None:
        for directory in self._directories:
            make_directory(directory)
        if "cpuset" in self.paths:
            _fill_cpuset(self.paths["cpuset"])

    def check(self, resources: Resources) -> None:
        for setting in compile_resources(resources):
            if setting.controller not in self.paths and not setting.may_lack:
                raise self._why_missing(setting)

    def apply(self, resources: Resources) -> None:
        super().apply(resources)
        self._check_kernel_limit(resources)

    def update(self, resources: Resources) -> None:
        super().update(resources)
        self._check_kernel_limit(resources)

    def join(self) -> None:
        """As for every group. By `tasks`, not `cgroup.procs`: moving a single thread takes no lock of the
        whole system, and on an idle host saves the 10 ms of an RCU grace period.
        """
        for directory in self._directories:
            write(f"{directory}/tasks", "0")

    def pids(self) -> list[int]:
        directory = next((self.paths[name] for name in _PIDS_FROM if name in self.paths), None)
        return sorted(pids_below([directory] if directory else self._directories[:1]))

    def has_processes(self) -> bool:
        return bool(pids_below(self._directories))

    def kill_all(self, signal: int = SIGKILL) -> None:
        if not self.signal_all(signal) or signal != SIGKILL:
            return
        self.let_killed_end()
        for _ in steps(_KILL_SECONDS):
            if not self.signal_all(signal):
                return
        raise self._left_over(_KILL_SECONDS)

    def let_killed_end(self) -> None:
        if "freezer" in self.paths:
            write_if_there(f"{self.paths['freezer']}/freezer.state", "THAWED")  # the frozen cannot die

    def freeze(self, timeout: float = 10.0) -> None:
        if self._set_freezer("FROZEN", FreezerState.FROZEN, timeout):
            return
        self._write_freezer("THAWED")
        raise DeadlineExceededError(
            f"the processes of {self._freezer()} did not all stop within {timeout:g} s; they go on"
        )

    def thaw(self, timeout: float = 10.0) -> None:
        if not self._set_freezer("THAWED", FreezerState.THAWED, timeout):
            raise FailedPreconditionError(
                f"{self._freezer()} stays frozen: a group above is, which somebody else has to thaw"
            )

    def freezer_state(self) -> FreezerState:
        return FreezerState[self._read(f"{self._freezer()}/freezer.state").strip()]

    def watch_oom(self) -> OomWatch:
        if "memory" not in self.paths:
            raise FailedPreconditionError("this host has no memory cgroup controller, which would tell of OOM kills")
        try:
            return OomWatchV1(self.paths["memory"])
        except OSError as error:
            if error.errno in GONE:
                raise self._gone() from error
            raise

    def oom_kills(self) -> int:
        return read_oom_kills(f"{self.paths['memory']}/memory.oom_control") if "memory" in self.paths else 0

    def _settings(self, resources: Resources) -> Sequence[Setting]:
        return compile_resources(resources)

    def _directory_of(self, controller: str) -> str | None:
        return self.paths.get(controller)

    def _memory_usage(self) -> int:
        return int(self._read(f"{self.paths['memory']}/memory.usage_in_bytes")) if "memory" in self.paths else 0

    def _why_missing(self, setting: Setting) -> ShimError:
        what = f"linux.resources.{setting.field} is {setting.value!r}"
        directory = self.paths.get(setting.controller)
        if directory is None:
            return FailedPreconditionError(
                f"{what}, but this host has no {setting.controller} cgroup controller; leave it out or enable that"
            )
        if not os.path.isdir(directory):
            return NotFoundError(f"{what}, but the cgroup {directory} is gone")
        return FailedPreconditionError(
            f"{what}, but this kernel has no {setting.file}: it is switched off there; leave the limit out"
        )

    def _check_kernel_limit(self, resources: Resources) -> None:
        """A kernel that has given this limit up, which the specification advises against, takes it and forgets it."""
        limit = resources.memory and resources.memory.kernel
        if limit and limit > 0 and int(self._read(f"{self.paths['memory']}/memory.kmem.limit_in_bytes")) > limit:
            _log.warning(
                "linux.resources.memory.kernel is %s, which has no effect: this kernel no longer limits its memory by "
                "itself; memory.limit counts that memory too",
                limit,
            )

    def _freezer(self) -> str:
        if "freezer" not in self.paths:
            raise FailedPreconditionError("this host has no freezer cgroup controller: a container cannot be paused")
        return self.paths["freezer"]

    def _write_freezer(self, word: str) -> None:
        if not write_if_there(f"{self._freezer()}/freezer.state", word):
            raise self._gone()

    def _set_freezer(self, word: str, wanted: FreezerState, timeout: float) -> bool:
        self._write_freezer(word)
        if self.freezer_state() is wanted:
            return True
        for _ in steps(timeout):
            self._write_freezer(word)  # again: whoever was just being born is asked once more
            if self.freezer_state() is wanted:
                return True
        return False


def _fill_cpuset(path: str) -> None:
    """Give a cpuset, and those above it, the CPUs and memory nodes of its parent where it has none: none can be joined.

    Done by whoever comes first or at the same time: it is the same values that are written.
    """
    for file in _CPUSET_FILES:
        if read(f"{path}/{file}").strip():
            continue
        parent = os.path.dirname(path)
        _fill_cpuset(parent)
        write(f"{path}/{file}", read(f"{parent}/{file}").strip())
        # from now on a new group in the parent starts with them: one read in place of two reads and two writes
        if parent not in {each.mount_point for each in read_hierarchies().v1.values()}:
            write(f"{parent}/cgroup.clone_children", "1")
