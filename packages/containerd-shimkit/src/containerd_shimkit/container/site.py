"""Where a container is being made: what its init knows while it carries the steps out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ..errors import InternalError
from ..linux.cgroup import Cgroup
from ..linux.labels import LabelFile
from ..linux.terminals import Terminal
from .channel import Channel, Line, Message

__all__ = ["Site"]


@dataclass(slots=True)
class Site:
    """Where the operations happen: the root's path on the host, the container's cgroup, and the new root once made."""

    rootfs: str
    cgroup: Cgroup
    channel: Channel | None = field(default=None)  # to the shim
    line: Line | None = field(default=None)  # what is waited at now, when that is not the channel
    root_fd: int = field(default=-1)
    hosts: set[str] = field(default_factory=lambda: set[str]())  # joined namespaces that are the host's own
    has_directory: bool = field(default=False)
    fixed_groups: bool = field(default=False)  # nobody in the user namespace that was entered may change their groups
    terminal: Terminal | None = field(default=None)
    in_process: bool = field(default=False)  # this process runs the guest itself, and executes nothing
    labels: tuple[LabelFile, ...] = field(default=())  # opened, and not taken on yet
    keys: tuple[LabelFile, ...] = field(default=())  # the same, of keys
    sources: dict[str, int] = field(default_factory=lambda: dict[str, int]())  # opened while they could be reached

    # mounts with mapped ids that are nowhere yet, by their numbers
    mapped: dict[int, int] = field(default_factory=lambda: dict[int, int]())

    mounted: tuple[str, int] = field(default=("", -1))  # the last bind mount: where it was to go, and its root

    def note_mount(self, target: str, mount: int) -> None:
        """Keep the descriptor *mount* for a step that changes this very mount, until there is another."""
        if self.mounted[1] >= 0:
            os.close(self.mounted[1])
        self.mounted = (target, mount)

    def wait_for_shim(self, message: Message) -> None:
        """Tell the shim what it is to do, and wait until it has. Raises: InternalError when it is gone, or gives up."""
        assert self.channel is not None, "an init has one"
        self.channel.send(message)
        reply, _ = self.channel.receive()
        if reply is None or reply["kind"] != "go":
            raise InternalError("the shim gave up while this container's init waited for it")

    def hand_listener_over(self, descriptor: int) -> None:
        """Have the shim take the open listener *descriptor*, and wait until somebody listens.

        By write(2) and read(2) alone, which no profile may ask the listener about. Raises: InternalError when the shim
        is gone.
        """
        line = self.line or self.channel
        assert line is not None, "every process that is filtered has one"
        line.send({"kind": "listener", "descriptor": descriptor})
        reply = line.receive_plain()
        if reply is None or reply["kind"] != "go":
            raise InternalError("the shim gave up while this process waited for its seccomp listener")

    def source(self, path: str) -> str:
        """The name by which the source *path* of a bind mount can be reached."""
        return f"/proc/self/fd/{self.sources[path]}" if path in self.sources else path
