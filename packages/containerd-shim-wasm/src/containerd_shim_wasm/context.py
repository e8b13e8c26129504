"""What an engine is told about the container that it runs a guest for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from containerd_shimkit import NO_TRACE, TraceContext

from .paths import Entrypoint

__all__ = ["Guest", "RuntimeContext", "WasmLayer"]


@dataclass(frozen=True, slots=True)
class WasmLayer:
    """One wasm program: its bytes, and what an image says of them (the digest is empty for a file of a rootfs)."""

    data: bytes
    media_type: str = "application/wasm"
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Guest:
    """The program to run, as an open file: its bytes, or what `Engine.precompile` made of them.

    The descriptor stays open until the guest runs, also when the path that it was found at is out of reach.
    """

    descriptor: int
    compiled: bool = False

    @property
    def path(self) -> str:
        """A path of the open file, good in this process until the pivot, for calls that want one."""
        return f"/proc/self/fd/{self.descriptor}"

    def read(self) -> bytes:
        """All of the file. Raises: OSError."""
        size = os.fstat(self.descriptor).st_size
        data = bytearray()
        while len(data) < size and (piece := os.pread(self.descriptor, size - len(data), len(data))):
            data += piece
        return bytes(data)


@dataclass(frozen=True, slots=True)
class RuntimeContext:
    """A container as its engine sees it. Values only, but for the guest's open file."""

    id: str
    args: tuple[str, ...]  # the first is the entrypoint, as config.json has it
    env: Mapping[str, str]
    entrypoint: Entrypoint
    guest: Guest
    annotations: Mapping[str, str]
    trace: TraceContext = NO_TRACE
