"""The library that the `wasmtime` distribution brings: where it is, and that it is the version these bindings are for.

The distribution's own Python is never imported: it would cost every container 30 ms and some MB of memory to copy.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Final

from containerd_shim_wasm import InternalError

__all__ = ["Library", "find_library", "library_in"]

_PACKAGE: Final = "wasmtime"
_MAJOR: Final = "50"  # capi.py declares this version's structures, and others have others
_CURE: Final = f"install it with: pip install '{_PACKAGE}>={_MAJOR},<{int(_MAJOR) + 1}'"


@dataclass(frozen=True, slots=True)
class Library:
    """A library as it lies on disk, and the version of the distribution that brought it."""

    path: str
    version: str


@functools.cache  # asked for by the first `warm`, while files can still be found
def find_library() -> Library:
    """The library of the `wasmtime` that this Python would import.

    Raises: InternalError, with the cure, when there is none or it is not one that `capi` was written for.
    """
    spec = PathFinder.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InternalError(f"the Python package {_PACKAGE} is not installed; {_CURE}")
    return library_in(os.path.dirname(spec.submodule_search_locations[0]), os.uname().machine)


def library_in(site: str, machine: str) -> Library:
    """The library for *machine* of the distribution that is installed in the directory *site*.

    Raises: InternalError, with the cure.
    """
    name = f"{_PACKAGE}/linux-{machine}/_libwasmtime.so"
    path = os.path.join(site, name)
    record, version = _distribution(site)
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise InternalError(
            f"{_PACKAGE} {version} has no library for this machine, {machine}: {path} does not exist; {_CURE}"
        ) from None
    expected = _recorded_size(record, name)
    if expected is not None and size != expected:
        raise InternalError(
            f"{path} has {size} bytes, but the one of {_PACKAGE} {version} has {expected}: it is another version's, "
            f"or damaged; {_CURE} --force-reinstall"
        )
    return Library(path, version)


def _distribution(site: str) -> tuple[str, str]:
    """The RECORD and the version of the one `wasmtime` in *site*, as the name of its metadata's directory says it.

    `importlib.metadata` would say the same for 50 ms and much memory. Source: the specification of .dist-info.
    """
    prefix, suffix = f"{_PACKAGE}-", ".dist-info"
    found = sorted(name for name in os.listdir(site) if name.startswith(prefix) and name.endswith(suffix))
    if len(found) != 1:
        raise InternalError(
            f"{site} has {len(found)} installations of {_PACKAGE} ({', '.join(found) or 'none'}) where one is wanted; "
            f"remove them, then {_CURE}"
        )
    version = found[0].removeprefix(prefix).removesuffix(suffix)
    if version.partition(".")[0] != _MAJOR:
        raise InternalError(f"{_PACKAGE} {version} in {site} is not a version {_MAJOR}, which this shim needs; {_CURE}")
    return os.path.join(site, found[0], "RECORD"), version


def _recorded_size(record: str, name: str) -> int | None:
    """The size that RECORD gives the file *name*; None when it does not say (distributions of Linux leave it out)."""
    try:
        with open(record, encoding="utf-8") as lines:
            fields = next((line.split(",") for line in lines if line.startswith(f"{name},")), [""])
    except FileNotFoundError:
        return None
    size = fields[-1].strip() if len(fields) == 3 else ""
    return int(size) if size.isdecimal() else None
