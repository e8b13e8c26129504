"""Compiled programs as files of the node: found, locked, verified, stored, in a directory that is root's alone.

An entry is two files: the code, exactly the engine's bytes, since engines map it by its path; and a record beside it,
written last, without which the code does not exist. Neither is ever written in place: each is written whole under
another name, then renamed. Any file may vanish at any moment, by which nobody who has it open is harmed; whatever else
is odd about one means that it is removed and made anew.

Nothing here waits for a disk to write (no fsync): an entry that a power failure has torn is found by its digest, which
is checked once after each boot.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from . import cache_upkeep
from .cache_directory import BadEntryError, CacheDirectory, CacheError, open_own
from .cache_entry import CODE, LOCK, RECORD, TEMPORARY, EntryName, Record, decode_record
from .digests import FileIdentity, sha256_of

__all__ = ["CompileCache", "Found", "boot_id"]

TOUCH_SECONDS: Final = 3600.0  # a record's mtime tells when its entry was last used, to this
_KNOWN: Final = 1024  # entries that a process remembers as verified
_MAX_RECORD: Final = 1024
_PIECE: Final = 1 << 20
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """An entry's code, as a descriptor that the caller owns. With a `record` it is still to be verified."""

    descriptor: int
    record: Record | None = None


@dataclass(slots=True)
class _Known:
    identity: FileIdentity
    touch_at: float  # time.monotonic() from which on another use is to be noted


class CompileCache:
    """The entries in *directory*, *limit_bytes* of them at most. An object for a process's whole life.

    Every method raises CacheError, saying what is wrong and the cure, and opens the directory anew: it is judged by
    what it is now. All but `store` and `verify`, which are for a child, cost a few system calls.
    """

    def __init__(self, directory: str, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self._known: dict[EntryName, _Known] = {}
        self._directory = CacheDirectory(directory)

    def find(self, name: EntryName, *, note_use: bool = True) -> Found | None:
        """Open the code of *name*, if it is there. Raises: BadEntryError for one that is not to be loaded."""
        with self._directory.opened() as directory:
            descriptor = open_own(name.text + CODE, directory, self.directory)
            if descriptor is None:
                return None
            try:
                found = self._judge(name, descriptor, directory, note_use)
            except BaseException:
                os.close(descriptor)
                raise
            if found is None:
                os.close(descriptor)
            return found

    def is_verified(self, name: EntryName) -> bool:
        """Whether *name* is there and need not be verified any more in this boot; an entry that is bad is not."""
        try:
            found = self.find(name, note_use=False)
        except BadEntryError:
            return False
        if found is None:
            return False
        os.close(found.descriptor)
        return found.record is None

    def verify(self, name: EntryName, found: Found) -> None:
        """Compare the code's digest with its record, and note that it is right. Raises: BadEntryError when it is not.

        Reads all of the code. The caller holds the entry's lock.
        """
        assert found.record is not None, "it has been verified"
        before = FileIdentity.of(os.fstat(found.descriptor))
        if sha256_of(found.descriptor) != found.record.code_sha256.hex():
            raise BadEntryError(f"{self.directory}/{name.text}{CODE} is damaged: its digest is not the record's")
        try:
            with self._directory.opened() as directory:
                self._write(directory, name, replace(found.record, boot=boot_id(), verified=before))
        except CacheError:
            pass  # no room for the note, say: the code is right all the same, and will be looked at again

    def store(self, name: EntryName, code: int, program_bytes: int, lock: int) -> None:
        """Put the bytes of the open file *code* under *name*, making room first. The caller holds *lock* of `try_lock`.

        Raises: CacheError, with nothing left behind.
        """
        del lock  # asked for so that nobody forgets it, and that its descriptor is kept in the child that stores
        size = os.fstat(code).st_size
        if size > self.limit_bytes:
            raise CacheError(
                f"{size} bytes of code are more than the whole cache may hold ({self.limit_bytes}); "
                "raise the runtime option compile_cache_bytes"
            )
        with self._directory.opened() as directory:
            cache_upkeep.make_room(directory, self.limit_bytes - size, name)
            temporary = name.text + CODE + TEMPORARY
            with self._temporary(directory, temporary) as target:
                digest = _copy(code, target, size)
                _rename(directory, temporary, name.text + CODE)
                # only now: a rename may change ctime
                identity = FileIdentity.of(os.fstat(target))
            self._write(directory, name, Record(name, digest, program_bytes, boot_id(), identity))

    def discard(self, name: EntryName) -> None:
        """Remove the entry *name*, whatever is there of it."""
        self._known.pop(name, None)
        with self._directory.opened() as directory:
            cache_upkeep.remove(directory, (name.text + RECORD, name.text + CODE))

    def try_lock(self, name: EntryName) -> int | None:
        """Take the lock under which *name* is made: a descriptor to give to `unlock`, or None: somebody has it.

        It is held for as long as any process has the descriptor.
        """
        with self._directory.opened() as directory:
            return cache_upkeep.try_lock(directory, name.text + LOCK)

    def unlock(self, name: EntryName, lock: int) -> None:
        """Let go of *lock*, also for children that were forked meanwhile and still have it."""
        try:
            with self._directory.opened() as directory:
                cache_upkeep.remove(directory, (name.text + LOCK,))  # while it is held: see try_lock
        except CacheError:
            pass  # the directory has gone, and the lock's file with it
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _judge(self, name: EntryName, descriptor: int, directory: int, note_use: bool) -> Found | None:
        status = os.fstat(descriptor)
        identity = FileIdentity.of(status)
        known = self._known.get(name)
        if known is not None and known.identity == identity:
            if time.monotonic() >= known.touch_at:
                known.touch_at = _touch(directory, name)
            return Found(descriptor)
        record = _read_record(directory, name, self.directory)
        if record is None:
            return None
        if not status.st_mode & stat.S_IROTH:
            raise BadEntryError(
                f"{self.directory}/{name.text}{CODE} has mode {stat.S_IMODE(status.st_mode):04o}, as earlier versions "
                "made it: the root of a user namespace cannot open it"
            )
        if record.verified.size != identity.size:
            raise BadEntryError(
                f"{self.directory}/{name.text}{CODE} has {identity.size} bytes, not {record.verified.size} as recorded"
            )
        if (record.boot, record.verified) != (boot_id(), identity):
            return Found(descriptor, record)
        if note_use:
            self._known[name] = _Known(identity, _touch(directory, name))
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]
        return Found(descriptor)

    def _write(self, directory: int, name: EntryName, record: Record) -> None:
        temporary = name.text + RECORD + TEMPORARY
        with self._temporary(directory, temporary) as target:
            data = record.encode()
            if os.write(target, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _rename(directory, temporary, name.text + RECORD)

    @contextmanager
    def _temporary(self, directory: int, name: str) -> Generator[int, None, None]:
        cache_upkeep.remove(directory, (name,))  # a dead one's: whoever writes here holds the entry's lock
        try:
            descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
            try:
                # the root of a user namespace opens its descriptor anew; all others are kept out by the directory
                os.fchmod(descriptor, 0o644)
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            cache_upkeep.remove(directory, (name,))
            raise CacheError(
                f"{self.directory}/{name} cannot be written: {error.strerror or error}; make room on that file system, "
                "or name a directory on another by the runtime option compile_cache_directory"
            ) from error


@functools.cache
def boot_id() -> bytes:
    """The kernel's random name of this boot, 16 bytes. Source: random(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def _read_record(directory: int, name: EntryName, where: str) -> Record | None:
    descriptor = open_own(name.text + RECORD, directory, where)
    if descriptor is None:
        return None  # not complete, or being removed
    try:
        record = decode_record(os.read(descriptor, _MAX_RECORD))
    except ValueError as error:
        raise BadEntryError(f"{where}/{name.text}{RECORD} is damaged: {error}") from error
    finally:
        os.close(descriptor)
    if record.name != name:
        raise BadEntryError(f"{where}/{name.text}{RECORD} is another entry's: {record.name.text}")
    return record


def _touch(directory: int, name: EntryName) -> float:
    """Note that the entry is used, if it has not been noted for long; from when on to do so again."""
    try:
        age = time.time() - os.stat(name.text + RECORD, dir_fd=directory, follow_symlinks=False).st_mtime
        if 0 <= age < TOUCH_SECONDS:
            return time.monotonic() + TOUCH_SECONDS - age
        os.utime(name.text + RECORD, dir_fd=directory, follow_symlinks=False)
    except OSError:
        pass  # being removed, or a read-only file system: its age matters to nobody
    return time.monotonic() + TOUCH_SECONDS


def _copy(source: int, target: int, size: int) -> bytes:
    """Write *size* bytes of the file *source* to *target*; their SHA-256."""
    digest, offset = hashlib.sha256(), 0
    while offset < size and (piece := os.pread(source, min(_PIECE, size - offset), offset)):
        digest.update(piece)
        offset += len(piece)
        while piece:
            piece = piece[os.write(target, piece) :]
    return digest.digest()


def _rename(directory: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
