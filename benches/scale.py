"""What a node full of containers costs: throughput and memory a container beside few and beside many that live.

    uv run python benches/scale.py [--few N] [--many N] [--pod-size N] [--tasks N] [--parallel P] [--runs N]
                                   [--json FILE] [--shim-directory DIR] [--containerd DIR]

The living ones sleep, in pods of --pod-size; the tasks that are timed come and go in one pod more. Where the memory
that is available would not do for --many, there are as many as it does for, and the table says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from measuring.containerd_client import Sandboxed
from measuring.figures import Figure, Section, ratio
from measuring.programs import NATIVE_OURS, NATIVE_RUNC, WASM_OURS, Contender
from measuring.run import parser_of, run_bench
from measuring.stage import Stage
from memory import PRIVATE, PSS, in_kib, start
from throughput import TASKS, WHOLE, Load, rates

SCALE = "Beside containers that live"
_SPARE = 0.7  # of the available memory may be used
CONTENDERS = (WASM_OURS, NATIVE_OURS, NATIVE_RUNC)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Living containers of one contender, which grow in number."""

    stage: Stage
    contender: Contender
    pod_size: int
    containers: list[Sandboxed] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)

    def grow(self, size: int) -> None:
        """Start more until there are *size*."""
        while len(self.pids) < size:
            pod = f"crowd-{id(self)}-{len(self.pids) // self.pod_size}"
            self.pids.append(start(self.stage, self.contender, pod, self.containers))

    def end(self) -> None:
        """End them all."""
        for each in self.containers:
            self.stage.client.end(each.id)


def main() -> None:
    """Measure, and print tables."""
    parser = parser_of(__doc__, runs=3)
    parser.add_argument("--few", type=int, default=10, help="containers that live at first (default 10)")
    parser.add_argument("--many", type=int, default=1000, help="containers that live then (default 1000)")
    parser.add_argument("--pod-size", type=int, default=10, help="containers of a pod (default 10)")
    parser.add_argument("--tasks", type=int, default=100, help="timed in each run (default 100)")
    parser.add_argument("--parallel", type=int, default=4, help="at once (default 4)")
    args = parser.parse_args()
    load = Load(args.tasks, args.parallel)
    run_bench(
        "scale",
        args,
        lambda stage: [beside(stage, each, (args.few, args.many), args.pod_size, load) for each in CONTENDERS],
        settings=["few", "many", "pod_size", "tasks", "parallel"],
    )


def title_of(contender: Contender) -> str:
    """A section's title."""
    return f"{SCALE}: {contender.name}"


def beside(stage: Stage, contender: Contender, sizes: tuple[int, int], pod_size: int, load: Load) -> Section:
    """Throughput and memory beside few, then beside many. The columns are the sizes: they cannot take turns."""
    few, many = sizes
    crowd = Crowd(stage, contender, pod_size)
    found: dict[str, list[dict[str, float]]] = {}
    notes: list[str] = []
    try:
        crowd.grow(few)
        found[f"{few} live"] = look(crowd, load)
        if (fitting := fitting_size(found[f"{few} live"][0][PSS], many)) < many:
            notes.append(f"The memory of this machine does for {fitting} of {many} containers.")
        crowd.grow(fitting)
        found[f"{fitting} live"] = look(crowd, load)
    finally:
        crowd.end()
    units = {WHOLE: "1/s", TASKS: "1/s", PSS: "KiB", PRIVATE: "KiB"}
    figures = [
        Figure(what, unit, {n: [one[what] for one in e] for n, e in found.items()}) for what, unit in units.items()
    ]
    return Section(title_of(contender), figures, f"{few} live", notes)


def look(crowd: Crowd, load: Load) -> list[dict[str, float]]:
    """Throughput in one pod more, and the living ones' memory, as often as it is to be repeated."""
    stage = crowd.stage
    holder: list[Sandboxed] = []
    start(stage, crowd.contender, group := f"timed-{id(crowd)}-{len(crowd.pids)}", holder)
    try:
        return [
            {**rates(stage, load, crowd.contender, group), **in_kib(stage, crowd.contender, crowd.pids)}
            for _ in range(stage.options.runs)
        ]
    finally:
        stage.client.end(holder[0].id)


def fitting_size(kib_a_container: float, wanted: int) -> int:
    """How many of *wanted* containers the available memory does for."""
    available_kib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024
    return max(1, min(wanted, int(available_kib * _SPARE / kib_a_container)))


def kept(section: Section, what: str) -> float | None:
    """How much of a figure beside few is left beside many."""
    sizes = section.contenders
    return ratio(section.figure(what), sizes[-1], sizes[0]) if len(sizes) > 1 else None


def sizes_of(sections: Sequence[Section]) -> list[str]:
    """The numbers of living containers that were measured, in words."""
    return [size for section in sections for size in section.contenders]


if __name__ == "__main__":
    main()
