"""Whether the installation that a zygote was started from is still the one on disk.

A zygote keeps the code in memory; it must not outlive an upgrade. What is looked at is small, for it is looked at with
every request: the interpreter, the libraries that are mapped, the RECORD of every installed distribution and the
directories that hold them, and, of an editable installation, which has no useful RECORD, each loaded file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Identity", "Verdict"]

_LASTING: Final = 0.1  # seconds for which a look is good: nothing is settled as soon
_SETTLING: Final = 2.0  # seconds without a further change after which an upgrade is taken for finished

_Mark: TypeAlias = tuple[int, int, int, int] | None  # device, inode, size, time of change in ns; None: not there


@dataclass(frozen=True, slots=True)
class Verdict:
    """`is_current`: nothing has changed. `is_settled`: something has, and some time ago, so that it can be run anew."""

    is_current: bool
    is_settled: bool


class Identity:
    """What a process was loaded from, as it was when this was made.

    Made in two steps, for a zygote forgets where code is found before it has mapped its last library.
    """

    def __init__(self, packages: Iterable[str] | None = None) -> None:
        """Note what is installed in the directories *packages*: those of this interpreter, if none are given."""
        self._packages = tuple(_package_directories() if packages is None else packages)
        self._marks: dict[str, _Mark] = {}
        self._add(_installed_in(self._packages))
        self._checked = 0.0
        self._verdict = Verdict(is_current=True, is_settled=True)

    def add_loaded(self) -> None:
        """Note the interpreter, the libraries mapped and the modules loaded by now."""
        self._add(_loaded(self._packages))

    def add(self, path: str) -> None:
        """Note one file more."""
        self._add([path])

    def check(self) -> Verdict:
        """Look again, unless that was done within the last tenth of a second; a look takes a microsecond a path."""
        now = time.monotonic()
        if now - self._checked > _LASTING:
            self._checked, self._verdict = now, self._look()
        return self._verdict

    def _look(self) -> Verdict:
        changed = [path for path, mark in self._marks.items() if _mark(path) != mark]
        if not changed:
            return Verdict(is_current=True, is_settled=True)
        # while an installer is at work the new code may be half there, and the old is whole in this process's memory
        latest = max(map(_last_change, changed))
        return Verdict(is_current=False, is_settled=not 0 <= time.time() - latest < _SETTLING)

    def _add(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._marks.setdefault(path, _mark(path))


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


def _package_directories() -> Iterator[str]:
    for path in sys.path:
        if os.path.basename(path) in ("site-packages", "dist-packages") and os.path.isdir(path):
            yield path


def _installed_in(packages: Iterable[str]) -> Iterator[str]:
    for directory in packages:
        yield directory
        for name in sorted(os.listdir(directory)):
            if name.endswith(".dist-info"):
                yield os.path.join(directory, name, "RECORD")


def _loaded(packages: tuple[str, ...]) -> Iterator[str]:
    """What *packages*' RECORDs do not stand for, and the standard library, which comes with the interpreter."""
    yield os.path.realpath(sys.executable)
    known = (*packages, os.path.dirname(os.__file__))
    modules = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    for path in (*_mapped_libraries(), *filter(None, modules)):
        if not path.startswith(known):
            yield os.path.abspath(path)


def _mapped_libraries() -> Iterator[str]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            path = line[line.find("/") :].rstrip("\n") if "/" in line else ""
            if path.endswith(".so") or ".so." in path:
                yield path
