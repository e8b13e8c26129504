"""A control group's files as figures: each is read once, and one that the kernel does not have is no error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["UINT32_MAX", "UINT64_MAX", "Figures", "pairs_of"]

UINT32_MAX: Final = (1 << 32) - 1
UINT64_MAX: Final = (1 << 64) - 1

_ABSENT: Final = (errno.ENOENT, errno.EOPNOTSUPP, 524)  # the last: ENOTSUPP, of a figure that is there but switched off


class Figures:
    """The files of one directory."""

    def __init__(self, directory: str) -> None:
        """Read nothing yet."""
        self.directory = directory

    def text(self, name: str) -> str | None:
        """A file's content; None when it is absent. Raises: OSError (ENODEV: the group has just been removed)."""
        try:
            # one read, however long: the kernel makes a file's content up anew at each
            with open(f"{self.directory}/{name}", encoding="ascii") as file:
                return file.read()
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise

    def number(self, name: str, no_limit: int = UINT64_MAX) -> int | None:
        """A file of one number, or of `max`, which is *no_limit*; None when it is absent. Raises: OSError."""
        text = self.text(name)
        if text is None:
            return None
        word = text.strip()
        return no_limit if word == "max" else int(word)

    def table(self, name: str) -> Mapping[str, int] | None:
        """A file of lines of a name and a number; None when it is absent. Raises: OSError."""
        text = self.text(name)
        if text is None:
            return None
        pairs = (line.split(" ", 1) for line in text.splitlines() if " " in line)
        return {key: int(value) for key, value in pairs if value.strip().isdigit()}

    def names(self) -> list[str]:
        """The names of the files, in order. Raises: OSError."""
        return sorted(os.listdir(self.directory))


def pairs_of(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """What the lines of a file such as `8:0 rbytes=1 wbytes=2` begin with, each with its values."""
    for line in text.splitlines():
        first, *rest = line.split()
        yield first, dict(pair.split("=", 1) for pair in rest if "=" in pair)
