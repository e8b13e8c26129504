"""Compiles one program, in a forked child without privileges, network, or more memory and time than it may have."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from typing import Final

from containerd_shimkit import (
    AbortedError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    TraceContext,
    span,
)
from containerd_shimkit.container.worker import Confinement, run_in_child
from containerd_shimkit.shim.reaper import Reaper

from .context import Guest, WasmLayer
from .engine import Engine

__all__ = ["check_size", "compile_program"]

_log = logging.getLogger(__name__)

_F_ADD_SEALS: Final = 1033  # include/uapi/linux/fcntl.h; in Python's fcntl module from 3.9 on, but not on every libc
_ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8


async def compile_program(engine: Engine, descriptor: int, digest: str, trace: TraceContext, container: str) -> int:
    """Compile the program in the open file *descriptor*; a sealed memory file, empty for "run it as it is".

    With a *digest* (SHA-256, 64 hexadecimal digits) only if the program still has it. *container* is for the log.

    Raises: ShimError: the program is not valid, or takes more time or memory than the settings allow, or the child
    ended otherwise.
    """
    settings, began = engine.settings, time.monotonic()
    result = os.memfd_create(f"{engine.name}-code", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with span("compile", trace, engine=engine.name):
            await run_in_child(
                lambda: _be_compiler(engine, descriptor, digest, result),
                Reaper.current(),
                what=f"compiling the program with {engine.name}",
                timeout=settings.compile_timeout,
                keep=(descriptor, result),
                confinement=Confinement(settings.compile_memory_bytes),
            )
        fcntl.fcntl(result, _F_ADD_SEALS, _ALL_SEALS)
    except DeadlineExceededError as error:
        os.close(result)
        raise DeadlineExceededError(
            f"{error}; raise the runtime option compile_timeout (now {settings.compile_timeout:g} s), or make the "
            "program smaller"
        ) from error
    except AbortedError as error:
        os.close(result)
        raise AbortedError(
            f"{error}: the compiler crashed, was killed, or needed more than the runtime option compile_memory_bytes "
            f"(now {settings.compile_memory_bytes}) or the machine has; raise it, or make the program smaller"
        ) from error
    except BaseException:
        os.close(result)
        raise
    _log.info(
        "compiled a program of %d bytes (sha256 %s) with %s in %.0f ms",
        os.fstat(descriptor).st_size,
        digest[:12] or "not computed",
        engine.name,
        1000 * (time.monotonic() - began),
        extra={"instance": container},
    )
    return result


def _be_compiler(engine: Engine, descriptor: int, digest: str, result: int) -> None:
    """In the child."""
    try:
        data = Guest(descriptor).read()
        # what is kept under a digest must be made of the very bytes that have it: others may write to the file
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise FailedPreconditionError("the program was changed while it was being read; create the container again")
        compiled = engine.precompile([WasmLayer(data)])[0]
    except MemoryError as error:
        raise ResourceExhaustedError(
            f"compiling {os.fstat(descriptor).st_size} bytes of wasm took more than "
            f"{engine.settings.compile_memory_bytes} bytes of memory; raise the runtime option compile_memory_bytes"
        ) from error
    written = 0
    try:
        while compiled is not None and written < len(compiled):
            written += os.write(result, compiled[written : written + (1 << 24)])
    except OSError as error:
        raise ResourceExhaustedError(f"no memory for {len(compiled or b'')} bytes of code: {error.strerror}") from error


def check_size(engine: Engine, descriptor: int) -> None:
    """Refuse a program whose bytes alone would not fit into the compiler's memory. Raises: InvalidArgumentError."""
    size, limit = os.fstat(descriptor).st_size, engine.settings.compile_memory_bytes
    if size > limit:
        raise InvalidArgumentError(
            f"the program has {size} bytes, more than may be compiled ({limit}); raise the runtime option "
            "compile_memory_bytes, or make it smaller"
        )
