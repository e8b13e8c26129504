"""`WasmExecutor`: in a container's init, finds the program, decides what it is, has wasm compiled, and runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from containerd_shimkit import InvalidArgumentError, TraceContext
from containerd_shimkit.container.channel import Channel
from containerd_shimkit.container.executor import (
    Executor,
    Found,
    Inside,
    LinuxExecutor,
    Preparation,
    candidates,
    environment_of,
    look_up,
)
from containerd_shimkit.oci.spec import Process

from .binary import HEAD_SIZE, FileKind, file_kind
from .context import Guest, RuntimeContext
from .decision import Candidate, Refuse, RunNative, decide
from .digests import sha256_of
from .engine import Engine
from .loader import wants_digest
from .paths import parse_entrypoint

__all__ = ["FAILED", "WasmExecutor"]

FAILED: Final = 137  # what users of wasm shims know as "the guest failed", whatever the reason
_HASHED_AT_ONCE: Final = 256 * 1024  # bytes: hashing takes less than a second question (0.1 ms)


@dataclass(frozen=True, slots=True)
class _Place:
    candidate: Candidate
    found: Found | None


class WasmExecutor:
    """Wasm by *engine* where there is wasm, a native program by execve where there is one."""

    def __init__(self, id: str, engine: Engine, process: Process, trace: TraceContext) -> None:  # noqa: A002
        self._id = id
        self._engine = engine
        self._process = process
        self._trace = trace
        self._native: LinuxExecutor | None = None
        self._context: RuntimeContext | None = None

    def prepare(self, inside: Inside) -> Preparation:
        """Look the entrypoint up and decide; for wasm, have the shim compile it and the engine load it.

        Raises: InvalidArgumentError, with a reason for each place, when nothing there runs; ShimError.
        """
        places = list(self._places(inside))
        decision = decide([place.candidate for place in places])
        if isinstance(decision, Refuse):
            raise InvalidArgumentError(
                f"container {self._id!r} has nothing to run: process.args[0] is {self._process.args[0]!r} "
                f"({'; '.join(decision.reasons)})"
            )
        if isinstance(decision, RunNative):
            self._native = LinuxExecutor(self._process)
            self._native.use(decision.path)
            return Preparation()
        found = places[decision.index].found
        assert found is not None, "a place without a file was chosen"
        return self._load(inside, self._compiled(inside, found))

    def _compiled(self, inside: Inside, found: Found) -> Guest:
        """Have the shim find the program's code, or compile it; the program itself where there is nothing to compile."""
        program, digest = found.descriptor, ""
        if wants_digest(self._engine) and os.fstat(program).st_size <= _HASHED_AT_ONCE:
            digest = sha256_of(program)
        answer, given = inside.ask({"compile": found.path, "digest": digest}, [program])
        if answer["wants_digest"]:
            # a big program whose digest the shim does not remember; computed here, where nobody has to wait for it
            answer, given = inside.ask({"compile": found.path, "digest": sha256_of(program)}, [program])
        return Guest(given[0], compiled=True) if answer["compiled"] else Guest(program)

    def run(self, channel: Channel) -> int:
        """Run the guest; why it failed goes to its own stderr and, for the log, to the shim."""
        if self._native is not None:
            return self._native.run(channel)
        assert self._context is not None, "prepare has not been called"
        channel.send({"kind": "running"})
        try:
            return self._engine.run_wasi(self._context) & 0xFF
        except BaseException as error:
            message = f"{self._context.entrypoint.arg0}: {str(error).strip() or type(error).__name__}"
            os.write(2, f"{message}\n".encode(errors="replace"))
            channel.send({"kind": "failed", "message": f"the guest failed: {message}"[:16384]})
            return FAILED

    def _load(self, inside: Inside, guest: Guest) -> Preparation:
        self._context = self._context_for(guest, inside)
        before = _open_descriptors()
        self._engine.load(self._context)
        # a mapped module may need its descriptor for as long as it lives
        opened = _open_descriptors() - before
        return Preparation(keep=(guest.descriptor, *opened), procfs=self._engine.settings.procfs)

    def _places(self, inside: Inside) -> Iterator[_Place]:
        """Every place where the entrypoint may be, in order, as a native program and as wasm."""
        arg0 = self._process.args[0]
        path = parse_entrypoint(arg0).path
        native = list(candidates(arg0, self._process))
        wasm = list(candidates(path, self._process, current_directory=True)) if path else []
        for place in dict.fromkeys((*native, *wasm)):
            candidate = Candidate(place, native=place in native, wasm=place in wasm)
            found = look_up(inside.root_fd, place)
            if isinstance(found, str):
                yield _Place(replace(candidate, problem=found), None)
            else:
                yield _Place(self._inspect(candidate, found, inside), found)

    def _inspect(self, candidate: Candidate, found: Found, inside: Inside) -> Candidate:
        kind = file_kind(os.pread(found.descriptor, HEAD_SIZE, 0))
        handled = kind not in (FileKind.ELF, FileKind.SCRIPT, FileKind.COMPILED) and self._engine.can_handle(
            self._context_for(Guest(found.descriptor), inside)
        )
        return replace(candidate, kind=kind, executable=bool(found.mode & 0o111), handled=handled)

    def _context_for(self, guest: Guest, inside: Inside) -> RuntimeContext:
        process = self._process
        return RuntimeContext(
            id=self._id,
            args=process.args,
            env=environment_of(process),
            entrypoint=parse_entrypoint(process.args[0]),
            guest=guest,
            annotations=inside.annotations,
            trace=self._trace,
        )


def _open_descriptors() -> set[int]:
    listing = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return {int(name) for name in os.listdir(listing)} - {listing}  # whose number the next file would get
    finally:
        os.close(listing)


_: type[Executor] = WasmExecutor
