"""Where containerd looks for a shim's program: on its own PATH, then beside its own program.

Source: containerd, runtime/v2/shim/util.go (resolution of the binary); environ(7), systemd.exec(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["SearchPath", "containerd_search_paths", "same_directory"]

PROC: Final = "/proc"
SYSTEMD_DEFAULT: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"  # of a unit that does not set PATH


@dataclass(frozen=True, slots=True)
class SearchPath:
    """The directories, in order, and whose they are."""

    owner: str
    directories: tuple[str, ...]

    def finds(self, program: str) -> str | None:
        """The path of the *program* that containerd would execute."""
        for directory in self.directories:
            path = os.path.join(directory, program)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def has(self, directory: str) -> bool:
        """Whether *directory* is among them, by whichever name."""
        return any(same_directory(directory, each) for each in self.directories)


def containerd_search_paths(proc: str = PROC) -> list[SearchPath]:
    """That of each containerd that runs and sees our files; else what systemd would give one."""
    running = [_search_path_of(proc, pid) for pid in _containerds(proc) if _has_our_root(proc, pid)]
    return running or [SearchPath("containerd as systemd starts it", _split(SYSTEMD_DEFAULT))]


def same_directory(one: str, other: str) -> bool:
    """Whether both name one directory: /bin is /usr/bin on most systems."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.normpath(one) == os.path.normpath(other)


def _containerds(proc: str) -> Iterator[int]:
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):
        try:
            with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                if file.read() == "containerd\n":
                    yield pid
        except OSError:
            continue  # it has ended


def _has_our_root(proc: str, pid: int) -> bool:
    """Not so for one in a container: its directories are called like ours, and are others."""
    try:
        return os.path.samefile(f"{proc}/{pid}/root", "/")
    except OSError:
        return True  # only root may look


def _search_path_of(proc: str, pid: int) -> SearchPath:
    owner = f"containerd (pid {pid})"
    try:
        with open(f"{proc}/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        program = os.readlink(f"{proc}/{pid}/exe")
    except OSError:  # only root may look
        return SearchPath(f"{owner}, supposing systemd's default PATH", _split(SYSTEMD_DEFAULT))
    path = next((os.fsdecode(each[5:]) for each in variables if each.startswith(b"PATH=")), "")
    return SearchPath(owner, (*_split(path), os.path.dirname(program)))


def _split(path: str) -> tuple[str, ...]:
    return tuple(directory for directory in path.split(":") if os.path.isabs(directory))
