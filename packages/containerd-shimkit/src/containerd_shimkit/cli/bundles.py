"""Which containers were started by a shim's program, and so need it still: containerd runs its `delete` in the end.

containerd 1.6 and newer note the program's path in each bundle, in the file shim-binary-path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ..linux.mounts import read_mountinfo

__all__ = ["Container", "containers", "state_directories"]

_DEFAULT_STATES: Final = ("/run/containerd", "/run/k3s/containerd", "/run/docker/containerd/daemon")
_TASKS: Final = "io.containerd.runtime.v2.task"


@dataclass(frozen=True, slots=True)
class Container:
    """A container that containerd has a bundle of; `program` is the path of its shim's program."""

    namespace: str
    id: str
    program: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.id}"

    def needs(self, path: str) -> bool:
        """Whether its program is the file *path*, by whichever name: a link to it goes nowhere without it."""
        return os.path.realpath(self.program) == os.path.realpath(path)


def state_directories() -> list[str]:
    """containerd's usual ones, and those where a container's root is mounted, as containerd may have been given any."""
    parts = (mount.mount_point.partition(f"/{_TASKS}/") for mount in read_mountinfo())
    mounted = (state for state, found, _ in parts if found)
    return list(dict.fromkeys(map(os.path.realpath, (*_DEFAULT_STATES, *mounted))))


def containers(states: Iterable[str]) -> list[Container]:
    """All containers below containerd's state directories *states*. Raises: PermissionError, for who may not look."""
    return [container for state in states for container in _below(os.path.join(state, _TASKS))]


def _below(tasks: str) -> Iterator[Container]:
    for namespace in _names(tasks):
        for identifier in _names(os.path.join(tasks, namespace)):
            try:
                with open(os.path.join(tasks, namespace, identifier, "shim-binary-path"), "rb") as file:
                    yield Container(namespace, identifier, os.fsdecode(file.read().strip()))
            except (FileNotFoundError, NotADirectoryError):
                continue  # it has just ended, or containerd is older and notes nothing


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
