"""Whether the installation that a zygote was started from is still the one on disk.

A zygote keeps the code in memory; it must not outlive an upgrade. What is looked at is small, for it is looked at with
every request: the interpreter, the libraries that are mapped, the RECORD of every installed distribution and the
directories that hold them, and, of an editable installation, which has no useful RECORD, each loaded file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Identity", "Verdict"]

_SETTLING: Final = 2.0  # seconds without a further change after which an upgrade is taken for finished

_Mark: TypeAlias = tuple[int, int, int, int] | None  # device, inode, size, time of change in ns; None: not there


@dataclass(frozen=True, slots=True)
class Verdict:
    """`is_current`: nothing has changed. `is_settled`: something has, and some time ago, so that it can be run anew."""

    is_current: bool
    is_settled: bool


class Identity:
    """What this process was loaded from, as it was then."""

    def __init__(self, paths: Iterator[str] | None = None) -> None:
        self._marks = {path: _mark(path) for path in sorted(set(paths or _paths_of_this_process()))}

    def check(self) -> Verdict:
        """Look again. Takes about a microsecond a path."""
        changed = [path for path, mark in self._marks.items() if _mark(path) != mark]
        if not changed:
            return Verdict(is_current=True, is_settled=True)
        # while an installer is at work the new code may be half there, and the old is whole in this process's memory
        latest = max(map(_last_change, changed))
        return Verdict(is_current=False, is_settled=not 0 <= time.time() - latest < _SETTLING)


def _mark(path: str) -> _Mark:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _last_change(path: str) -> float:
    """When *path* last changed; what is gone has changed with its directory."""
    for place in (path, os.path.dirname(path)):
        try:
            status = os.stat(place)
        except OSError:
            continue
        return max(status.st_mtime, status.st_ctime)
    return 0.0


def _paths_of_this_process() -> Iterator[str]:
    yield os.path.realpath(sys.executable)
    yield from _mapped_libraries()
    installed = [path for path in sys.path if path and os.path.isdir(path)]
    packages = [path for path in installed if os.path.basename(path) in ("site-packages", "dist-packages")]
    for directory in packages:
        yield directory
        for name in os.listdir(directory):
            if name.endswith(".dist-info"):
                yield os.path.join(directory, name, "RECORD")
    # the standard library comes with the interpreter
    known = (*packages, os.path.dirname(os.__file__))
    for module in tuple(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and not path.startswith(known):
            yield os.path.abspath(path)


def _mapped_libraries() -> Iterator[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            path = line[line.find("/") :].rstrip("\n") if "/" in line else ""
            if path.endswith(".so") or ".so." in path:
                yield path
