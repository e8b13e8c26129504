"""Digests of programs, and the memory of those that were computed: by what identifies a file that has not changed."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

__all__ = ["DigestMemory", "FileIdentity", "sha256_of"]

_PIECE: Final = 1 << 20
_SETTLED_NS: Final = 2_000_000_000  # the coarsest clock of a file system (FAT, some NFS): younger changes may not show


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """One content of one file: any write to it changes `ctime_ns`. Times are nanoseconds since 1970."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """The identity in *status*."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now_ns: int) -> bool:
        """Whether a change from *now_ns* on is sure to give another identity, and the file system is one that can tell.

        File systems made of an image (FUSE snapshotters, erofs) have no change time: they repeat the modification
        time there, which two images made reproducibly share, as they may share the inode number.
        """
        return self.mtime_ns < self.ctime_ns < now_ns - _SETTLED_NS


class DigestMemory:
    """The digests of the files seen last, *capacity* of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._digests: OrderedDict[FileIdentity, str] = OrderedDict()

    def recall(self, identity: FileIdentity) -> str:
        """The digest of the file *identity*, as `sha256_of` gave it; empty when it is not known."""
        digest = self._digests.get(identity, "")
        if digest:
            self._digests.move_to_end(identity)
        return digest

    def remember(self, identity: FileIdentity, digest: str) -> None:
        """Keep *digest* for *identity*, which was settled before the digest was begun, and was the same after it."""
        self._digests[identity] = digest
        self._digests.move_to_end(identity)
        while len(self._digests) > self._capacity:
            self._digests.popitem(last=False)


def sha256_of(descriptor: int) -> str:
    """The SHA-256 of all of the open file, 64 hexadecimal digits. Reads to the end: not for a shim's loop."""
    # no larger than it need be: every page of it is new to the process
    buffer = bytearray(min(os.fstat(descriptor).st_size + 1, _PIECE))
    digest, offset = hashlib.sha256(), 0
    view = memoryview(buffer)
    while size := os.preadv(descriptor, [buffer], offset):
        digest.update(view[:size])
        offset += size
    return digest.hexdigest()
