"""`Instance`: one task, as the Task service sees it. Authors of shims that are not about wasm implement this.

Nothing here knows Linux, protobuf or asyncio's loop, so it can be imported and implemented on any system.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from .errors import UnimplementedError
from .tracing import NO_TRACE, TraceContext

__all__ = ["Encoded", "ExitStatus", "Instance", "InstanceConfig", "Mount", "ProcessInfo"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount that containerd asks the shim to make for the root file system (`containerd.types.Mount`)."""

    type: str
    source: str
    target: str = ""  # inside the root file system; empty: the root itself
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A `google.protobuf.Any` as a value: the type's url and its bytes (protobuf or JSON, as the type says)."""

    type_url: str = ""
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: 0 to 255, or 128 + the signal that ended it; and when it was seen to end (aware, UTC)."""

    status: int
    exited_at: datetime


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process of the container, in the shim's own pid namespace; `exec_id` for one that an Exec made."""

    pid: int
    exec_id: str = ""


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """What containerd said when it created the task.

    `stdin`, `stdout`, `stderr` are paths (of FIFOs, usually), empty for a stream that nobody wants. `options` are the
    runtime options as sent, `config` the same parsed to plain values (TOML or the runc options' fields). With
    `terminal` the process gets one, whose master is copied to and from stdin and stdout; or, with the path of a
    `console_socket`, handed to whoever listens there.
    """

    bundle: str
    namespace: str
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    rootfs: tuple[Mount, ...] = ()
    options: Encoded = Encoded()
    config: Mapping[str, object] = field(default_factory=lambda: dict[str, object]())
    containerd_address: str = ""
    trace: TraceContext = NO_TRACE
    console_socket: str = ""


def _nobody_listens() -> None:
    pass


class Instance(ABC):
    """One task. The service calls the methods below from one event loop and keeps their order lawful.

    The life of an instance: `create` once, then `start`, then it ends by itself or by `kill`, then `delete`; or
    `create`, `kill` and `delete` without a `start`. A method that fails leaves nothing behind of what it began.
    """

    def __init__(self, id: str, config: InstanceConfig) -> None:  # noqa: A002  (the overview's name)
        self.id = id
        self.config = config
        self.on_oom: Callable[[], None] = _nobody_listens
        """What an instance calls when the kernel has killed a process of it for memory: before it reports an end that
        comes of that. The service sets it."""

    @abstractmethod
    async def create(self) -> int:
        """Make everything ready to run short of running it; the pid of the process that waits, or 0 for none.

        Raises: ShimError, with everything undone.
        """

    @abstractmethod
    async def start(self) -> int:
        """Let the program run; its pid."""

    @abstractmethod
    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        """Send *signal* to the init, to the exec'd process *exec_id*, or to *all* processes of the container.

        Raises: NotFoundError when it has ended.
        """

    @abstractmethod
    async def delete(self) -> None:
        """End what is left and free everything: processes, mounts, cgroups, files. May be called again if it failed."""

    @abstractmethod
    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        """Wait until the init has ended, at most *seconds* (None: for ever); None when the time ran out first.

        Any number of callers may wait, before and after the end; all get the same answer.
        """

    async def close_io(self, exec_id: str | None = None) -> None:
        """Let the process's standard input end once its other writers have closed it too."""
        raise UnimplementedError("this shim cannot close a container's standard input")

    async def exec(self, exec_id: str, spec: Encoded, config: InstanceConfig) -> None:
        """Register a further process, to be run by `start_exec`.

        *spec* is the runtime specification's `process` object as JSON; of *config* the streams and `terminal` are its
        own. Raises: ShimError, with nothing registered.
        """
        raise UnimplementedError("this shim cannot run a second process in a container (exec)")

    async def start_exec(self, exec_id: str) -> int:
        """Run the process that `exec` has registered; its pid. When it fails, nothing runs."""
        raise UnimplementedError("this shim cannot run a second process in a container (exec)")

    async def wait_exec(self, exec_id: str) -> ExitStatus:
        """Wait until that process, which has been started, has ended; any number of callers."""
        raise UnimplementedError("this shim cannot run a second process in a container (exec)")

    async def delete_exec(self, exec_id: str) -> None:
        """End that process if it runs, and forget it."""
        raise UnimplementedError("this shim cannot run a second process in a container (exec)")

    async def pause(self) -> None:
        """Freeze every process of the container."""
        raise UnimplementedError("this shim cannot pause a container")

    async def resume(self) -> None:
        """Let a paused container go on."""
        raise UnimplementedError("this shim cannot resume a container")

    async def pids(self) -> Sequence[ProcessInfo]:
        """The container's processes, its init first."""
        raise UnimplementedError("this shim cannot list a container's processes")

    async def resize_pty(self, width: int, height: int, exec_id: str | None = None) -> None:
        """Tell the process's terminal its size, in characters."""
        raise UnimplementedError("this shim gives no terminals to containers")

    async def stats(self) -> Encoded:
        """The container's resource usage, as one of containerd's cgroup `Metrics` messages."""
        raise UnimplementedError("this shim keeps no statistics of containers")

    async def update(self, resources: Encoded, annotations: Mapping[str, str]) -> None:
        """Change the container's resource limits."""
        raise UnimplementedError("this shim cannot change a container's limits")
