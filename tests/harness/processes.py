"""Processes as /proc shows them: whose they are, told by whatever of theirs names one of our paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.mounts import read_mounts


@dataclass(frozen=True, slots=True)
class ProcessEntry:
    """A process, kept apart from a later one with its pid by the time it started."""

    pid: int
    start_time: int  # clock ticks since boot
    parent: int
    state: str  # R, S, Z...
    name: str

    @property
    def is_zombie(self) -> bool:
        return self.state in "ZX"

    @property
    def key(self) -> str:
        return f"{self.pid}@{self.start_time}"

    def describe(self) -> str:
        line = _read(self.pid, "cmdline").replace("\0", " ").strip()
        return f"pid {self.pid}, parent {self.parent}, state {self.state}: {line or f'[{self.name}]'}"

    def mentions(self, markers: Sequence[str]) -> bool:
        """Say whether anything of this process holds one of *markers*: its command line, environment, working
        directory, root, program, open files, cgroups, or the mounts of a mount namespace that is not ours."""
        return any(marker in text for text in self._texts() for marker in markers)

    def _texts(self) -> Iterator[str]:
        yield from (_read(self.pid, name) for name in ("cmdline", "environ", "cgroup"))
        yield from (_link(self.pid, name) for name in ("cwd", "root", "exe"))
        try:
            descriptors = os.listdir(f"/proc/{self.pid}/fd")
        except OSError:  # gone, or a zombie
            return
        yield from (_link(self.pid, f"fd/{descriptor}") for descriptor in descriptors)
        if _link(self.pid, "ns/mnt") != _link("self", "ns/mnt"):
            try:
                mounts = read_mounts(self.pid)
            except OSError:
                return
            yield from (f"{mount.root}\n{mount.target}\n{mount.options}" for mount in mounts)


def parse_stat(text: str) -> ProcessEntry:
    """Parse /proc/pid/stat; the name may hold spaces and parentheses. Source: proc(5)."""
    pid, _, rest = text.partition(" (")
    name, _, numbers = rest.rpartition(") ")
    fields = numbers.split()
    return ProcessEntry(int(pid), int(fields[19]), int(fields[1]), fields[0], name)


def read_process(pid: int) -> ProcessEntry | None:
    """Read one process; None when there is none of this id."""
    text = _read(pid, "stat")
    return parse_stat(text) if text else None


def read_processes() -> dict[int, ProcessEntry]:
    """Read every process there is, by pid; those that end meanwhile are left out."""
    found = {int(pid): read_process(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()}
    return {pid: entry for pid, entry in found.items() if entry}


def ancestors_of(pid: int, processes: dict[int, ProcessEntry]) -> set[int]:
    """Give *pid* and all above it."""
    found: set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].parent
    return found


def with_descendants(pids: set[int], processes: dict[int, ProcessEntry]) -> set[int]:
    """Give *pids* and all below them."""
    found = set(pids)
    while new := {entry.pid for entry in processes.values() if entry.parent in found} - found:
        found |= new
    return found


def _read(pid: int | str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="surrogateescape")
    except OSError:  # the process is gone; nothing of it is left to read
        return ""


def _link(pid: int | str, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""
