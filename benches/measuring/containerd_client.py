"""containerd's gRPC API, as much of it as running a task takes: no process a task, and little work of our own.

A benchmark's client must not be what it measures. Requests are encoded by hand and answers hardly looked at; the
library underneath is the C one. What the client costs is measured all the same, and printed.
Source: containerd, api/services (field numbers of the messages).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from containerd_shimkit.wire import bytes_field, decode_fields, varint_field

__all__ = ["ContainerdClient", "Sandboxed"]

_SPEC_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_TIMEOUT: Final = 120.0
_KILL: Final = 9
_KEEP: Final = bytes_field(1, "containerd.io/gc.root") + bytes_field(2, "now")  # or the collector takes it under us


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """A container to be made: its id, runtime, configuration."""

    id: str
    runtime: str
    spec: Mapping[str, Any]


class ContainerdClient:
    """One connection, for any number of threads."""

    def __init__(self, address: str, namespace: str, snapshotter: str, parent: str) -> None:
        """Connect to the socket *address*; containers get snapshots of *parent*, an unpacked image's chain id."""
        # here, for bars and report want only names of this package, and this library has threads
        import grpc  # type: ignore[import-untyped]  # it ships no types

        self._channel = grpc.insecure_channel(f"unix://{address}")
        self._metadata = (("containerd-namespace", namespace),)
        self._snapshotter = snapshotter
        self._parent = parent
        self._methods: dict[str, Callable[..., bytes]] = {}

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def run(self, container: Sandboxed) -> int:
        """A container's whole life: snapshot, container, task to its end, and all that removed; its exit status."""
        mounts = self.make(container)
        try:
            return self.run_task(container.id, mounts)
        finally:
            self.remove(container.id)

    def make(self, container: Sandboxed) -> bytes:
        """Make snapshot and container; gives the mounts that `create` wants, encoded."""
        mounts = self._prepare(container.id)
        runtime = bytes_field(1, container.runtime)
        spec = bytes_field(1, _SPEC_TYPE) + bytes_field(2, json.dumps(container.spec))
        fields = bytes_field(1, container.id) + bytes_field(4, runtime) + bytes_field(5, spec)
        fields += bytes_field(6, self._snapshotter) + bytes_field(7, container.id)
        self._call("containers.v1.Containers/Create", bytes_field(1, fields))
        return mounts

    def run_task(self, id: str, mounts: bytes) -> int:  # noqa: A002
        """A task from Create to Delete; its exit status."""
        self.start(id, mounts)
        waited = self._call("tasks.v1.Tasks/Wait", bytes_field(1, id))
        self._call("tasks.v1.Tasks/Delete", bytes_field(1, id))
        return _number(waited, 1)

    def start(self, id: str, mounts: bytes) -> int:  # noqa: A002
        """Create a task and start it; its pid."""
        created = self._call("tasks.v1.Tasks/Create", bytes_field(1, id) + mounts)
        self._call("tasks.v1.Tasks/Start", bytes_field(1, id))
        return _number(created, 2)

    def end(self, id: str) -> None:  # noqa: A002
        """Kill a task that runs, and remove it and its container."""
        self._call("tasks.v1.Tasks/Kill", bytes_field(1, id) + varint_field(3, _KILL))
        self._call("tasks.v1.Tasks/Wait", bytes_field(1, id))
        self._call("tasks.v1.Tasks/Delete", bytes_field(1, id))
        self.remove(id)

    def remove(self, id: str) -> None:  # noqa: A002
        """Remove container and snapshot."""
        self._call("containers.v1.Containers/Delete", bytes_field(1, id))
        self._call("snapshots.v1.Snapshots/Remove", bytes_field(1, self._snapshotter) + bytes_field(2, id))

    def _prepare(self, key: str) -> bytes:
        fields = bytes_field(1, self._snapshotter) + bytes_field(2, key) + bytes_field(3, self._parent)
        answer = self._call("snapshots.v1.Snapshots/Prepare", fields + bytes_field(4, _KEEP))
        mounts = (value for number, value in decode_fields(answer) if number == 1 and isinstance(value, bytes))
        return b"".join(bytes_field(3, mount) for mount in mounts)

    def _call(self, method: str, request: bytes) -> bytes:
        call = self._methods.get(method)
        if call is None:
            made = self._channel.unary_unary(f"/containerd.services.{method}")
            call = self._methods[method] = cast("Callable[..., bytes]", made)
        return call(request, timeout=_TIMEOUT, metadata=self._metadata)


def _number(message: bytes, field: int) -> int:
    found = dict(decode_fields(message)).get(field, 0)
    assert isinstance(found, int)
    return found
