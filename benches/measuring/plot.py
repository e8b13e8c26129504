"""Bars in panels as an SVG, by hand: readable on light and on dark pages, and without a program that draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Literal

__all__ = ["Bar", "Panel", "draw"]

Kind = Literal["wasm", "native", "peer", "ceiling"]

_WIDTH: Final = 820
_LEFT, _RIGHT = 214, 92  # room for names and values
_BAR, _STEP, _HEAD, _GAP, _TOP = 15, 23, 34, 20, 42
_LEGEND: Final[Sequence[tuple[Kind, str]]] = (
    ("wasm", "wasm, this shim"),
    ("native", "native, this shim"),
    ("peer", "native, runc and crun"),
    ("ceiling", "a shim that does nothing"),
)
# text in a grey that is read on white and on black, where a viewer knows nothing of colour schemes
_STYLE: Final = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #6a737d }
.title { font-weight: 600; font-size: 14px }
.value { font-variant-numeric: tabular-nums }
.wasm { fill: #7a5cd6 } .native { fill: #2b95b5 } .peer { fill: #98a1ab }
.ceiling { fill: none; stroke: #98a1ab; stroke-dasharray: 3 2 }
.axis { stroke: #98a1ab; stroke-opacity: .5 } .spread { stroke: #6a737d; stroke-width: 1.5 }
@media (prefers-color-scheme: light) { text { fill: #24292f } .spread { stroke: #30363d } }
@media (prefers-color-scheme: dark) { text { fill: #d7dde3 } .spread { stroke: #f0f3f6 } }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a median, and what it spread between."""

    name: str
    kind: Kind
    value: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars on one scale."""

    title: str  # with the unit, and whether more is better
    bars: Sequence[Bar]


def draw(panels: Sequence[Panel]) -> str:
    """The panels under each other, with a legend on top, as the text of an SVG file."""
    y = _TOP
    parts = [_legend()]
    for panel in panels:
        parts.append(_panel(panel, y))
        y += _HEAD + _STEP * len(panel.bars) + _GAP
    label = "; ".join(panel.title for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}" '
        f'role="img" aria-label="{escape(label)}">\n<style>{_STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _legend() -> str:
    parts = []
    for number, (kind, text) in enumerate(_LEGEND):
        x = 12 + number * 200
        parts.append(f'<rect class="{kind}" x="{x}" y="12" width="13" height="13" rx="2"/>')
        parts.append(f'<text x="{x + 20}" y="23">{escape(text)}</text>')
    return "\n".join(parts)


def _panel(panel: Panel, top: int) -> str:
    scale = (_WIDTH - _LEFT - _RIGHT) / max((bar.most for bar in panel.bars), default=1)
    bottom = top + _HEAD + _STEP * len(panel.bars)
    parts = [f'<text class="title" x="12" y="{top + 20}">{escape(panel.title)}</text>']
    parts += [_bar(bar, top + _HEAD + _STEP * number, scale) for number, bar in enumerate(panel.bars)]
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{top + _HEAD - 4}" x2="{_LEFT}" y2="{bottom - 3}"/>')
    return "\n".join(parts)


def _bar(bar: Bar, top: int, scale: float) -> str:
    middle, text = top + _BAR / 2, top + _BAR - 3
    end = _LEFT + max(bar.most, bar.value) * scale
    parts = [
        f'<text x="{_LEFT - 8}" y="{text}" text-anchor="end">{escape(bar.name)}</text>',
        f'<rect class="{bar.kind}" x="{_LEFT}" y="{top}" width="{bar.value * scale:.1f}" height="{_BAR}" rx="2"/>',
        f'<text class="value" x="{end + 7:.1f}" y="{text}">{_number(bar.value)}</text>',
    ]
    if bar.most > bar.least:
        x = [f"{_LEFT + value * scale:.1f}" for value in (bar.least, bar.most)]
        parts.append(f'<line class="spread" x1="{x[0]}" y1="{middle}" x2="{x[1]}" y2="{middle}"/>')
    return "\n".join(parts)


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
