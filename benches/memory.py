"""Memory of pods: shims and containers together, as pods of one container and as one pod of many; runc's beside them.

    uv run python benches/memory.py [--sizes 10,50,100] [--runs N] [--json FILE] [--shim-directory DIR]
                                    [--containerd DIR]

From smaps_rollup, of every shim and every container's init: the proportional set size, in which a page that n
processes share counts as 1/n, and what is private. The zygote, one a node, is shown apart: it is there once, however
many pods there are. Pages of Python that other programs of the machine share make the first figure a little smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from measuring.containerd_client import Sandboxed
from measuring.figures import Section, figures_of, take_turns
from measuring.processes import family_of, read_memory, shims_of
from measuring.programs import NATIVE_OURS, NATIVE_RUNC, WASM_OURS, Contender
from measuring.run import parser_of, run_bench
from measuring.stage import Stage

PODS_OF_ONE = "Pods of one container"
ONE_POD = "One pod"
CONTENDERS = (WASM_OURS, NATIVE_OURS, NATIVE_RUNC)
_KIB = 1024
_SETTLE = 0.5  # seconds for the last container to have come to its sleep


def main() -> None:
    """Measure, and print tables."""
    parser = parser_of(__doc__, runs=1)
    parser.add_argument("--sizes", default="10,50,100", help="numbers of containers (default 10,50,100)")
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    run_bench("memory", args, lambda stage: measure(stage, sizes), settings=["sizes"])


def measure(stage: Stage, sizes: Sequence[int]) -> list[Section]:
    """A section for each shape and size."""
    return [measure_shape(stage, shape, size) for shape in (PODS_OF_ONE, ONE_POD) for size in sizes]


def title_of(shape: str, size: int) -> str:
    """A section's title."""
    return f"{shape}, {size} of them" if shape == PODS_OF_ONE else f"{shape} of {size} containers"


def measure_shape(stage: Stage, shape: str, size: int) -> Section:
    """Start *size* containers in one shape for each contender in turn, look, and remove them."""
    turns: dict[str, Callable[[], dict[str, float]]] = {
        each.name: partial(measure_contender, stage, each, size, shape == ONE_POD) for each in CONTENDERS
    }
    found = take_turns(stage.options.runs, turns)
    return Section(title_of(shape, size), figures_of(UNITS, found), NATIVE_RUNC.name)


PSS, PRIVATE = "Pss a container, shim included", "private memory a container, shim included"
SHIM, INIT, ZYGOTE = "Pss of a shim", "Pss of a container without its shim", "Pss of the zygote"
UNITS = dict.fromkeys((PSS, PRIVATE, SHIM, INIT, ZYGOTE), "KiB")


def measure_contender(stage: Stage, contender: Contender, size: int, is_one_pod: bool) -> dict[str, float]:
    """The memory of *size* sleeping containers, in KiB."""
    group = f"pod-{time.monotonic_ns()}" if is_one_pod else ""
    containers: list[Sandboxed] = []
    try:
        pids = [start(stage, contender, group, containers) for _ in range(size)]
        time.sleep(_SETTLE)
        return in_kib(stage, contender, pids)
    finally:
        for each in containers:
            stage.client.end(each.id)


def start(stage: Stage, contender: Contender, group: str, started: list[Sandboxed]) -> int:
    """Start one that sleeps, and add it to *started*; its pid."""
    container = stage.container(contender, contender.sleep(), group)
    pid = stage.client.start(container.id, stage.client.make(container))
    started.append(container)
    return pid


def in_kib(stage: Stage, contender: Contender, pids: Sequence[int]) -> dict[str, float]:
    """The figures of containers by their init processes."""
    zygotes = stage.zygotes()
    shims = shims_of(pids, {*zygotes, stage.ctd.pid or 0})
    everything, of_inits = read_memory(family_of(shims)), read_memory(pids)
    figures = {
        PSS: everything.pss / len(pids),
        PRIVATE: everything.private / len(pids),
        SHIM: (everything.pss - of_inits.pss) / len(shims),
        INIT: of_inits.pss / len(pids),
    }
    if zygotes and contender is not NATIVE_RUNC:
        figures[ZYGOTE] = read_memory(zygotes).pss
    return {what: value / _KIB for what, value in figures.items()}


if __name__ == "__main__":
    main()
