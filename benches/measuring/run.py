"""The frame of every benchmark: options, stage, description of the machine, table and JSON."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from .figures import Result, Section, markdown
from .machine import describe, load
from .stage import Options, Stage, add_options, options_of, stage

__all__ = ["parser_of", "run_bench"]


def parser_of(doc: str | None, runs: int) -> argparse.ArgumentParser:
    """A command line with the options of every benchmark; *doc* is the module's docstring, *runs* a default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, runs)
    return parser


def run_bench(
    name: str,
    args: argparse.Namespace,
    measure: Callable[[Stage], Sequence[Section]],
    *,
    fresh: int = 0,
    settings: Sequence[str] = (),
) -> None:
    """Set the stage, *measure*, print the tables, write JSON; *settings* names the options of *args* to be recorded."""
    options: Options = options_of(args)
    began = time.monotonic()
    with stage(options, fresh) as ready:
        machine = describe(ready)
        sections = measure(ready)
        machine |= {"load after": load(), "took": f"{time.monotonic() - began:.0f} s"}
    recorded = {"runs": options.runs, **{each: getattr(args, each) for each in settings}}
    result = Result(name, machine, recorded, sections)
    show(result)
    if options.json:
        result.write(options.json)


def show(result: Result) -> None:
    """Print the whole: machine, settings, tables of medians."""
    print(f"{result.bench}: {'; '.join(f'{key} {value}' for key, value in result.machine.items())}")
    print("; ".join(f"{key} {value}" for key, value in result.settings.items()))
    for section in result.sections:
        print(f"\n### {section.title}\n\n{markdown(section)}")


def with_notes(section: Section, *notes: str) -> Section:
    """The section with further notes under its table."""
    return replace(section, notes=[*section.notes, *notes])
