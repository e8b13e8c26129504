"""The entrypoint of a wasm container: `path`, or `path#export`."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Final

__all__ = ["DEFAULT_FUNCTION", "Entrypoint", "parse_entrypoint"]

DEFAULT_FUNCTION: Final = "_start"


@dataclass(frozen=True, slots=True)
class Entrypoint:
    """`process.args[0]` in parts.

    `arg0` is the whole; `path` what stands before the first "#"; `func` what stands behind it, `_start` by default;
    `name` the file's name without its last extension, None when there is no path.
    """

    arg0: str
    path: str
    func: str
    name: str | None


def parse_entrypoint(arg0: str) -> Entrypoint:
    """Take *arg0* apart: `/app/tool.wasm#main` is path `/app/tool.wasm`, function `main`, name `tool`."""
    path, _, func = arg0.partition("#")
    stem = posixpath.splitext(posixpath.basename(path))[0]
    return Entrypoint(arg0, path, func or DEFAULT_FUNCTION, stem or None)
