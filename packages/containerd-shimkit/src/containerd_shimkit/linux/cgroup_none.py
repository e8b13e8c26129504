"""No control group: what the container of an ordinary user has, unless a part of the host's groups is that user's.

It has no limits and no figures, and cannot be paused. Its processes are those of its pid namespace.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from signal import SIGKILL
from typing import ClassVar, Final, NoReturn

from ..errors import FailedPreconditionError, InvalidArgumentError, ShimError
from ..oci.resources import Resources
from .cgroup import Cgroup, FreezerState
from .cgroup_files import steps
from .cgroup_settings import Setting, compile_resources
from .oom import OomWatch
from .pid_namespaces import pids_in_namespace_of
from .pidfd import ProcessIdentity, kill_process, pidfd_open, pidfd_send_signal

__all__ = ["NoCgroup", "may_make"]

_KILL_SECONDS: Final = 5.0
_UNLIMITED: Final = ("-1", "max")
_CURE: Final = "run it as root, or have root delegate a cgroup to you (cgroup version 2, systemd: Delegate=yes)"


class NoCgroup(Cgroup):
    """In the place of one. `paths` is empty."""

    __slots__ = ("_init",)

    version: ClassVar[int] = 0

    def __init__(self, paths: Mapping[str, str] | None = None, init: ProcessIdentity | None = None) -> None:
        """*init* is the container's, when there is one already."""
        super().__init__(paths or {})
        self._init = init

    @property
    def directory(self) -> str:
        return ""

    def belong_to(self, init: ProcessIdentity) -> None:
        self._init = init

    def require_figures(self) -> None:
        raise _cannot("tell what it uses")

    def create(self) -> None:
        pass

    def check(self, resources: Resources) -> None:
        if resources.unified:
            name, value = resources.unified[0]
            self._refuse(f"linux.resources.unified[{name!r}] is {value!r}")
        # the rules of devices are no loss: in a user namespace nobody makes any, and those there are keep their modes
        for setting in compile_resources(replace(resources, devices=())):
            if setting.value not in _UNLIMITED:
                self._refuse(f"linux.resources.{setting.field} is {setting.value!r}")

    def apply(self, resources: Resources) -> None:
        self.check(resources)

    def update(self, resources: Resources) -> None:
        self.check(resources)

    def join(self) -> None:
        pass

    def pids(self) -> list[int]:
        init = self._init
        return pids_in_namespace_of(init.pid) if init is not None and init.is_running() else []

    def has_processes(self) -> bool:
        return bool(self.pids())

    def signal_all(self, signal: int, *, but: int = 0) -> bool:
        pids = [pid for pid in self.pids() if pid != but]
        descriptors: dict[int, int] = {}
        try:
            for pid in pids:
                try:
                    descriptors[pid] = pidfd_open(pid)
                except ProcessLookupError:
                    pass
            # whoever is found still, now that its descriptor is open, is the one that the descriptor means
            for pid in set(self.pids()).intersection(descriptors):
                try:
                    pidfd_send_signal(descriptors[pid], signal)
                except ProcessLookupError:
                    pass
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        return bool(pids)

    def kill_all(self, signal: int = SIGKILL) -> None:
        if signal != SIGKILL:
            self.signal_all(signal)
            return
        if self._init is None or not kill_process(self._init, SIGKILL):  # with it, the kernel ends its pid namespace
            return
        for _ in steps(_KILL_SECONDS):
            if not self._init.is_running():
                return
        raise OSError(errno.EBUSY, f"process {self._init.pid} did not end within {_KILL_SECONDS:g} s of SIGKILL")

    def let_killed_end(self) -> None:
        pass

    def freeze(self, timeout: float = 10.0) -> None:
        del timeout
        raise _cannot("be paused")

    def thaw(self, timeout: float = 10.0) -> None:
        del timeout
        raise _cannot("be resumed")

    def freezer_state(self) -> FreezerState:
        return FreezerState.THAWED

    def watch_oom(self) -> OomWatch:
        raise _cannot("tell of kills for memory")

    def oom_kills(self) -> int:
        return 0

    def _settings(self, resources: Resources) -> Sequence[Setting]:
        del resources
        return ()

    def _directory_of(self, controller: str) -> str | None:
        del controller
        return None

    def _memory_usage(self) -> int:
        return 0

    def _why_missing(self, setting: Setting) -> ShimError:
        return InvalidArgumentError(f"linux.resources.{setting.field} is {setting.value!r}, without a cgroup")

    def _refuse(self, what: str) -> NoReturn:
        raise FailedPreconditionError(
            f"{what}, but the container of user {os.geteuid()} has no cgroup, as this user may make none; "
            f"leave that out, {_CURE}"
        )


def _cannot(what: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"a container of user {os.geteuid()} cannot {what}: it has no cgroup, as this user may make none; {_CURE}"
    )


def may_make(cgroup: Cgroup) -> str:
    """An empty text when this user may make *cgroup* and enter it, else the directory where that is denied."""
    for directory in dict.fromkeys(cgroup.paths.values()):
        there = os.path.dirname(directory)
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        # from the own group one moves to another only with a right to the group that both are below
        for path, mode in ((there, os.W_OK | os.X_OK), (os.path.join(there, "cgroup.procs"), os.W_OK)):
            if not os.access(path, mode, effective_ids=True):
                return there
    return ""
