"""The bars that the figures are held against: met, or not. Printed, never asserted: machines differ.

uv run python benches/bars.py FILE.json...     files that the benchmarks or benches/report.py wrote
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cold
import memory
import scale
import startup
import throughput
from measuring.figures import Result, Section, ratio
from measuring.programs import NATIVE_OURS, NATIVE_RUNC, NULL, WASM_OURS

_MB_A_KIB = 1024 / 1e6
_FLAT = 1.1
_LIMITED_SINCE = (3, 12)  # CPython from which on the bars of memory hold; older ones share less
WASM, NATIVE, RUNC = WASM_OURS.name, NATIVE_OURS.name, NATIVE_RUNC.name


@dataclass(frozen=True, slots=True)
class Bar:
    """One line: what is asked, and what was measured, if it was."""

    what: str
    limit: float
    is_least: bool  # the limit is the least, not the most
    unit: str
    measured: float | None
    is_binding: bool = True  # else only reported

    @property
    def is_met(self) -> bool | None:
        """Whether it is; None when nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.is_least else self.measured <= self.limit

    def row(self) -> str:
        """A line of a Markdown table."""
        limit = f"at {'least' if self.is_least else 'most'} {self.limit:g}{self.unit}"
        measured = "" if self.measured is None else f"{self.measured:.2f}{self.unit}"
        return f"| {self.what} | {limit} | {measured} | {self._verdict()} |"

    def _verdict(self) -> str:
        if self.is_met is None:
            return "not measured"
        verdict = "met" if self.is_met else "not met"
        return verdict if self.is_binding else f"{verdict} (reported only: older than CPython 3.12)"


def bars_of(results: Sequence[Result]) -> list[Bar]:
    """Every bar, with what *results* say of it."""
    by_name = {result.bench: result for result in results}
    return [*_throughput(by_name), *_startup(by_name), *_memory(by_name), *_scale(by_name), *_native(by_name)]


def table(bars: Sequence[Bar]) -> str:
    """The bars as a Markdown table."""
    return "\n".join(["| what | bar | measured | |", "|---|---|---|---|", *(bar.row() for bar in bars)])


def _throughput(results: Mapping[str, Result]) -> list[Bar]:
    one = _section(results, "throughput", throughput.ONE_POD)
    each = _section(results, "throughput", throughput.POD_EACH)
    direct = _section(results, "throughput", throughput.DIRECT)
    filtered = _section(results, "throughput", throughput.FILTERED)
    whole = throughput.WHOLE
    return [
        _least("through containerd, one pod, wasm against runc", 5, one, whole, WASM, RUNC),
        _least("through containerd, a pod each, wasm against runc", 3, each, whole, WASM, RUNC),
        _least("through containerd, one pod, wasm against a shim that does nothing", 0.5, one, whole, WASM, NULL.name),
        _least("directly, wasm against `runc run`", 3, direct, "tasks", WASM, throughput.RUNC_RUN),
        _least("directly, wasm against `crun run`", 1.5, direct, "tasks", WASM, throughput.CRUN_RUN),
        _least("directly, with seccomp, wasm against `runc run`", 3, filtered, "tasks", WASM, throughput.RUNC_RUN),
        _least("directly, with seccomp, wasm against `crun run`", 1.5, filtered, "tasks", WASM, throughput.CRUN_RUN),
    ]


def _startup(results: Mapping[str, Result]) -> list[Bar]:
    warm = _section(results, "startup", startup.CTR)
    nothing = _section(results, "cold", cold.COLD)
    return [
        _most("`ctr run --rm`, wasm, warm, against runc", 0.45, warm, startup.CTR, WASM),
        _most("`ctr run --rm`, wasm never seen, against runc", 1, warm, startup.CTR, startup.NEVER_SEEN),
        _most("`ctr run --rm`, wasm, cold, against runc", 2.5, nothing, cold.CTR, WASM),
    ]


def _memory(results: Mapping[str, Result]) -> list[Bar]:
    found = []
    for shape, limit in ((memory.PODS_OF_ONE, 5.0), (memory.ONE_POD, 3.0)):
        section = _section(results, "memory", memory.title_of(shape, 50))
        figure = section.figure(memory.PSS) if section else None
        kib = figure.median(WASM) if figure else None
        what = f"Pss a container, wasm; {memory.title_of(shape, 50).lower()}"
        is_binding = _python_of(results.get("memory")) >= _LIMITED_SINCE
        found.append(Bar(what, limit, False, " MB", None if kib is None else kib * _MB_A_KIB, is_binding))
    return found


def _scale(results: Mapping[str, Result]) -> list[Bar]:
    section = _section(results, "scale", scale.title_of(WASM_OURS))
    sizes = " and ".join(reversed(section.contenders)) if section else "many and few"
    rate = scale.kept(section, throughput.WHOLE) if section else None
    kib = scale.kept(section, memory.PSS) if section else None
    return [
        Bar(f"throughput beside many against few, wasm ({sizes})", 0.8, True, "x", rate),
        Bar(f"Pss a container with many against few, wasm ({sizes})", _FLAT, False, "x", kib),
    ]


def _native(results: Mapping[str, Result]) -> list[Bar]:
    one = _section(results, "throughput", throughput.ONE_POD)
    warm = _section(results, "startup", startup.CTR)
    return [
        _most("`ctr run --rm`, native, warm, against runc", 0.45, warm, startup.CTR, NATIVE),
        _least("through containerd, one pod, native against runc", 4, one, throughput.WHOLE, NATIVE, RUNC),
    ]


def _least(what: str, limit: float, section: Section | None, figure: str, ours: str, theirs: str) -> Bar:
    return Bar(what, limit, True, "x", ratio(section.figure(figure), ours, theirs) if section else None)


def _most(what: str, limit: float, section: Section | None, figure: str, ours: str) -> Bar:
    return Bar(what, limit, False, "x", ratio(section.figure(figure), ours, RUNC) if section else None)


def _section(results: Mapping[str, Result], bench: str, title: str) -> Section | None:
    return results[bench].section(title) if bench in results else None


def _python_of(result: Result | None) -> tuple[int, ...]:
    """The version of the Python that was measured; nothing that was not is older than any."""
    found = re.search(r"(\d+)\.(\d+)", result.machine.get("python", "")) if result else None
    return tuple(map(int, found.groups())) if found else (0,)


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Read files of one result or of several. Raises: OSError, ValueError, KeyError."""
    contents = [json.loads(path.read_text()) for path in paths]
    flat = [each for content in contents for each in (content if isinstance(content, list) else [content])]
    return [Result.from_json(each) for each in flat]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(table(bars_of(read_results([Path(name) for name in sys.argv[1:]]))))
