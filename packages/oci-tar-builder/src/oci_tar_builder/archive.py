"""Tar files with the same bytes for the same content: fixed owners and order, times from SOURCE_DATE_EPOCH or 0."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Mapping, Sequence

from .layout import Entry

__all__ = ["files_layer", "write_tar"]


def files_layer(files: Mapping[str, bytes], *, mode: int = 0o755) -> bytes:
    """An uncompressed layer with *files* by absolute path, and the directories above them.

    Raises: ValueError for a path that is not absolute, or has `..` in it.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for directory in sorted({parent for path in files for parent in _parents(path)}):
            header = _header(directory, 0o755)
            header.type = tarfile.DIRTYPE
            archive.addfile(header)
        for path, data in sorted(files.items()):
            _add(archive, path.lstrip("/"), data, mode)
    return packed.getvalue()


def write_tar(path: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
    """Write *entries* as a tar file at *path*, whole or not at all. Raises: OSError."""
    directory = os.path.dirname(os.fspath(path)) or "."
    os.makedirs(directory, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".oci-tar-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for entry in entries:
                    _add(archive, entry.name, entry.data, 0o644)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _parents(path: str) -> list[str]:
    if not path.startswith("/") or ".." in path.split("/") or path.endswith("/"):
        raise ValueError(f"{path!r} is not the absolute path of a file in an image")
    parents: list[str] = []
    directory = posixpath.dirname(path).strip("/")
    while directory:
        parents.append(directory)
        directory = posixpath.dirname(directory)
    return parents


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    header = _header(name, mode)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def _header(name: str, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.mode = mode
    header.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    return header
