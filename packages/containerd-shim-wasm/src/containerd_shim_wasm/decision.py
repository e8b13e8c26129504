"""Wasm or native, and which file: docs/oci-decision-flow.md as code. Pure: facts in, a decision or its reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from .binary import FileKind

__all__ = ["Candidate", "Decision", "Refuse", "RunNative", "RunWasm", "decide"]

_NATIVE: Final = (FileKind.ELF, FileKind.SCRIPT)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where the entrypoint may be, and what is there.

    `native` and `wasm` say for which reading of `process.args[0]` it is a place (an "#" parts an export only for
    wasm); `problem` is why there is no regular file, empty when there is one; `handled` is the engine's own word.
    """

    path: str
    native: bool
    wasm: bool
    problem: str = ""
    executable: bool = False
    kind: FileKind = FileKind.OTHER
    handled: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class RunNative:
    """Execute the program at `path`."""

    path: str


@dataclass(frozen=True, slots=True)
class RunWasm:
    """Hand the file at `path` to the engine; `index` is its place among the candidates."""

    path: str
    index: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing that runs: one reason for each place that was looked at."""

    reasons: tuple[str, ...]


Decision: TypeAlias = RunNative | RunWasm | Refuse


def decide(candidates: Sequence[Candidate]) -> Decision:
    """The first native program among *candidates*, else the first file that the engine handles, else why not."""
    for candidate in candidates:
        if candidate.native and not candidate.problem and candidate.executable and candidate.kind in _NATIVE:
            return RunNative(candidate.path)
    for index, candidate in enumerate(candidates):
        if candidate.wasm and not candidate.problem and candidate.handled:
            return RunWasm(candidate.path, index)
    return Refuse(tuple(f"{candidate.path}: {_reason(candidate)}" for candidate in candidates))


def _reason(candidate: Candidate) -> str:
    if candidate.problem:
        return candidate.problem
    if candidate.kind in _NATIVE:
        if not candidate.executable:
            return f"an {candidate.kind.value}, but not executable (chmod +x it in the image)".replace("an #!", "a #!")
        return f"an {candidate.kind.value}, which has no exports".replace("an #!", "a #!")
    if candidate.kind is FileKind.COMPILED:
        return (
            "compiled by a wasm engine; code that an image brings compiled is never run: put the .wasm into the image"
        )
    if candidate.kind in (FileKind.WASM, FileKind.WASM_TEXT):
        return f"{candidate.kind.value} that the engine does not handle"
    return r"not ELF, no #!, not \0asm"
