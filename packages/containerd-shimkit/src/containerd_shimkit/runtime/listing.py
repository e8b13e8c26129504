"""What `list` and `ps` print."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..errors import FailedPreconditionError, NotFoundError
from .store import Store

__all__ = ["as_table", "documents", "lines_of_ps"]

_COLUMNS: Final = ("id", "pid", "status", "bundle", "created", "owner")


def documents(store: Store) -> list[dict[str, Any]]:
    """The states of all containers; one that goes meanwhile, or is not complete yet, is left out."""
    found: list[dict[str, Any]] = []
    for id in store.ids():  # noqa: A001
        try:
            found.append(store.find(id).document())
        except NotFoundError:
            continue
    return found


def as_table(found: Sequence[dict[str, Any]]) -> str:
    """*found* in columns, with a head."""
    rows = [[name.upper() for name in _COLUMNS], *([str(each[name]) for name in _COLUMNS] for each in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("   ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def lines_of_ps(pids: Sequence[int], options: Sequence[str]) -> Iterator[str]:
    """The head of ps(1)'s output and the lines of *pids*. Raises: FailedPreconditionError."""
    try:
        done = subprocess.run(["ps", *options], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise FailedPreconditionError("there is no ps(1) on this machine: install it, or use --format json") from None
    except subprocess.CalledProcessError as error:
        raise FailedPreconditionError(f"ps {' '.join(options)}: {error.stderr.strip()}") from error
    head, *lines = done.stdout.splitlines()
    words = head.split()
    if "PID" not in words:
        raise FailedPreconditionError(f"ps {' '.join(options)} prints no column PID: choose options that do")
    column, wanted = words.index("PID"), set(map(str, pids))
    yield head
    yield from (line for line in lines if line.split()[column : column + 1] and line.split()[column] in wanted)
