"""Tar files with the same bytes for the same content: fixed owners and order, times from SOURCE_DATE_EPOCH or 0."""

from __future__ import annotations

import io
import os
import posixpath
import secrets
import stat
import tarfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Final

from .layout import Entry

__all__ = ["files_layer", "pack_tar", "write_tar"]

_MAX_TIME: Final = 8**11 - 1  # eleven octal digits: what a tar header has for a time, tar(5)


def files_layer(files: Mapping[str, bytes], *, mode: int = 0o755) -> bytes:
    """An uncompressed layer with *files* by absolute path, and the directories above them.

    Raises: ValueError for a path that is not absolute and plain, or that is above another one.
    """
    directories = {parent for path in files for parent in _parents(path)}
    if in_both := sorted(directories & files.keys()):
        raise ValueError(f"{in_both[0]!r} is a file and a directory in one layer; name one of them differently")
    packed = io.BytesIO()
    with _open_tar(packed) as archive:
        for directory in sorted(directories):
            header = _header(directory, 0o755)
            header.type = tarfile.DIRTYPE
            archive.addfile(header)
        for path, data in sorted(files.items()):
            _add(archive, path, data, mode)
    return packed.getvalue()


def pack_tar(entries: Sequence[Entry], file: IO[bytes]) -> None:
    """Write *entries* as a tar into *file*, which need not be seekable.

    Raises: OSError; ValueError for a SOURCE_DATE_EPOCH that is no time.
    """
    with _open_tar(file) as archive:
        for entry in entries:
            _add(archive, entry.name, entry.data, entry.mode)


def write_tar(path: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
    """Write *entries* as a tar file at *path*, whole or not at all, with the directories above it.

    A symlink stays, and what it leads to is replaced; a pipe or device is written to as it is. Raises: as `pack_tar`.
    """
    with _replacing(os.path.realpath(path)) if _is_replaceable(path) else open(path, "wb") as file:
        pack_tar(entries, file)


def _is_replaceable(path: str | os.PathLike[str]) -> bool:
    """Whether a new file may stand at *path*: not in the place of /dev/stdout, for one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)  # replacing a directory is refused by the kernel, by name


@contextmanager
def _replacing(path: str) -> Generator[IO[bytes], None, None]:
    """A new file that stands at *path* once it is whole; after a failure nothing is left of it."""
    made = _make_directories(os.path.dirname(path))
    temporary = f"{path}.{secrets.token_hex(4)}.partial"
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        _remove_directories(made)
        raise


def _make_directories(path: str) -> list[str]:
    """Make *path* and what is missing above it; gives what was made, outermost first. Raises: OSError, none made."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    made: list[str] = []
    try:
        for directory in missing:
            os.mkdir(directory)
            made.append(directory)
    except BaseException:
        _remove_directories(made)
        raise
    return made


def _remove_directories(made: Sequence[str]) -> None:
    for directory in reversed(made):
        with suppress(OSError):  # somebody else has put something there meanwhile: it is theirs now
            os.rmdir(directory)


def _parents(path: str) -> list[str]:
    """The directories above *path*, without the root. Raises: ValueError for what is no file's absolute path."""
    if not path.startswith("/") or path.startswith("//") or posixpath.normpath(path) != path or path == "/":
        raise ValueError(
            f"{path!r} is no file's path in an image: it must be absolute and plain, such as /bin/app.wasm"
        )
    if "\0" in path:
        raise ValueError(f"{path!r} has a NUL in it, which no path may have")
    parents: list[str] = []
    directory = posixpath.dirname(path)
    while directory != "/":
        parents.append(directory)
        directory = posixpath.dirname(directory)
    return parents


def _open_tar(file: IO[bytes]) -> tarfile.TarFile:
    # a stream, so that a pipe can be written to; pax for names that the old format has no room for
    return tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape")


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    header = _header(name, mode)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def _header(name: str, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name.lstrip("/"))
    header.mode = mode
    header.mtime = _time()
    return header


def _time() -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_TIME):
        raise ValueError(
            f"SOURCE_DATE_EPOCH is {text!r}: it must be seconds since 1970 and at most {_MAX_TIME}, or not set"
        )
    return int(text)
