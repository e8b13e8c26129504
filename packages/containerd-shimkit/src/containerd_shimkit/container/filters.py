"""Compiled seccomp filters, by profile: each is compiled in a child when it is first needed, and kept until a boot.

Compiling takes ten milliseconds, and most containers of a node have the same profile. The files are root's alone, in a
directory that is gone after a boot; each begins with a digest of the rest, so one that a full disk has cut is none.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from ..linux import seccomp
from ..linux.own_directory import make_own_directory
from ..linux.seccomp import compile_filter, library_identity
from ..linux.user_namespaces import own_standing
from ..oci import seccomp as profiles
from ..oci.seccomp import seccomp_of, without_listener
from ..shim.reaper import Reaper
from .worker import Confinement, run_in_child

__all__ = ["default_directory", "filter_of"]


def _digest_of(*modules: ModuleType) -> bytes:
    digest = hashlib.sha256()
    for module in modules:
        with open(str(module.__file__), "rb") as file:
            digest.update(file.read())
    return digest.digest()


_log = logging.getLogger(__name__)

_COMPILER: Final = _digest_of(seccomp, profiles)  # another version's programs are not taken for this one's
_DIGEST_SIZE: Final = 32
_LONGEST: Final = _DIGEST_SIZE + 8 * 4096
_MOST_FILES: Final = 256
_MOST_HELD: Final = 8
_TIMEOUT: Final = 60.0
_held: Final[OrderedDict[str, bytes]] = OrderedDict()


def default_directory() -> str:
    """Where this user's filters are kept; empty for one who has no place that is empty after a boot."""
    if own_standing().is_hosts_root:
        return "/run/containerd-shimkit/filters"
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{own}/containerd-shimkit/filters" if os.path.isabs(own) else ""


async def filter_of(profile: Mapping[str, object], reaper: Reaper, directory: str | None = None) -> bytes:
    """The program of the `linux.seccomp` object *profile*; kept in *directory*, this user's own unless it is said.

    Raises: ShimError: InvalidArgumentError for the profile, FailedPreconditionError without libseccomp.
    """
    directory = default_directory() if directory is None else directory
    profile = without_listener(profile)
    said, library = json.dumps(profile, separators=(",", ":")).encode(), library_identity().encode()
    name = hashlib.sha256(b"\0".join((_COMPILER, library, said))).hexdigest()
    program = _held.get(name) or (_read(directory, name) if directory else None)
    if program is None:
        program = await _compile(profile, reaper)
        try:
            if library and directory:  # else nobody could tell that it has been exchanged
                _write(directory, name, program)
        except OSError as error:
            _log.warning("a compiled seccomp filter cannot be kept for other containers: %s; make room there", error)
    _held[name] = program
    _held.move_to_end(name)
    while len(_held) > _MOST_HELD:
        _held.popitem(last=False)
    return program


async def _compile(profile: Mapping[str, object], reaper: Reaper) -> bytes:
    wanted = seccomp_of(profile)
    result = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        await run_in_child(
            lambda: _write_all(result, compile_filter(wanted)),
            reaper,
            what="compiling the seccomp profile",
            timeout=_TIMEOUT,
            keep=(result,),
            confinement=Confinement(memory_bytes=None),  # an engine may have reserved more than any limit
        )
        return os.pread(result, _LONGEST, 0)
    finally:
        os.close(result)


def _read(directory: str, name: str) -> bytes | None:
    """The program in a file of the directory; None when there is none, or somebody else could have written it."""
    try:
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        for status in (os.fstat(descriptor), os.stat(directory, follow_symlinks=False)):
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = os.read(descriptor, _LONGEST + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    digest, program = data[:_DIGEST_SIZE], data[_DIGEST_SIZE:]
    return program if program and hashlib.sha256(program).digest() == digest else None


def _write(directory: str, name: str, program: bytes) -> None:
    for each in (os.path.dirname(directory), directory):
        if not make_own_directory(each, closed=0o022):  # others would have us believe what they put there
            raise NotADirectoryError(
                errno.ENOTDIR, "not a directory of this user's alone; remove it, or give it mode 0700", each
            )
    _make_room(directory)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(descriptor, hashlib.sha256(program).digest() + program)
        finally:
            os.close(descriptor)
        os.rename(temporary, os.path.join(directory, name))
    except OSError:
        os.unlink(temporary)
        raise


def _make_room(directory: str) -> None:
    """Empty a directory that has been filled by profiles that are never the same."""
    names = os.listdir(directory)
    if len(names) < _MOST_FILES:
        return
    for name in names:
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            pass  # another shim is at it as well


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
