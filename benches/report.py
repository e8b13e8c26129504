"""Run every benchmark, and put tables, bars and picture into docs/.

    uv run python benches/report.py [--size smoke|moderate|full] [--from FILE] [--docs DIR]
                                    [--shim-directory DIR] [--containerd DIR]

Writes benchmarks.json (every value that was measured), benchmarks.svg, and what stands between the two markers of
benchmarks.md. With --from nothing is run: tables and picture are made anew from such a JSON file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import cold
import memory
import startup
import throughput
from bars import bars_of, read_results, table
from measuring.figures import Figure, Result, markdown
from measuring.plot import Bar, Kind, Panel, draw
from measuring.programs import NATIVE_OURS, NATIVE_RUNC, NULL, WASM_OURS

BENCHES: Final = Path(__file__).parent
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
SIZES: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "full": {"startup": [], "throughput": [], "cold": [], "memory": [], "scale": []},
    "moderate": {
        "startup": ["--runs", "15"],
        "throughput": ["--runs", "3", "--tasks", "40"],
        "cold": ["--runs", "7"],
        "memory": ["--sizes", "10,50"],
        "scale": ["--many", "200", "--tasks", "40", "--runs", "2"],
    },
    "smoke": {
        "startup": ["--runs", "1"],
        "throughput": ["--runs", "1", "--tasks", "2", "--parallel", "2"],
        "cold": ["--runs", "1"],
        "memory": ["--sizes", "2"],
        "scale": ["--few", "1", "--many", "2", "--pod-size", "2", "--tasks", "2", "--runs", "1"],
    },
}
_KINDS: Final[Mapping[str, Kind]] = {
    WASM_OURS.name: "wasm",
    startup.NEVER_SEEN: "wasm",
    NATIVE_OURS.name: "native",
    NATIVE_RUNC.name: "peer",
    throughput.RUNC_RUN: "peer",
    throughput.CRUN_RUN: "peer",
    NULL.name: "ceiling",
}


def main() -> None:
    """Run, or read, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="full", help="how much of each (default full)")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="figures measured before")
    parser.add_argument("--docs", type=Path, default=BENCHES.parent / "docs", metavar="DIR", help="where to write")
    args, options = parser.parse_known_args()
    results = read_results([args.source]) if args.source else list(run_all(args.size, options))
    write(args.docs, results)
    print(table(bars_of(results)))


def run_all(size: str, options: Sequence[str]) -> Iterator[Result]:
    """Run the benchmarks one after the other; *options* are handed on. Raises: SystemExit when one fails."""
    with tempfile.TemporaryDirectory() as directory:
        for name, sizes in SIZES[size].items():
            path = Path(directory, f"{name}.json")
            command = [sys.executable, str(BENCHES / f"{name}.py"), "--json", str(path), *sizes, *options]
            if status := subprocess.run(command, check=False).returncode:
                sys.exit(f"{' '.join(command)} ended with status {status}: nothing has been written")
            print(flush=True)
            yield from read_results([path])


def write(docs: Path, results: Sequence[Result]) -> None:
    """Write the three files. Raises: ValueError when benchmarks.md has no markers."""
    page = docs / "benchmarks.md"
    text = between_markers(page.read_text(), body_of(results))
    (docs / "benchmarks.json").write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    (docs / "benchmarks.svg").write_text(draw(panels_of(results)))
    page.write_text(text)


def between_markers(page: str, body: str) -> str:
    """The page with *body* between its markers. Raises: ValueError when it has not both, in this order."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks its markers: figures go between the lines {BEGIN} and {END}")
    return f"{before}{begin}\n{body}\n{end}{after}"


def body_of(results: Sequence[Result]) -> str:
    """Machine, bars, and every table."""
    parts = [machine_of(results), "## Bars", table(bars_of(results))]
    for result in results:
        settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
        took = f"load {result.machine['load before']} before, {result.machine['load after']} after"
        other = [f"{name} {value}" for name, value in _lasting(result).items() if value != results[0].machine.get(name)]
        parts += [f"## {result.bench}", "; ".join([settings, took, *other])]
        for section in result.sections:
            parts += [f"**{section.title}**", markdown(section)]
    return "\n\n".join(["", *parts, ""])


def machine_of(results: Sequence[Result]) -> str:
    """The machine of the first, in a line; what changes from one benchmark to the next is left out."""
    return "; ".join(f"{name} {value}" for name, value in _lasting(results[0]).items()) if results else ""


def _lasting(result: Result) -> dict[str, str]:
    changing = ("load before", "load after", "took")
    return {name: value for name, value in result.machine.items() if name not in changing}


def panels_of(results: Sequence[Result]) -> list[Panel]:
    """What the picture shows, of what was measured."""
    pods, pod = memory.title_of(memory.PODS_OF_ONE, 50), memory.title_of(memory.ONE_POD, 50)
    panels = [
        _panel(results, "ctr run --rm, ms: less is better", "startup", startup.CTR, startup.CTR),
        _panel(results, "the same with nothing warm, ms: less is better", "cold", cold.COLD, cold.CTR),
        _panel(
            results,
            "containers a second through containerd, one pod: more is better",
            "throughput",
            throughput.ONE_POD,
            throughput.WHOLE,
        ),
        _panel(
            results,
            "containers a second through containerd, a pod each: more is better",
            "throughput",
            throughput.POD_EACH,
            throughput.WHOLE,
        ),
        _panel(results, "tasks a second without containerd: more is better", "throughput", throughput.DIRECT, "tasks"),
        _panel(results, "the same, each with a seccomp filter", "throughput", throughput.FILTERED, "tasks"),
        _panel(results, "Pss a container, 50 pods of one, KiB: less is better", "memory", pods, memory.PSS),
        _panel(results, "Pss a container, one pod of 50, KiB: less is better", "memory", pod, memory.PSS),
    ]
    return [panel for panel in panels if panel.bars]


def _panel(results: Sequence[Result], title: str, bench: str, section: str, what: str) -> Panel:
    sections = [each.section(section) for each in results if each.bench == bench]
    figure = next((found for each in sections if each and (found := each.figure(what))), None)
    return Panel(title, _bars(figure) if figure else [])


def _bars(figure: Figure) -> list[Bar]:
    return [
        Bar(name, _KINDS[name], figure.median(name) or 0.0, min(values), max(values))
        for name, values in figure.values.items()
        if values
    ]


if __name__ == "__main__":
    main()
