"""The command that a launcher executes when no zygote answers: a block of fixed size in the launcher's own file.

Layout, the same as in launcher.c: a marker of 32 bytes with the version of the layout, u32 little-endian number of
words (0: not filled in yet), the words, each ended by a NUL; zeros up to 4096 bytes. Then, outside of the block, 64
bytes of text that name the sources it was built from. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from typing import Final

from ..errors import InvalidArgumentError

__all__ = [
    "MARKER",
    "MAX_FILE_BYTES",
    "MAX_WORDS",
    "SIZE",
    "fill_command",
    "is_launcher",
    "machine_of",
    "read_command",
    "read_sources",
]

MARKER: Final = b"containerd-shimkit launcher: \x01\0\0"
SIZE: Final = 4096
MAX_WORDS: Final = 16
MAX_FILE_BYTES: Final = 4 << 20  # a launcher is far smaller: a larger file is none

_COUNT: Final = struct.Struct("<I")
_ROOM: Final = SIZE - len(MARKER) - _COUNT.size
_SOURCES: Final = re.compile(rb"launcher sources=([0-9a-z]+)\0")
_ELF: Final = b"\x7fELF"
_MACHINES: Final = {62: "x86_64", 183: "aarch64"}  # e_machine; elf.h


def is_launcher(data: bytes) -> bool:
    """Whether *data* is a launcher's file, filled in or not."""
    end = data.find(MARKER) + SIZE  # the words in the block may be anything, the marker too
    return data.startswith(_ELF) and SIZE <= end <= len(data) and MARKER not in data[end:]


def read_command(data: bytes) -> tuple[str, ...]:
    """The words in a launcher's block; empty when none have been filled in. Raises: InvalidArgumentError."""
    block = data[(start := _find(data)) : start + SIZE]
    (count,) = _COUNT.unpack_from(block, len(MARKER))
    words = block[len(MARKER) + _COUNT.size :].split(b"\0")[:-1]
    if count > MAX_WORDS or count > len(words) or (count and not words[0].startswith(b"/")):
        raise InvalidArgumentError(f"the command embedded in this launcher is damaged: {count} words in {SIZE} bytes")
    return tuple(map(os.fsdecode, words[:count]))


def fill_command(data: bytes, command: Sequence[str]) -> bytes:
    """A launcher's file like *data*, for *command*. Raises: InvalidArgumentError, naming what does not fit."""
    start = _find(data)
    words = [os.fsencode(word) for word in command]
    if not words or not words[0].startswith(b"/"):
        raise InvalidArgumentError(f"a launcher's command begins with an absolute path, not with {command[:1]!r}")
    if len(words) > MAX_WORDS:
        raise InvalidArgumentError(f"a launcher's command has {len(words)} words: {MAX_WORDS} fit")
    for word in words:
        if b"\0" in word:
            raise InvalidArgumentError(f"a NUL in a word of a launcher's command: {word!r}")
    text = b"".join(word + b"\0" for word in words)
    if len(text) > _ROOM:
        raise InvalidArgumentError(
            f"a launcher's command has {len(text)} bytes, {_ROOM} fit: install the shim at a shorter path"
        )
    block = MARKER + _COUNT.pack(len(words)) + text.ljust(_ROOM, b"\0")
    return data[:start] + block + data[start + SIZE :]


def read_sources(data: bytes) -> str:
    """The digest of the C sources that a launcher was built from, as `build.sources_digest` gives it; else ""."""
    found = _SOURCES.search(data, _find(data) + SIZE)
    return found[1].decode() if found else ""


def machine_of(data: bytes) -> str:
    """The machine that an ELF file is for, by the name that uname(2) gives it. Source: elf(5)."""
    if len(data) < 20 or not data.startswith(_ELF):
        return "no ELF file"
    (machine,) = struct.unpack_from("<H" if data[5] == 1 else ">H", data, 18)
    return _MACHINES.get(machine, f"machine number {machine}")


def _find(data: bytes) -> int:
    if not is_launcher(data):
        where = "not an ELF file" if not data.startswith(_ELF) else f"{data.count(MARKER)} markers in it, not one"
        raise InvalidArgumentError(f"no launcher of containerd-shimkit, or of another version: {where}")
    return data.index(MARKER)
