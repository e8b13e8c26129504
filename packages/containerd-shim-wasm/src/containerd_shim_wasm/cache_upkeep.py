"""What keeps the compile cache within its bounds: what is in it, what goes first, what dead processes have left."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .cache_entry import CODE, LOCK, RECORD, TEMPORARY, EntryName, parse_name

__all__ = ["Entry", "Listing", "list_entries", "make_room", "plan_removal", "remove", "sweep", "try_lock"]

_STALE_SECONDS: Final = 86400.0  # another key of an engine is an older version's when nobody has used it for so long
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that takes room: an entry of the cache, or a file that is none of this version's (name None)."""

    name: EntryName | None
    files: tuple[str, ...]  # in the order in which they are removed
    size: int  # bytes of all its files
    last_used: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's content: what takes room, and the names that somebody is making, or has died making."""

    entries: tuple[Entry, ...]
    unfinished: tuple[str, ...]  # entries' names as text


def list_entries(directory: int) -> Listing:
    """Read the open *directory*. Raises: OSError."""
    files: dict[str, os.stat_result] = {}
    for name in os.listdir(directory):
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            files[name] = status
    return _group(files)


def _group(files: dict[str, os.stat_result]) -> Listing:
    entries: list[Entry] = []
    unfinished: dict[str, None] = {}
    for file, status in files.items():
        text = file.removesuffix(TEMPORARY)
        role = next((role for role in (CODE, RECORD, LOCK) if text.endswith(role)), "")
        text = text.removesuffix(role)
        name = parse_name(text)
        if name is None or not role:
            entries.append(Entry(None, (file,), status.st_size, status.st_mtime))
        elif file == text + RECORD and text + CODE in files:
            size = status.st_size + files[text + CODE].st_size
            entries.append(Entry(name, (file, text + CODE), size, status.st_mtime))
        elif file != text + CODE or text + RECORD not in files:
            unfinished[text] = None
    return Listing(tuple(entries), tuple(unfinished))


def plan_removal(entries: Sequence[Entry], limit_bytes: int, name: EntryName | None, now: float) -> list[Entry]:
    """Those of *entries* to remove so that the rest has at most *limit_bytes*, for the sake of the entry *name*.

    First those of the same engine with another key that nobody has used for a day, then the least recently used.
    """

    def order(entry: Entry) -> tuple[bool, float]:
        is_old_version = (
            name is not None
            and entry.name is not None
            and entry.name.engine == name.engine
            and entry.name.key != name.key
            and entry.last_used < now - _STALE_SECONDS
        )
        return not is_old_version, entry.last_used

    excess = sum(entry.size for entry in entries) - limit_bytes
    chosen: list[Entry] = []
    for entry in sorted(entries, key=order):
        if excess <= 0:
            break
        chosen.append(entry)
        excess -= entry.size
    return chosen


def make_room(directory: int, limit_bytes: int, name: EntryName) -> None:
    """Remove what dead processes have left, and entries until *limit_bytes* are kept; *name* is locked by the caller.

    Two who store at once may exceed the limit by what they store; the next one makes up for it. Raises: OSError.
    """
    listing = list_entries(directory)
    sweep(directory, [text for text in listing.unfinished if text != name.text])
    for entry in plan_removal(listing.entries, limit_bytes, name, time.time()):
        remove(directory, entry.files)


def sweep(directory: int, unfinished: Iterable[str]) -> None:
    """Remove the files of *unfinished* entries that nobody is making any more."""
    for text in unfinished:
        lock = try_lock(directory, text + LOCK)
        if lock is None:
            continue
        try:
            temporaries = (text + CODE + TEMPORARY, text + RECORD + TEMPORARY)
            remove(directory, temporaries)
            if not all(_is_there(directory, text + role) for role in (CODE, RECORD)):
                remove(directory, (text + RECORD, text + CODE))
            remove(directory, (text + LOCK,))
        finally:
            os.close(lock)


def remove(directory: int, files: Iterable[str]) -> None:
    """Unlink *files*, those that are there: whoever has one open keeps it. Raises: OSError."""
    for file in files:
        try:
            os.unlink(file, dir_fd=directory)
        except FileNotFoundError:
            pass


def try_lock(directory: int, file: str) -> int | None:
    """Take the lock *file* without waiting: its descriptor, or None when somebody else has it.

    Who has it removes the file before it lets go, so a lock counts only while its file is in its place.
    """
    while True:
        descriptor = os.open(file, _LOCK_FLAGS, 0o600, dir_fd=directory)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(file, dir_fd=directory, follow_symlinks=False)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # the last holder took it away: lock its successor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_there(directory: int, file: str) -> bool:
    try:
        os.stat(file, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
