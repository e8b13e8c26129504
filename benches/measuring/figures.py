"""Figures as values: what was measured, of whom, how often; statistics, JSON, and Markdown tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["Figure", "Result", "Section", "figures_of", "markdown", "ratio", "take_turns"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured: a value for each repetition, by contender."""

    what: str
    unit: str
    values: Mapping[str, Sequence[float]]

    def median(self, contender: str) -> float | None:
        """The contender's median, None if it was not measured."""
        values = self.values.get(contender)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that share a table; where *baseline* names a contender, the others are compared with it."""

    title: str
    figures: Sequence[Figure]
    baseline: str = ""
    notes: Sequence[str] = ()

    @property
    def contenders(self) -> list[str]:
        """Their names, in the order in which they appear."""
        return list(dict.fromkeys(name for figure in self.figures for name in figure.values))

    def figure(self, what: str) -> Figure | None:
        """The figure of that name, None if it was not measured."""
        return next((figure for figure in self.figures if figure.what == what), None)


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found, on which machine, with which settings."""

    bench: str
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    sections: Sequence[Section] = field(default_factory=tuple)

    def section(self, title: str) -> Section | None:
        """The section of that title, None if it was not measured."""
        return next((section for section in self.sections if section.title == title), None)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Result:
        """Take what `write` wrote, parsed. Raises: KeyError, TypeError for anything else."""
        sections = [
            Section(each["title"], [Figure(**one) for one in each["figures"]], each["baseline"], tuple(each["notes"]))
            for each in fields["sections"]
        ]
        return cls(fields["bench"], fields["machine"], fields["settings"], sections)


def take_turns(rounds: int, contenders: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure every contender once a round, so that all see the same machine; each round another one is first."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            found[name].append(contenders[name]())
    return found


def figures_of(units: Mapping[str, str], found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Figure]:
    """Turn repetitions of several measures each into figures, one for each measure of *units*, in its order."""
    figures = []
    for what, unit in units.items():
        values = {name: [one[what] for one in each if what in one] for name, each in found.items()}
        figures.append(Figure(what, unit, {name: each for name, each in values.items() if each}))
    return [figure for figure in figures if figure.values]


def ratio(figure: Figure | None, contender: str, baseline: str) -> float | None:
    """The contender's median by the baseline's; None when one of them was not measured."""
    if figure is None:
        return None
    ours, theirs = figure.median(contender), figure.median(baseline)
    return ours / theirs if ours is not None and theirs else None


def markdown(section: Section) -> str:
    """The section as a table of medians (minimum to maximum); under each figure its ratios to the baseline."""
    names = section.contenders
    rows = [["", *names], ["---"] * (len(names) + 1)]
    for figure in section.figures:
        rows.append([f"{figure.what}, {figure.unit}", *(_cell(figure.values.get(name, ())) for name in names)])
        if section.baseline in figure.values and len(figure.values) > 1:
            ratios = [ratio(figure, name, section.baseline) for name in names]
            rows.append([f"… by {section.baseline}", *("" if r is None else f"{r:.2f}x" for r in ratios)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *(f"\n{note}" for note in section.notes)])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(statistics.median(values))} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    """Three figures that count, and no more digits than that before the point either way."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"
