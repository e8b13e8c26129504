"""`WasmExecutor`: in a container's init, finds the program, decides what it is, has wasm compiled, and runs it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from containerd_shimkit import NO_TRACE, InvalidArgumentError, TraceContext
from containerd_shimkit.container.channel import Line
from containerd_shimkit.container.executor import (
    EXECUTORS,
    Found,
    Inside,
    LinuxExecutor,
    PlainExecutor,
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
from .engine import HANDLED_BY_DEFAULT, Engine, number_of, warm_engine
from .loader import wants_digest
from .paths import Entrypoint, parse_entrypoint

__all__ = ["FAILED", "WasmExecutor"]

FAILED: Final = 137  # what users of wasm shims know as "the guest failed", whatever the reason
_NEVER_HANDLED: Final = (FileKind.ELF, FileKind.SCRIPT, FileKind.COMPILED)
_NAME: Final = "wasm"
_ROOM: Final = 24  # descriptors that an engine's `load` may leave open
_HASHED_AT_ONCE: Final = 256 * 1024  # bytes: hashing takes less than a second question (0.1 ms)


@dataclass(frozen=True, slots=True)
class _Place:
    candidate: Candidate
    found: Found | None


class WasmExecutor:
    """Wasm by *engine* where there is wasm, a native program by execve where there is one."""

    def __init__(
        self,
        id: str,  # noqa: A002
        engine: Engine,
        args: tuple[str, ...],
        environment: Mapping[str, str],
        places: Sequence[tuple[str, bool, bool]],
        trace: TraceContext,
    ) -> None:
        """*places* are where the program may be, in order: the path, and whether it is one for native, for wasm."""
        self._id = id
        self._engine = engine
        self._args = args
        self._environment = environment
        self._places = places
        self._trace = trace
        # the default looks at the file's first bytes only, which are here already
        self._handles_by_kind = type(engine).can_handle is Engine.can_handle
        self._native: LinuxExecutor | None = None
        self._context: RuntimeContext | None = None

    @classmethod
    def of(cls, id: str, engine: Engine, process: Process, trace: TraceContext) -> WasmExecutor:  # noqa: A002
        """The one for *process*. What needs no file is worked out here: in an init it would cost pages of its own."""
        native, wasm = _paths(process, parse_entrypoint(process.args[0]))
        places = [(path, path in native, path in wasm) for path in dict.fromkeys((*native, *wasm))]
        return cls(id, engine, process.args, environment_of(process), places, trace)

    def plain(self) -> tuple[str, tuple[Any, ...]]:
        trace = tuple(getattr(self._trace, each) for each in TraceContext.__match_args__)
        number = number_of(self._engine)
        return _NAME, (self._id, number, self._args, self._environment, self._places, trace)

    def prepare(self, inside: Inside) -> Preparation:
        """Look the entrypoint up and decide; for wasm, have the shim compile it and the engine load it.

        Raises: InvalidArgumentError, with a reason for each place, when nothing there runs; ShimError.
        """
        places = [self._look_at(Candidate(*place), inside) for place in self._places]
        decision = decide([place.candidate for place in places])
        if isinstance(decision, Refuse):
            raise InvalidArgumentError(
                f"container {self._id!r} has nothing to run: process.args[0] is {self._args[0]!r} "
                f"({'; '.join(decision.reasons)})"
            )
        if isinstance(decision, RunNative):
            self._native = LinuxExecutor(self._args, self._environment)
            self._native.use(decision.path, inside)
            return Preparation()
        found = places[decision.index].found
        assert found is not None, "a place without a file was chosen"
        return self._load(inside, self._compiled(inside, found))

    def _compiled(self, inside: Inside, found: Found) -> Guest:
        """The program's code, which the shim has or makes; the program itself where there is nothing to compile."""
        program, digest = found.descriptor, ""
        if wants_digest(self._engine) and os.fstat(program).st_size <= _HASHED_AT_ONCE:
            digest = sha256_of(program)
        answer, given = inside.ask({"compile": found.path, "digest": digest}, [program])
        if answer["wants_digest"]:
            # a big program whose digest the shim does not remember; computed here, where nobody has to wait for it
            answer, given = inside.ask({"compile": found.path, "digest": sha256_of(program)}, [program])
        return Guest(given[0], compiled=True) if answer["compiled"] else Guest(program)

    def run(self, line: Line) -> int:
        """Run the guest; why it failed goes to its own stderr and, for the log, to the shim."""
        if self._native is not None:
            return self._native.run(line)
        assert self._context is not None, "prepare has not been called"
        line.send({"kind": "running"})
        try:
            return self._engine.run_wasi(self._context) & 0xFF
        except BaseException as error:
            message = f"{self._context.entrypoint.arg0}: {str(error).strip() or type(error).__name__}"
            os.write(2, f"{message}\n".encode(errors="replace"))
            line.send({"kind": "failed", "message": f"the guest failed: {message}"[:16384]})
            return FAILED

    def _load(self, inside: Inside, guest: Guest) -> Preparation:
        self._context = self._context_for(guest, inside)
        lowest = os.dup(guest.descriptor)  # whatever is opened from here on gets this number and the next free ones
        os.close(lowest)
        before = {number for number in range(lowest, lowest + _ROOM) if _is_open(number)}
        self._engine.load(self._context)
        # a mapped module may need its descriptor for as long as it lives
        opened = [number for number in range(lowest, lowest + _ROOM) if number not in before and _is_open(number)]
        keep = (guest.descriptor, *opened)
        return Preparation(keep, procfs=self._engine.settings.procfs, in_process=True)

    def _look_at(self, blank: Candidate, inside: Inside) -> _Place:
        """What there is at the place of *blank*."""
        found = look_up(inside.root_fd, blank.path)
        if isinstance(found, str):
            return _Place(Candidate(blank.path, blank.native, blank.wasm, problem=found), None)
        kind = file_kind(os.pread(found.descriptor, HEAD_SIZE, 0))
        if self._handles_by_kind:
            handled = kind in HANDLED_BY_DEFAULT
        else:
            handled = kind not in _NEVER_HANDLED and self._engine.can_handle(
                self._context_for(Guest(found.descriptor), inside)
            )
        is_executable = bool(found.mode & 0o111)
        return _Place(Candidate(blank.path, blank.native, blank.wasm, "", is_executable, kind, handled), found)

    def _context_for(self, guest: Guest, inside: Inside) -> RuntimeContext:
        return RuntimeContext(
            id=self._id,
            args=self._args,
            env=self._environment,
            entrypoint=parse_entrypoint(self._args[0]),
            guest=guest,
            annotations=inside.annotations,
            trace=self._trace,
        )


def _from_plain(
    id: str,  # noqa: A002
    engine: int,
    args: tuple[str, ...],
    environment: Mapping[str, str],
    places: Sequence[tuple[str, bool, bool]],
    trace: tuple[str, ...],
) -> WasmExecutor:
    context = TraceContext(*trace) if any(trace) else NO_TRACE
    return WasmExecutor(id, warm_engine(engine), args, environment, places, context)


EXECUTORS[_NAME] = _from_plain


def _paths(process: Process, entrypoint: Entrypoint) -> tuple[list[str], list[str]]:
    """The places where the entrypoint may be, in order: as a native program, and as wasm."""
    native = list(candidates(entrypoint.arg0, process))
    wasm = list(candidates(entrypoint.path, process, current_directory=True)) if entrypoint.path else []
    return native, wasm


def _is_open(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True


_: type[PlainExecutor] = WasmExecutor
