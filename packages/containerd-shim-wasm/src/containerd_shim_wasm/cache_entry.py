"""The compile cache's format: names and records of its entries (docs/compile-cache.md). Pure."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from containerd_shimkit import InvalidArgumentError

from .digests import FileIdentity

__all__ = [
    "CODE",
    "FORMAT_VERSION",
    "LOCK",
    "RECORD",
    "TEMPORARY",
    "EntryName",
    "Record",
    "decode_record",
    "parse_name",
]

FORMAT_VERSION: Final = 1

# a file's role, by the end of its name
CODE: Final = ".code"
RECORD: Final = ".record"
LOCK: Final = ".lock"
TEMPORARY: Final = ".tmp"

_ENGINE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,119}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_MAGIC: Final = b"SHIMCODE"
# magic, version, boot, sha256 of the code, size of the program, the code file's identity, lengths of engine and key
_HEAD: Final = struct.Struct("<8sB16s32sQQQQqqBB")


@dataclass(frozen=True, slots=True)
class EntryName:
    """What one compiled program is found by: engine, the engine's key, SHA-256 of the program (64 hex digits)."""

    engine: str
    key: str
    digest: str

    def __post_init__(self) -> None:
        for what, value, pattern in (
            ("engine's name", self.engine, _ENGINE),
            ("engine's cache key", self.key, _KEY),
            ("program's SHA-256", self.digest, _DIGEST),
        ):
            if not pattern.fullmatch(value):
                raise InvalidArgumentError(
                    f"the {what} {value!r} cannot be part of a name in the compile cache; it must match "
                    f"{pattern.pattern} (a bug of the engine's package: see can_precompile)"
                )

    @property
    def text(self) -> str:
        """The name without its file's role; 221 characters at most. No part can hold an "@"."""
        return f"v{FORMAT_VERSION}@{self.engine}@{self.key}@{self.digest}"


def parse_name(text: str) -> EntryName | None:
    """The entry that *text* names, None for anything else: another version's files, say."""
    version, *parts = text.split("@")
    if version != f"v{FORMAT_VERSION}" or len(parts) != 3:
        return None
    try:
        return EntryName(*parts)
    except InvalidArgumentError:
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of an entry's code file, kept beside it, for that file holds the engine's bytes alone.

    `verified` is the identity of the code file whose digest was last seen to be right, in the boot `boot` (16 bytes).
    """

    name: EntryName
    code_sha256: bytes
    program_bytes: int
    boot: bytes
    verified: FileIdentity

    def encode(self) -> bytes:
        """The record as a file: a head of fixed size, then engine, key and digest in ASCII."""
        engine, key = self.name.engine.encode(), self.name.key.encode()
        seen = self.verified
        head = _HEAD.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.boot,
            self.code_sha256,
            self.program_bytes,
            seen.device,
            seen.inode,
            seen.size,
            seen.mtime_ns,
            seen.ctime_ns,
            len(engine),
            len(key),
        )
        return head + engine + key + self.name.digest.encode()


def decode_record(data: bytes) -> Record:
    """The record that *data* holds. Raises: ValueError saying what is wrong with it."""
    if len(data) < _HEAD.size:
        raise ValueError(f"a record of {len(data)} bytes, less than its head's {_HEAD.size}")
    magic, version, boot, code_sha256, program_bytes, *numbers, engine_size, key_size = _HEAD.unpack_from(data)
    if (magic, version) != (_MAGIC, FORMAT_VERSION):
        raise ValueError(f"a record that begins {magic + bytes((version,))!r}, not version {FORMAT_VERSION}")
    try:
        text = data[_HEAD.size :].decode("ascii")
        engine, key = text[:engine_size], text[engine_size : engine_size + key_size]
        name = EntryName(engine, key, text[engine_size + key_size :])
    except (UnicodeDecodeError, InvalidArgumentError) as error:
        raise ValueError(f"a record whose names are damaged: {error}") from error
    return Record(name, code_sha256, program_bytes, boot, FileIdentity(*numbers))
