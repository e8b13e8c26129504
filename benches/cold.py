"""The first container of a node: no zygote runs, no compiled code is kept. `ctr run --rm` beside runc's.

    uv run python benches/cold.py [--runs N] [--json FILE] [--shim-directory DIR] [--containerd DIR]

The zygote that is ended and the cache that is emptied are the benchmark's own (see measuring/stage.py). Nothing else
is dropped: programs and libraries are in the page cache, as on a node that has started a shim before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from measuring.figures import Figure, Section, take_turns
from measuring.programs import NATIVE_OURS, NATIVE_RUNC, WASM_OURS, Contender
from measuring.run import parser_of, run_bench
from measuring.stage import Stage
from startup import echo_ms

COLD = "ctr run --rm, no zygote and no compiled code"
CTR = "ctr run --rm"


def main() -> None:
    """Measure, and print a table."""
    args = parser_of(__doc__, runs=10).parse_args()
    run_bench("cold", args, measure)


def measure(stage: Stage) -> list[Section]:
    """One section, contenders in turns, each of ours made cold before."""
    contenders = (WASM_OURS, NATIVE_OURS, NATIVE_RUNC)
    for contender in contenders:
        echo_ms(stage, contender)  # the page cache is warm then
    turns: dict[str, Callable[[], float]] = {each.name: partial(cold_ms, stage, each) for each in contenders}
    return [Section(COLD, [Figure(CTR, "ms", take_turns(stage.options.runs, turns))], NATIVE_RUNC.name)]


def cold_ms(stage: Stage, contender: Contender) -> float:
    """One `ctr run --rm` with nothing there, in ms."""
    stage.make_cold()
    return echo_ms(stage, contender)


if __name__ == "__main__":
    main()
