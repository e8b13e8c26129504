"""Executing a program whose file nobody can write to by way of the process that runs it.

A container's init is forked from a process of the host's, and executes the host's interpreter until it becomes the
container's program. Whoever is root in the container gets at that file: by `#!/proc/self/exe`, or by /proc/PID/exe
where the kernel lets it. While the file is executed nobody can write to it; afterwards only the mount that it was
opened through keeps a descriptor of it from being opened again for writing (CVE-2019-5736). So what forks containers is
executed through a mount of its own that is read-only and stands nowhere, where nobody can change it; without the right
to make mounts, from a sealed copy in memory. The launcher does the same (launcher/seal.c).

Source: open_tree(2), mount_setattr(2), execveat(2), memfd_create(2), ld.so(8).
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from .mount_tree import copy_mount, set_attributes
from .paths import RESOLVE_IN_ROOT, openat2

__all__ = ["ensure_sealed", "execute_sealed", "exposure", "is_sealed", "open_sealed"]

_MOUNT_ATTR_RDONLY: Final = 1  # include/uapi/linux/mount.h
_MS_PRIVATE: Final = 1 << 18
_MFD_EXEC: Final = 0x10  # include/uapi/linux/memfd.h, of Linux 6.3
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MOST_BYTES: Final = 1 << 28
_OWN: Final = "/proc/self/exe"


def ensure_sealed(marker: str = "CONTAINERD_SHIMKIT_SEALED") -> None:
    """Have this very program begin anew, sealed, unless it is: from its first line, as it was called.

    Where that cannot be it goes on; `exposure` says why. For programs that will fork containers, before they have done
    anything; those that a sealed process forks are sealed. A program that has begun anew finds the variable
    *marker* in its environment, until it calls this again.
    """
    if os.environ.pop(marker, None) is not None:
        return
    with suppress(OSError):
        if not is_sealed():
            _execute([sys.executable, *sys.orig_argv[1:]], {**os.environ, marker: "1"})


def execute_sealed(words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Become the program at *words*[0], an absolute path, sealed where that can be; else as it is. Raises: OSError."""
    with suppress(OSError):  # it finds out itself that it is not sealed
        _execute(words, environment)
    os.execve(words[0], list(words), environment)


def open_sealed(path: str) -> int:
    """What to execute in the place of the file at *path*: a descriptor, which an execve(2) closes.

    Raises: OSError, with the reason why nothing can be had that protects the file.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            return _open_below_root(path, os.fstat(file))
        if _has_origin(file):
            raise OSError(
                0, "it looks for libraries beside itself ($ORIGIN), and is not on the file system of the root", path
            )
        try:
            return _clone_mount(path)
        except OSError as error:
            try:
                return _open_copy(file)
            except OSError as second:
                raise OSError(
                    second.errno, f"{error.strerror}; and no copy in memory: {second.strerror}", path
                ) from None
    finally:
        os.close(file)


def is_sealed() -> bool:
    """Whether this process was executed as `execute_sealed` does it. Raises: OSError without a procfs."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # of a file that is not in memory
            if fcntl.fcntl(own, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
                return True
        # a mount that is read-only and that others can reach as well can be made writable again
        return bool(os.fstatvfs(own).f_flag & os.ST_RDONLY) and _mount_of(own) != _mount_at(sys.executable or "")
    finally:
        os.close(own)


@functools.cache
def exposure() -> str:
    """Why containers may get at this process's executable; empty: they cannot. Looked up once, also for children."""
    try:
        if is_sealed():
            return ""
        os.close(open_sealed(sys.executable or ""))
    except OSError as error:
        return f"{error.strerror}: {error.filename or _OWN}"
    return "it was started as an ordinary program"


def _execute(words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    program = open_sealed(words[0])
    try:
        os.execve(program, list(words), environment)
    finally:
        os.close(program)  # a script, or a security module that wants a path


def _open_below_root(path: str, wanted: os.stat_result) -> int:
    """The program in a clone of the root's mount, where it has its own path: the dynamic linker asks for that.

    Raises: OSError also when it is on another mount.
    """
    root = _clone_mount("/")
    try:
        program = openat2(root, path, os.O_PATH | os.O_CLOEXEC, resolve=RESOLVE_IN_ROOT)
    finally:
        os.close(root)  # now the mount belongs to nobody, and is gone with the program's last process
    if os.path.samestat(os.fstat(program), wanted):
        return program
    os.close(program)
    raise FileNotFoundError(path)


def _clone_mount(path: str) -> int:
    """A read-only mount of what is at *path*, which stands nowhere, so that nobody can change it."""
    mount = copy_mount(path, recursive=False)
    try:
        set_attributes(mount, _MOUNT_ATTR_RDONLY, propagation=_MS_PRIVATE)
    except BaseException:
        os.close(mount)
        raise
    return mount


def _has_origin(file: int) -> bool:
    """Whether the program may look for its libraries beside its own path, which by the other ways it does not know."""
    with open(file, "rb", closefd=False) as program:
        text = program.read(_MOST_BYTES)
    return b"$ORIGIN" in text or b"${ORIGIN}" in text


def _open_copy(file: int) -> int:
    """A sealed copy in memory, open for reading only: what is open for writing cannot be executed."""
    length, offset = os.fstat(file).st_size, 0
    if length > _MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    copy = _memory_file()
    try:
        while offset < length and (step := os.sendfile(copy, file, offset, length - offset)):
            offset += step
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
        return os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(copy)


def _memory_file() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("shim", flags | _MFD_EXEC)
    except OSError:
        return os.memfd_create("shim", flags)


def _mount_at(path: str) -> str:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return _mount_of(handle)
    finally:
        os.close(handle)


def _mount_of(descriptor: int) -> str:
    """The id of the mount that *descriptor* was opened through. Source: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        return next(line for line in file if line.startswith("mnt_id:"))
