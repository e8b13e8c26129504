"""What runs once inside a container: an `Executor`, called in the container's init at two moments of its life."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from ..errors import InternalError, InvalidArgumentError, PermissionDeniedError
from ..linux import paths
from ..oci.spec import Process
from .channel import Channel, Line, Message

__all__ = [
    "EXECUTORS",
    "Executor",
    "Found",
    "Inside",
    "LinuxExecutor",
    "PlainExecutor",
    "Preparation",
    "candidates",
    "environment_of",
    "look_up",
]

_USERS: Final = "/etc/passwd"
_MOST_OF_USERS: Final = 1 << 20  # bytes
_HOME_FIELD: Final = 5
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Inside:
    """The new root, complete with its mounts but not yet `/`, as an executor's `prepare` finds it."""

    root_fd: int
    annotations: Mapping[str, str]
    channel: Channel
    user: int = 0  # whom the program will run as

    def ask(self, question: Message, descriptors: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Put *question* to the shim and wait for its answer.

        Raises: InternalError when the shim died meanwhile; what the shim could not answer ends this init.
        """
        self.channel.send({"kind": "question", "question": question}, descriptors)
        reply, received = self.channel.receive()
        if reply is None or reply["kind"] != "answer":
            raise InternalError("the shim gave up while this container's init waited for its answer")
        return reply["answer"], received


@dataclass(frozen=True, slots=True)
class Preparation:
    """What an executor needs to live on: descriptors that stay open, and whether the program may see a procfs.

    *in_process*: `run` runs the program itself, without execve(2), which would be where a process's labels change.
    """

    keep: tuple[int, ...] = ()
    procfs: bool = True
    in_process: bool = False


class Executor(Protocol):
    """Runs a container's program. Both methods are called once, in the container's init.

    `prepare` runs as root with the host's `/` and imports closed: everything that will be out of reach later is opened
    here. `run` runs after the pivot with the container's user and capabilities: it becomes the program by execve(2),
    which closes the line to the shim, or it says "running" on it, runs the program and returns its exit status. What
    it raises before either is the reason why Start fails.

    Many are made in the shim and used by an init of another process. One that is a `PlainExecutor` as well costs that
    init next to nothing; another is pickled, and where that cannot be the shim forks the init itself.
    """

    def prepare(self, inside: Inside) -> Preparation: ...

    def run(self, line: Line) -> int: ...


@runtime_checkable
class PlainExecutor(Executor, Protocol):
    """An executor that plain values stand for, those that `marshal` knows, in a process that is a copy of the shim."""

    def plain(self) -> tuple[str, tuple[Any, ...]]:
        """A name in `EXECUTORS`, and the arguments for what is there. Raises: ValueError when that cannot be."""
        ...


EXECUTORS: Final[dict[str, Callable[..., Executor]]] = {}
"""What makes a `PlainExecutor` anew, by name."""


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file inside the root: its path there, an open descriptor for reading, permission bits."""

    path: str
    descriptor: int
    mode: int


def environment_of(process: Process) -> dict[str, str]:
    """The process's environment; the last of several values for one name counts, an entry without "=" is ignored."""
    return dict(entry.split("=", 1) for entry in process.env if "=" in entry)


def candidates(name: str, process: Process, *, current_directory: bool = False) -> Iterator[str]:
    """The absolute paths where *name* may be, in order: itself when it has a slash, else along the container's PATH.

    With *current_directory* the working directory comes last.
    """
    if "/" in name:
        yield os.path.join(process.cwd, name)
        return
    for directory in environment_of(process).get("PATH", _DEFAULT_PATH).split(":"):
        yield os.path.join(process.cwd, directory, name)
    if current_directory:
        yield os.path.join(process.cwd, name)


def look_up(root_fd: int, path: str) -> Found | str:
    """Open the regular file at *path* inside the root, or say in a few words why there is none."""
    try:
        # O_PATH first: opening a device or a FIFO for reading would have effects, or block
        handle = paths.open_in_root(root_fd, path, os.O_PATH)
    except OSError as error:
        return os.strerror(error.errno or errno.EIO).lower()
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            return "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        return Found(path, os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC), stat.S_IMODE(mode))
    except OSError as error:
        return os.strerror(error.errno or errno.EIO).lower()
    finally:
        os.close(handle)


def _home_of(user: int, root_fd: int) -> str:
    """The directory that the container's /etc/passwd gives a *user*; `/` without one, as other runtimes have it."""
    found = look_up(root_fd, _USERS)
    if isinstance(found, str):
        return "/"
    try:
        content = os.pread(found.descriptor, _MOST_OF_USERS, 0)
    except OSError:
        return "/"
    finally:
        os.close(found.descriptor)
    wanted = b"%d" % user
    for line in content.splitlines():
        fields = line.split(b":")
        if len(fields) >= _HOME_FIELD + 1 and fields[2] == wanted and b"\0" not in fields[_HOME_FIELD]:
            return os.fsdecode(fields[_HOME_FIELD]) or "/"
    return "/"


class LinuxExecutor:
    """Runs a native program by execve(2), with the specification's arguments and environment and nothing else."""

    def __init__(self, args: Sequence[str], environment: Mapping[str, str], places: Sequence[str] = ()) -> None:
        """Of *places*, absolute paths in the root, `prepare` takes the first where the program is."""
        self._args = tuple(args)
        self._environment = dict(environment)
        self._places = tuple(places)
        self._path = ""

    @classmethod
    def of(cls, process: Process) -> LinuxExecutor:
        """The one for *process*. What needs no file is worked out here: in an init it would cost pages of its own."""
        places = candidates(process.args[0], process) if process.args else ()  # the plan says what is wrong with that
        return cls(process.args, environment_of(process), tuple(places))

    def plain(self) -> tuple[str, tuple[Any, ...]]:
        return "linux", (self._args, self._environment, self._places)

    def prepare(self, inside: Inside) -> Preparation:
        """Find the program now, so that a missing one fails Create and not Start."""
        reasons: list[str] = []
        for path in self._places:
            found = look_up(inside.root_fd, path)
            if isinstance(found, str):
                reasons.append(f"{path}: {found}")
                continue
            os.close(found.descriptor)
            if not found.mode & 0o111:
                reasons.append(f"{path}: not executable; chmod +x it in the image")
                continue
            self.use(path, inside)
            return Preparation()
        raise InvalidArgumentError(
            f"process.args[0] {self._args[0]!r} is no program of this container ({'; '.join(reasons)})"
        )

    def use(self, path: str, inside: Inside) -> None:
        """Take *path*, which has been looked up, for the program. It gets a HOME, unless it has one."""
        self._path = path
        if "HOME" not in self._environment:
            self._environment["HOME"] = _home_of(inside.user, inside.root_fd)

    def run(self, line: Line) -> int:
        """Become the program: the channel closes with the execve, which tells the shim that it runs.

        Raises: InvalidArgumentError, PermissionDeniedError with the kernel's reason.
        """
        del line
        try:
            os.execve(self._path, self._args, self._environment)
        except OSError as error:
            message = f"cannot execute {self._path}: {error.strerror}"
            if error.errno == errno.ENOENT:  # the file is there: what is not is the interpreter that it names
                message += " (its ELF or #! interpreter is missing in the container)"
            kind = PermissionDeniedError if error.errno in (errno.EACCES, errno.EPERM) else InvalidArgumentError
            raise kind(message) from error


EXECUTORS["linux"] = LinuxExecutor
