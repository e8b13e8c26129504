"""Carries a decision out in the shim: has the program compiled, in a child, and gives the compiled code as a file.

The code is compiled for each container: what keeps it for the next one belongs here, between the two functions.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from containerd_shimkit import InvalidArgumentError, ResourceExhaustedError, span
from containerd_shimkit.container.worker import Confinement, run_in_child
from containerd_shimkit.shim.reaper import Reaper
from containerd_shimkit.tracing import TraceContext

from .context import Guest, WasmLayer
from .engine import Engine

__all__ = ["compile_guest"]

_F_ADD_SEALS: Final = 1033  # include/uapi/linux/fcntl.h; in Python's fcntl module from 3.9 on, but not on every libc
_ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8


async def compile_guest(engine: Engine, descriptor: int, trace: TraceContext) -> int | None:
    """Compile the program in the open file *descriptor*; a descriptor of the code, sealed, or None for "run it as is".

    Raises: ShimError when it is not valid, or could not be compiled within the settings' limits.
    """
    if engine.can_precompile() is None:
        return None
    result = os.memfd_create(f"{engine.name}-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with span("compile", trace, engine=engine.name):
            await run_in_child(
                lambda: _compile(engine, descriptor, result),
                Reaper.current(),
                what=f"compiling the program with {engine.name}",
                timeout=engine.settings.compile_timeout,
                keep=(descriptor, result),
                confinement=Confinement(engine.settings.compile_memory_bytes),
            )
        if os.fstat(result).st_size == 0:
            os.close(result)
            return None
        fcntl.fcntl(result, _F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(result)
        raise
    return result


def _compile(engine: Engine, descriptor: int, result: int) -> None:
    """In the child."""
    size, limit = os.fstat(descriptor).st_size, engine.settings.compile_memory_bytes
    if size > limit:
        raise InvalidArgumentError(
            f"the program has {size} bytes, more than may be compiled ({limit}); raise the runtime option "
            "compile_memory_bytes, or make it smaller"
        )
    try:
        data = Guest(descriptor).read()
        compiled = engine.precompile([WasmLayer(data)])[0]
    except MemoryError as error:
        raise ResourceExhaustedError(
            f"compiling {size} bytes of wasm took more than {engine.settings.compile_memory_bytes} bytes of "
            "memory; raise the runtime option compile_memory_bytes"
        ) from error
    written = 0
    while compiled is not None and written < len(compiled):
        written += os.write(result, compiled[written : written + (1 << 24)])
