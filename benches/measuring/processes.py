"""Shims, containers and zygotes as processes: whose they are, and what memory they take."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.processes import ProcessEntry, ancestors_of, read_processes, with_descendants

__all__ = ["Memory", "ended", "family_of", "private_zygotes", "read_memory", "shims_of"]

_LISTENING: Final = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of some processes together: their proportional share of what they map, and what is theirs alone."""

    pss: int
    private: int


def read_memory(pids: Iterable[int]) -> Memory:
    """Add up the processes' smaps_rollup. Raises: OSError for a process that is gone. Source: proc(5)."""
    pss = private = 0
    for pid in pids:
        fields = _fields(Path(f"/proc/{pid}/smaps_rollup").read_text())
        pss += fields["Pss"]
        private += fields["Private_Clean"] + fields["Private_Dirty"]
    return Memory(pss, private)


def shims_of(inits: Iterable[int], others: set[int]) -> set[int]:
    """The shims of containers by their inits: the topmost ancestors below *others* (zygotes, containerd) and ours.

    Raises: LookupError when one has none: it is an orphan, or gone.
    """
    everything = read_processes()
    above = others | ancestors_of(os.getpid(), everything) | {1}
    lines = {pid: [each for each in _line_of(pid, everything, above) if each != pid] for pid in inits}
    if orphans := sorted(pid for pid, line in lines.items() if not line):
        raise LookupError(f"no shim is above the containers' processes {orphans}")
    return {line[-1] for line in lines.values()}


def _line_of(pid: int, everything: Mapping[int, ProcessEntry], above: set[int]) -> Iterator[int]:
    """A process and its ancestors, upwards, up to the first of *above*."""
    while pid in everything and pid not in above:
        yield pid
        pid = everything[pid].parent


def family_of(pids: set[int]) -> set[int]:
    """The processes, and all below them."""
    return with_descendants(pids, read_processes())


def private_zygotes(directory: str) -> set[int]:
    """The processes of our mount namespace that listen at a socket in *directory*: zygotes, if there are any.

    The mount namespace is the benchmark's own, so these are too. Nobody is connected to, or disturbed.
    """
    inodes = {inode for inode, path in _listening_sockets() if path.startswith(f"{directory}/")}
    if not inodes:
        return set()
    ours = os.readlink("/proc/self/ns/mnt")
    return {pid for pid in _pids() if _link(f"/proc/{pid}/ns/mnt") == ours and inodes & _socket_inodes(pid)}


def ended(pids: Iterable[int]) -> None:
    """Kill processes and wait until they are gone, zombies of other parents not counted."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _wait(descriptor)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def _wait(descriptor: int) -> None:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    if not poller.poll(10_000):
        raise TimeoutError("a process that was killed is still there after 10 s")


def _listening_sockets() -> list[tuple[str, str]]:
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    columns = [line.split(maxsplit=7) for line in lines]
    return [(each[6], each[7]) for each in columns if len(each) == 8 and int(each[3], 16) & _LISTENING]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _socket_inodes(pid: int) -> set[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return set()
    links = (_link(f"/proc/{pid}/fd/{name}") for name in names)
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # gone meanwhile
        return ""


def _fields(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
