"""A counter of what a shim may leave behind: processes, zombies, mounts, cgroups, sockets, bundles.

A snapshot before, one after, and the difference. Other work on the same machine is told apart in two ways. What
carries one of the scope's markers (a directory or namespace that only this test has) is ours and must be gone. What
carries none may still be ours, as after a mount in the wrong place; it counts if it appeared since and stays for the
whole time that is waited, unless something living that is not ours holds it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.mounts import MountEntry, read_mounts, unmount
from harness.processes import ProcessEntry, ancestors_of, read_process, read_processes, with_descendants

SOCKET_DIRECTORY = "/run/containerd/s"
_POLL_SECONDS = 0.1
_FORCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """One thing that is there; equal to the same thing in a later snapshot."""

    kind: str
    key: str
    is_marked: bool = field(compare=False)  # it carries a marker, so it is ours beyond doubt
    detail: str = field(compare=False)


def _nobody() -> set[int]:
    return set()


@dataclass(frozen=True, slots=True)
class Scope:
    """What is ours, and where to look for it."""

    markers: tuple[str, ...]
    bundle_parents: tuple[str, ...] = ()  # hold a directory for each namespace, and that one for each bundle
    socket_directory: str = SOCKET_DIRECTORY
    spared: Callable[[], set[int]] = _nobody  # pids that are ours and may stay, such as the daemon
    spared_cgroups: frozenset[str] = frozenset()  # last names of cgroups that may stay, as a parent of others

    def is_ours(self, text: str) -> bool:
        return any(marker in text for marker in self.markers)

    def clear_by_force(self) -> None:
        """Kill, unmount and remove whatever is ours beyond doubt, so that a failed test leaves the machine clean.

        Raises: RuntimeError if a process or a cgroup withstands that.
        """
        processes = _Processes.read(self)
        sockets = [item.key for item in _socket_items(self, processes.ours) if item.is_marked]
        _kill([processes.everything[pid] for pid in processes.ours])
        for path in sockets:
            Path(path).unlink(missing_ok=True)
        for mount in reversed(read_mounts()):
            if any(map(mount.mentions, self.markers)):
                unmount(mount.target)
        _remove_cgroups([path for path in _cgroup_directories() if self.is_ours(path)])


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is there at one moment."""

    scope: Scope
    items: frozenset[Item]

    @classmethod
    def snapshot(cls, scope: Scope) -> Leftovers:
        """Look at the whole machine now."""
        processes = _Processes.read(scope)
        return cls(
            scope,
            frozenset(
                (
                    *processes.items(),
                    *_mount_items(scope),
                    *_cgroup_items(scope, processes.ours),
                    *_socket_items(scope, processes.ours),
                    *_bundle_items(scope),
                )
            ),
        )


def assert_clean(before: Leftovers, timeout: float = 5.0) -> None:
    """Fail unless, within *timeout*, nothing of *before*'s scope is there that was not there then."""
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    lasting: frozenset[Item] | None = None
    while True:
        new = Leftovers.snapshot(before.scope).items - before.items
        lasting = new if lasting is None else lasting & new
        found = {item for item in new if item.is_marked} | lasting
        if not found:
            return
        if time.monotonic() >= deadline:
            lines = "\n".join(f"  {item.kind}: {item.detail}" for item in sorted(found))
            raise AssertionError(f"left behind after {timeout:g} s:\n{lines}")
        time.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Processes:
    everything: dict[int, ProcessEntry]
    ours: set[int]
    reapers: set[int]  # whose zombies count; what init has inherited is reaped by init, in its own time

    @classmethod
    def read(cls, scope: Scope) -> _Processes:
        everything = read_processes()
        spared = scope.spared() | ancestors_of(os.getpid(), everything)
        marked = {pid for pid, entry in everything.items() if pid not in spared and entry.mentions(scope.markers)}
        ours = with_descendants(marked, everything) - spared
        return cls(everything, ours, ours | scope.spared() | {os.getpid()})

    def items(self) -> Iterator[Item]:
        for pid, entry in self.everything.items():
            if entry.is_zombie:
                if pid in self.ours or entry.parent in self.reapers:
                    yield Item("zombie", entry.key, True, entry.describe())
            elif pid in self.ours:
                yield Item("process", entry.key, True, entry.describe())


def _mount_items(scope: Scope) -> Iterator[Item]:
    others = os.path.join(
        tempfile.gettempdir(), ""
    )  # below it each test has a directory: what has no marker is others'
    for mount in read_mounts():
        is_marked = any(map(mount.mentions, scope.markers))
        if is_marked or not mount.target.startswith(others):
            yield Item("mount", f"{mount.id} {mount.target}", is_marked, _describe_mount(mount))


def _describe_mount(mount: MountEntry) -> str:
    return f"{mount.target} ({mount.kind}, of {mount.root}, {mount.options})"


def _cgroup_directories() -> Iterator[str]:
    """Give every cgroup of every hierarchy, v1 and v2, parents first."""
    for top in {mount.target for mount in read_mounts() if mount.kind in ("cgroup", "cgroup2")}:
        for directory, _, _ in os.walk(top):
            yield directory


def _cgroup_items(scope: Scope, ours: set[int]) -> Iterator[Item]:
    for directory in _cgroup_directories():
        if os.path.basename(directory) in scope.spared_cgroups:
            continue
        is_marked = scope.is_ours(directory)
        members = _members(directory)
        if is_marked or not members - ours:
            yield Item("cgroup", directory, is_marked, f"{directory} (processes: {sorted(members) or 'none'})")


def _members(directory: str) -> set[int]:
    try:
        return set(map(int, Path(directory, "cgroup.procs").read_text().split()))
    except OSError:  # removed meanwhile, or a threaded cgroup of v2
        return set()


def _kill(entries: list[ProcessEntry]) -> None:
    """Kill, and wait until nothing but zombies is left: those are their parent's to reap."""
    for entry in entries:
        try:
            os.kill(entry.pid, signal.SIGKILL)
        except ProcessLookupError:  # it was faster
            continue
    _wait_until_none(lambda: [entry.describe() for entry in entries if _is_running(entry)])


def _is_running(entry: ProcessEntry) -> bool:
    now = read_process(entry.pid)
    return now is not None and now.key == entry.key and not now.is_zombie


def _remove_cgroups(paths: list[str]) -> None:
    def remove() -> list[str]:
        for path in sorted(paths, key=len, reverse=True):
            try:
                os.rmdir(path)
            except OSError:  # gone, or its processes have not quite left it: looked at again below
                continue
        return [path for path in paths if os.path.isdir(path)]

    _wait_until_none(remove)


def _wait_until_none(remaining: Callable[[], list[str]]) -> None:
    deadline = time.monotonic() + _FORCE_SECONDS
    while what := remaining():
        if time.monotonic() >= deadline:
            raise RuntimeError(f"still there after {_FORCE_SECONDS:g} s of force: {what}")
        time.sleep(_POLL_SECONDS)


def _socket_items(scope: Scope, ours: set[int]) -> Iterator[Item]:
    """Give the shims' sockets: stale ones, and those whose listener is ours."""
    try:
        names = os.listdir(scope.socket_directory)
    except FileNotFoundError:
        return
    holders = _listeners()
    for path in (os.path.join(scope.socket_directory, name) for name in names):
        pids = holders.get(path.removesuffix(".lock"), set())  # a group's lock is whose socket is beside it
        if not pids or pids & ours:
            yield Item("socket", path, bool(pids), f"{path} (listening: {sorted(pids) or 'nobody'})")


def _listeners() -> dict[str, set[int]]:
    """Give the processes that hold each bound unix socket, by its path."""
    paths = {}
    for line in Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8:
            paths[f"socket:[{fields[6]}]"] = fields[7]
    holders: dict[str, set[int]] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for link in _descriptor_links(pid):
            if link in paths:
                holders.setdefault(paths[link], set()).add(int(pid))
    return holders


def _descriptor_links(pid: str) -> Iterator[str]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            yield from (os.readlink(entry.path) for entry in entries)
    except OSError:  # the process is gone, or has closed it
        return


def _bundle_items(scope: Scope) -> Iterator[Item]:
    for parent in scope.bundle_parents:
        for path in Path(parent).glob("*/*"):
            yield Item("bundle", str(path), True, str(path))
