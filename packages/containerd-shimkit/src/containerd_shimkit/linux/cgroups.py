"""A container's control group, version 1: one directory in each of the host's hierarchies.

On the path of every start, so no file is looked at that need not be. Source: kernel, admin-guide/cgroup-v1.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from signal import SIGKILL
from typing import Final

from ..errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnimplementedError
from ..oci.resources import Resources
from .cgroup_settings import Setting, compile_resources
from .mounts import MountInfo, read_mountinfo
from .pidfd import pidfd_open, pidfd_send_signal

__all__ = ["CgroupV1", "Hierarchy", "find_hierarchies"]

_KILL_SECONDS: Final = 5.0
_REMOVE_SECONDS: Final = 2.0
_FIRST_STEP: Final = 0.001
_LONGEST_STEP: Final = 0.02
_MOUNT_WORDS: Final = frozenset(
    ("rw", "ro", "noprefix", "xattr", "clone_children", "none", "all", "cpuset_v2_mode", "favordynmods")
)
_PIDS_FROM: Final = ("pids", "freezer", "memory")  # whichever there is: a process is in every hierarchy
_CPUSET_FILES: Final = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where one controller's groups are: the mount, and which group of the hierarchy it shows as its root."""

    mount_point: str
    root: str


def find_hierarchies(mounts: Iterable[MountInfo]) -> Mapping[str, Hierarchy]:
    """The version 1 hierarchies among *mounts*, by controller; a named one by `name=systemd`."""
    found: dict[str, Hierarchy] = {}
    for mount in mounts:
        if mount.fstype != "cgroup":
            continue
        for word in mount.super_options.split(","):
            if word not in _MOUNT_WORDS and ("=" not in word or word.startswith("name=")):
                found.setdefault(word, Hierarchy(mount.mount_point, mount.root))
    return found


class CgroupV1:
    """The directories of one group, by controller; several controllers may share one directory (cpu and cpuacct)."""

    __slots__ = ("_directories", "paths")

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths: Mapping[str, str] = dict(paths)
        self._directories = tuple(dict.fromkeys(self.paths.values()))

    @classmethod
    def for_path(cls, cgroups_path: str, id: str = "") -> CgroupV1:  # noqa: A002
        """The group that `linux.cgroupsPath` names; nothing is made yet.

        An absolute path counts from each hierarchy's mount, a relative one from the group that this process is in;
        an empty one is *id* there. Raises: InvalidArgumentError, UnimplementedError, naming the field and its value.
        """
        path = _checked_path(cgroups_path or id)
        hierarchies = _hierarchies()
        if not hierarchies:
            raise UnimplementedError(
                f"linux.cgroupsPath is {cgroups_path!r}, but this host has no cgroup version 1 hierarchy, and this "
                "version of the shim cannot use version 2; boot with systemd.unified_cgroup_hierarchy=0"
            )
        if path.startswith("/"):
            return cls({name: each.mount_point + path for name, each in hierarchies.items()})
        own = _own_groups()
        return cls({name: f"{_own_directory(name, each, own)}/{path}" for name, each in hierarchies.items()})

    @classmethod
    def from_paths(cls, paths: Mapping[str, str]) -> CgroupV1:
        """The group whose `paths` were noted down earlier. Raises: InvalidArgumentError for what cannot be ones."""
        for name, path in paths.items():
            if not path.startswith("/") or ".." in path.split("/") or len(_parts(path)) < 2:
                raise InvalidArgumentError(f"{path!r} cannot be the directory of a container's {name} cgroup")
        return cls(paths)

    def create(self) -> None:
        """Make the directories where they are missing, with their parents. Raises: OSError."""
        for directory in self._directories:
            _make_directory(directory)
        if "cpuset" in self.paths:
            _fill_cpuset(self.paths["cpuset"])

    def apply(self, resources: Resources) -> None:
        """Set the limits of *resources*, in their order.

        Raises: InvalidArgumentError with field and value for what the kernel refuses, FailedPreconditionError for
        what this host has no controller for, UnimplementedError, NotFoundError when the group is gone.
        """
        settings = list(compile_resources(resources))
        with _OpenFiles(self.paths) as files:
            while settings:
                setting = settings.pop(0)
                try:
                    files.write(setting)
                except OSError as error:
                    if error.errno == errno.EINVAL and _swap_goes_first(setting, settings):
                        settings.insert(1, setting)
                        continue
                    raise self._refusal(setting, error) from error

    def join(self) -> None:
        """Move the calling process in, which must have no more than one thread. Raises: OSError.

        By `tasks`, not `cgroup.procs`: moving a single thread takes no lock of the whole system, and on an idle host
        saves the 10 ms of an RCU grace period.
        """
        for directory in self._directories:
            _write(f"{directory}/tasks", "0")

    def pids(self) -> list[int]:
        """The processes of the group and of those below it, in this process's pid namespace; none when it is gone."""
        directory = next((self.paths[name] for name in _PIDS_FROM if name in self.paths), None)
        return sorted(_pids_below([directory] if directory else self._directories[:1]))

    def has_processes(self) -> bool:
        """Whether any process is in the group, or below it, in any hierarchy."""
        return bool(_pids_below(self._directories))

    def signal_all(self, signal: int, *, but: int = 0) -> bool:
        """Send *signal* to every process there is now except *but*, and to no other; False when there was none.

        Raises: OSError.
        """
        pids = _pids_below(self._directories) - {but}
        descriptors = {pid: descriptor for pid in pids if (descriptor := _try_pidfd_open(pid)) is not None}
        try:
            # whoever is listed still, now that its descriptor is open, is the one that the descriptor means
            for pid in _pids_below(self._directories).intersection(descriptors) if pids else ():
                try:
                    pidfd_send_signal(descriptors[pid], signal)
                except ProcessLookupError:
                    pass
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        return bool(pids)

    def kill_all(self, signal: int = SIGKILL) -> None:
        """Send *signal* to every process; with SIGKILL, again until none is left, those born meanwhile included.

        Raises: OSError (EBUSY) when processes are left after five seconds, with their pids.
        """
        if not self.signal_all(signal) or signal != SIGKILL:
            return
        if "freezer" in self.paths:
            _write_if_there(f"{self.paths['freezer']}/freezer.state", "THAWED")  # the frozen cannot die
        for _ in _steps(_KILL_SECONDS):
            if not self.signal_all(signal):
                return
        left = ", ".join(map(str, sorted(_pids_below(self._directories))))
        raise OSError(
            errno.EBUSY, f"process {left} did not end within {_KILL_SECONDS:g} s of SIGKILL", self._directories[0]
        )

    def remove(self) -> None:
        """Remove the group and those below it; the groups above stay. Raises: OSError for one that stays in use."""
        left = [directory for directory in self._directories if not _remove_directory(directory)]
        if not left:
            return
        for _ in _steps(_REMOVE_SECONDS):
            # a process that has just ended may be counted still
            left = [directory for directory in left if not _remove_tree(directory)]
            if not left:
                return
        raise OSError(errno.EBUSY, "this cgroup is in use by processes and cannot be removed", left[0])

    def try_remove(self) -> bool:
        """Remove the group if no process and no other group is in it; never waits. Raises: OSError."""
        return all(_remove_directory(directory) for directory in self._directories)

    def _refusal(self, setting: Setting, error: OSError) -> Exception:
        what = f"linux.resources.{setting.field} is {setting.value!r}"
        directory = self.paths.get(setting.controller)
        if directory is None:
            return FailedPreconditionError(
                f"{what}, but this host has no {setting.controller} cgroup controller; leave it out or enable that"
            )
        if error.errno == errno.ENOENT and not os.path.isdir(directory):
            return NotFoundError(f"{what}, but the cgroup {directory} is gone")
        if error.errno == errno.ENOENT:
            return FailedPreconditionError(
                f"{what}, but this kernel has no {setting.file}: it is switched off there; leave the limit out"
            )
        return InvalidArgumentError(f"{what}, which the kernel refuses: {error.strerror} ({directory}/{setting.file})")


def _checked_path(path: str) -> str:
    """*path* without needless slashes. Raises: InvalidArgumentError, UnimplementedError."""
    if path.count(":") == 2 and "/" not in path.partition(":")[2]:
        raise UnimplementedError(
            f"linux.cgroupsPath is {path!r}, which is for the systemd cgroup driver, which this version of the shim "
            "does not have; set the kubelet's cgroupDriver to cgroupfs"
        )
    parts = _parts(path)
    if not parts or ".." in parts or "\0" in path:
        raise InvalidArgumentError(
            f"linux.cgroupsPath is {path!r}; it must name a group of the container's own, without `..`"
        )
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


@lru_cache(maxsize=1)
def _hierarchies() -> Mapping[str, Hierarchy]:
    """Read once in a process: a host does not change them, and its table of mounts is long."""
    return find_hierarchies(read_mountinfo())


def _own_groups() -> Mapping[str, str]:
    """The group that this process is in, by controller. Source: cgroups(7)."""
    with open("/proc/self/cgroup", "rb") as file:
        lines = [line.split(":", 2) for line in os.fsdecode(file.read()).splitlines()]
    return {name: path for _number, names, path in lines for name in names.split(",") if name}


def _own_directory(name: str, hierarchy: Hierarchy, own: Mapping[str, str]) -> str:
    inside = os.path.relpath(own.get(name, "/"), hierarchy.root)
    if inside.startswith(".."):
        inside = "."  # outside of what is mounted here: as near as can be
    return os.path.normpath(os.path.join(hierarchy.mount_point, inside))


class _OpenFiles:
    """The files of a group, each opened once: dozens of device rules go through one descriptor, one write each."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths
        self._open: dict[str, int] = {}

    def __enter__(self) -> _OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def write(self, setting: Setting) -> None:
        """Write the setting. Raises: OSError."""
        descriptor = self._open.get(setting.file)
        if descriptor is None:
            if setting.controller not in self._paths:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            path = f"{self._paths[setting.controller]}/{setting.file}"
            descriptor = self._open[setting.file] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, setting.value.encode())


def _swap_goes_first(setting: Setting, rest: list[Setting]) -> bool:
    """Whether *setting* is a memory limit above the present one of memory and swap, which *rest* is about to raise."""
    return setting.field == "memory.limit" and bool(rest) and rest[0].field == "memory.swap"


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))
        _make_directory(path)


def _fill_cpuset(path: str) -> None:
    """Give a cpuset, and those above it, the CPUs and memory nodes of its parent where it has none: none can be joined.

    Done by whoever comes first or at the same time: it is the same values that are written.
    """
    for file in _CPUSET_FILES:
        if _read(f"{path}/{file}").strip():
            continue
        parent = os.path.dirname(path)
        _fill_cpuset(parent)
        _write(f"{path}/{file}", _read(f"{parent}/{file}").strip())
        # from now on a new group in the parent starts with them: one read in place of two reads and two writes
        if parent not in {each.mount_point for each in _hierarchies().values()}:
            _write(f"{parent}/cgroup.clone_children", "1")


def _pids_below(directories: Iterable[str]) -> set[int]:
    found: set[int] = set()
    for directory in directories:
        for each in _groups_below(directory):
            found.update(_read_pids(each))
    return found


def _groups_below(directory: str) -> Iterator[str]:
    """The group's directory, then those of the groups below it; nothing when it is gone."""
    try:
        # a directory's link count tells its subdirectories, and a group seldom has any
        nested = os.stat(directory).st_nlink > 2
        yield directory
        if nested:
            with os.scandir(directory) as entries:
                names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            for name in names:
                yield from _groups_below(name)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _read_pids(directory: str) -> list[int]:
    try:
        return [int(word) for word in _read(f"{directory}/cgroup.procs").split()]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # removed, before or while it was read
            return []
        raise


def _try_pidfd_open(pid: int) -> int | None:
    try:
        return pidfd_open(pid)
    except ProcessLookupError:
        return None


def _steps(seconds: float) -> Iterator[None]:
    """Give the moments of trying again: soon at first, then less often, until *seconds* are over."""
    give_up, step = time.monotonic() + seconds, _FIRST_STEP
    while time.monotonic() < give_up:
        time.sleep(step)
        step = min(step * 2, _LONGEST_STEP)
        yield


def _remove_directory(path: str) -> bool:
    """Remove one group; True when it is gone. Raises: OSError but for one in use."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno != errno.ENOENT:
            raise
    return True


def _remove_tree(path: str) -> bool:
    # each before those that it is in; the last one is the group itself
    return all(_remove_directory(each) for each in reversed(list(_groups_below(path))))


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read().decode("ascii")


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def _write_if_there(path: str, value: str) -> None:
    try:
        _write(path, value)
    except FileNotFoundError:
        pass
