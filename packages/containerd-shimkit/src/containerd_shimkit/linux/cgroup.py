"""A container's control group, whichever version the host has: what its users rely on, and what both versions share.

`cgroups` chooses among those who carry it out. One more of them may make the group in another way (by systemd, say) and
hand the rest to a `CgroupV1` or `CgroupV2`: its `paths` then hold, besides theirs, what it needs for cleaning up.
"""

from __future__ import annotations

import enum
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from signal import SIGKILL
from typing import ClassVar, Final

from ..errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ShimError,
    UnimplementedError,
)
from ..oci.resources import Resources
from .cgroup_files import GONE, OpenFiles, pids_below, read, remove_directory, remove_tree, steps
from .cgroup_settings import Setting
from .oom import OomWatch
from .pidfd import ProcessIdentity, pidfd_open, pidfd_send_signal

__all__ = ["Cgroup", "FreezerState", "checked_path", "is_scope_path", "path_parts"]

_REMOVE_SECONDS: Final = 2.0
_ORDER: Final = (errno.EINVAL, errno.EBUSY)  # what a limit answers that is to be set after another


class FreezerState(enum.Enum):
    """What the freezer does with a group, be it by itself or because of a group above."""

    THAWED = "thawed"
    FREEZING = "freezing"
    FROZEN = "frozen"


class Cgroup(ABC):
    """One group. `paths` are its directories by controller, or by `unified`; several controllers may share one."""

    __slots__ = ("_directories", "paths")

    version: ClassVar[int]
    waits: ClassVar[bool] = False  # whether `make`, `update` and `remove` may wait for another program

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths: Mapping[str, str] = dict(paths)
        self._directories = tuple(dict.fromkeys(self.paths.values()))

    @property
    def directory(self) -> str:
        """The group's (first) directory: no two groups share it."""
        return self._directories[0]

    @abstractmethod
    def create(self) -> None:
        """Make the directories where they are missing, with their parents. Raises: OSError."""

    def make(self, pid: int, resources: Resources | None) -> None:
        """Make the group for the process *pid*, which is to enter it, with the limits of *resources*.

        Raises: as `create` and `apply`, ShimError.
        """
        del pid  # it enters by itself
        self.create()
        if resources is not None:
            self.apply(resources)

    def belong_to(self, init: ProcessIdentity) -> None:
        """Note who the container's init is, for what finds its processes by it."""
        del init  # they are those in the group

    def require_figures(self) -> None:  # noqa: B027  (a group has them)
        """Refuse to tell what the group uses where nothing counts it. Raises: FailedPreconditionError."""

    @abstractmethod
    def check(self, resources: Resources) -> None:
        """Refuse what `apply` could never do on this host, changing nothing.

        Raises: InvalidArgumentError, FailedPreconditionError with field, value and cure.
        """

    def apply(self, resources: Resources) -> None:
        """Set the limits of *resources* for a group that `create` has made.

        Raises: InvalidArgumentError with field and value for what the kernel refuses, FailedPreconditionError for
        what this host has no controller or file for, NotFoundError when the group is gone.
        """
        self._write_all(self._settings(resources))

    def update(self, resources: Resources) -> None:
        """Change the limits that *resources* names and leave all others; devices are replaced if it has any.

        Raises: as `apply`; the error says which limits have been changed before the one that was refused, and
        FailedPreconditionError, with nothing changed, for a limit below the present use if that is to be checked.
        """
        resources = self._completed(resources)
        self.check(resources)
        memory = resources.memory
        if memory is not None and memory.check_before_update and memory.limit is not None and memory.limit > 0:
            used = self._memory_usage()
            if memory.limit < used:
                raise FailedPreconditionError(
                    f"linux.resources.memory.limit is {memory.limit}, but the container uses {used} bytes now; give it "
                    "more, or leave checkBeforeUpdate out"
                )
        self._write_all(self._settings(resources), changes=True)

    @abstractmethod
    def join(self) -> None:
        """Move the calling process in, which must have no more than one thread. Raises: OSError."""

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes of the group and of those below it, in this process's pid namespace; none when it is gone."""

    @abstractmethod
    def has_processes(self) -> bool:
        """Whether any process is in the group, or below it."""

    def signal_all(self, signal: int, *, but: int = 0) -> bool:
        """Send *signal* to every process there is now except *but*, and to no other; False when there was none.

        Raises: OSError.
        """
        pids = pids_below(self._directories) - {but}
        descriptors = {pid: descriptor for pid in pids if (descriptor := _try_pidfd_open(pid)) is not None}
        try:
            # whoever is listed still, now that its descriptor is open, is the one that the descriptor means
            for pid in pids_below(self._directories).intersection(descriptors) if pids else ():
                try:
                    pidfd_send_signal(descriptors[pid], signal)
                except ProcessLookupError:
                    pass
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        return bool(pids)

    @abstractmethod
    def kill_all(self, signal: int = SIGKILL) -> None:
        """Send *signal* to every process; with SIGKILL, again until none is left, those born meanwhile included.

        The frozen end too. Raises: OSError (EBUSY) when processes are left after five seconds, with their pids.
        """

    @abstractmethod
    def let_killed_end(self) -> None:
        """Let processes end that have got SIGKILL while they were frozen. Raises: OSError."""

    @abstractmethod
    def freeze(self, timeout: float = 10.0) -> None:
        """Stop every process of the group and of those below it, and wait until all have.

        Raises: DeadlineExceededError, with the group thawed again, after *timeout* seconds; NotFoundError when it is
        gone; FailedPreconditionError when this host cannot freeze.
        """

    @abstractmethod
    def thaw(self, timeout: float = 10.0) -> None:
        """Let a frozen group go on. Raises: as `freeze`; FailedPreconditionError when a group above is frozen."""

    @abstractmethod
    def freezer_state(self) -> FreezerState:
        """What the freezer does with the group now. Raises: NotFoundError, FailedPreconditionError as `freeze`."""

    @abstractmethod
    def watch_oom(self) -> OomWatch:
        """Watch from now on for processes that the kernel kills for the group's memory limit.

        Raises: NotFoundError when the group is gone, FailedPreconditionError when nothing counts its memory.
        """

    @abstractmethod
    def oom_kills(self) -> int:
        """How many processes the kernel has killed for the group's memory limit, those of groups below not counted
        with version 1; 0 when it is gone, or nothing counts. Raises: OSError.
        """

    def remove(self) -> None:
        """Remove the group and those below it; the groups above stay. Raises: OSError for one that stays in use."""
        left = [directory for directory in self._directories if not remove_directory(directory)]
        if not left:
            return
        for _ in steps(_REMOVE_SECONDS):
            # a process that has just ended may be counted still
            left = [directory for directory in left if not remove_tree(directory)]
            if not left:
                return
        raise OSError(errno.EBUSY, "this cgroup is in use by processes and cannot be removed", left[0])

    def try_remove(self) -> bool:
        """Remove the group if no process and no other group is in it; never waits. Raises: OSError."""
        return all(remove_directory(directory) for directory in self._directories)

    @abstractmethod
    def _settings(self, resources: Resources) -> Sequence[Setting]: ...

    @abstractmethod
    def _directory_of(self, controller: str) -> str | None:
        """Where a controller's files are; None when the host does not have it."""

    @abstractmethod
    def _memory_usage(self) -> int:
        """The bytes that the group uses; 0 when nothing counts them."""

    def _completed(self, resources: Resources) -> Resources:
        """*resources* with what else of the group's present limits is needed to write them."""
        return resources

    @abstractmethod
    def _why_missing(self, setting: Setting) -> ShimError:
        """The error for a setting whose controller or file is not there."""

    def _write_all(self, settings: Iterable[Setting], *, changes: bool = False) -> None:
        waiting: Sequence[Setting] = tuple(settings)
        written: list[str] = []
        with OpenFiles(self._directory_of) as files:
            while waiting:
                refused: list[tuple[Setting, OSError]] = []
                for setting in waiting:
                    try:
                        files.write(setting)
                        if changes:
                            written.append(setting.field)
                    except OSError as error:
                        refused.append((setting, error))
                        # one limit may have to be changed before another: memory's and that of memory and swap, the
                        # quota and its burst. Device rules keep their order
                        if error.errno not in _ORDER or setting.controller == "devices":
                            raise self._refusal(setting, error, written) from error
                if len(refused) == len(waiting):
                    setting, first = refused[0]
                    raise self._refusal(setting, first, written) from first
                waiting = [setting for setting, _ in refused]

    def _refusal(self, setting: Setting, error: OSError, written: Sequence[str]) -> ShimError:
        if error.errno == errno.ENOENT or not os.path.isdir(self._directory_of(setting.controller) or ""):
            refusal = self._why_missing(setting)
        else:  # ENODEV among them, for a device that there is not
            text = f"{_what(setting)}, which the kernel refuses: {_reason(error)} ({self._place(setting)})"
            refusal = _KINDS.get(error.errno or 0, InvalidArgumentError)(text)
        if written:
            changed = ", ".join(dict.fromkeys(written))
            refusal.args = (f"{refusal}; this has been changed before: {changed}",)
        return refusal

    def _place(self, setting: Setting) -> str:
        return f"{self._directory_of(setting.controller)}/{setting.file}"

    def _read(self, path: str) -> str:
        """A file of the group. Raises: NotFoundError when the group is gone, OSError."""
        try:
            return read(path)
        except OSError as error:
            if error.errno in GONE:
                raise self._gone() from error
            raise

    def _gone(self) -> NotFoundError:
        return NotFoundError(f"the container's cgroup {self.directory} is gone")

    def _left_over(self, seconds: float) -> OSError:
        left = ", ".join(map(str, sorted(pids_below(self._directories))))
        return OSError(errno.EBUSY, f"process {left} did not end within {seconds:g} s of SIGKILL", self.directory)


_KINDS: Final[dict[int, type[ShimError]]] = {
    errno.EBUSY: FailedPreconditionError,
    errno.EPERM: PermissionDeniedError,
    errno.EACCES: PermissionDeniedError,
    errno.ENOMEM: ResourceExhaustedError,
}
_ENOTSUPP: Final = 524  # which the kernel ought not to let out, and strerror(3) does not know


def _what(setting: Setting) -> str:
    return f"linux.resources.{setting.field} is {setting.value!r}"


def _reason(error: OSError) -> str:
    return "it no longer has that limit; leave it out" if error.errno == _ENOTSUPP else str(error.strerror)


def checked_path(path: str) -> str:
    """What `linux.cgroupsPath` says, without needless slashes. Raises: InvalidArgumentError, UnimplementedError."""
    if is_scope_path(path):
        raise UnimplementedError(
            f"the path of a cgroup is {path!r}, which is for the systemd cgroup driver, and that makes groups for "
            "containers only; name one such as /shims"
        )
    parts = path_parts(path)
    if not parts or ".." in parts or "\0" in path:
        raise InvalidArgumentError(
            f"linux.cgroupsPath is {path!r}; it must name a group of the container's own, without `..`"
        )
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def is_scope_path(cgroups_path: str) -> bool:
    """Whether `linux.cgroupsPath` has the form slice:prefix:name: the kubelet's, whatever options say."""
    return cgroups_path.count(":") == 2 and "/" not in cgroups_path


def path_parts(path: str) -> list[str]:
    """The names in *path*."""
    return [part for part in path.split("/") if part not in ("", ".")]


def _try_pidfd_open(pid: int) -> int | None:
    try:
        return pidfd_open(pid)
    except ProcessLookupError:
        return None
