"""A container's standard streams: opened by the shim in an order that cannot block, inherited by the init.

The container writes straight into containerd's FIFOs; nothing copies. The shim keeps, of each output FIFO, an end for
reading: so a client that goes away neither kills the container by SIGPIPE nor loses what is in the pipe, and, since
only writers hold back the end of a file, the client still sees it when the container's last process has gone.
Of the stdin FIFO it keeps an end for writing, so that a client may detach and attach again; CloseIO closes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final, Protocol
from urllib.parse import unquote

from ..errors import InvalidArgumentError, NotFoundError, PermissionDeniedError, ShimError

__all__ = ["InheritedStdio", "Stdio", "Streams", "give_streams", "open_input", "open_output", "refuse_uris"]

_FILE_URI: Final = "file://"
_FIFO_URI: Final = "fifo://"
_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Streams(Protocol):
    """The three streams of a process, from its maker's side."""

    @property
    def child(self) -> tuple[int, int, int]:
        """The child's descriptors for 0, 1 and 2."""
        ...

    def close_child(self) -> None:
        """Let go of the child's ends, once it has been forked."""
        ...

    def close_stdin(self) -> None:
        """Let the child's stdin end when its client has closed it."""
        ...

    def close(self) -> None:
        """Close all that is open. May be called twice."""
        ...


class InheritedStdio:
    """This process's own streams, handed on."""

    def __init__(self) -> None:
        # copies above the standard ones: an init puts them in their places one by one
        self._copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in (0, 1, 2)]

    @property
    def child(self) -> tuple[int, int, int]:
        stdin, stdout, stderr = self._copies
        return stdin, stdout, stderr

    def close_child(self) -> None:
        while self._copies:
            os.close(self._copies.pop())

    def close_stdin(self) -> None:
        pass

    def close(self) -> None:
        self.close_child()


class Stdio:
    """The three streams of one process."""

    def __init__(self, stdin: str, stdout: str, stderr: str) -> None:
        """Open the streams; an empty path is /dev/null. Raises: ShimError that names the stream and its path."""
        self._child: list[int] = []
        self._kept: list[int] = []
        self._stdin_writer = -1
        refuse_uris(stdin, stdout, stderr)
        try:
            reader, self._stdin_writer = open_input(stdin)
            self._child.append(reader)
            for name, path in (("stdout", stdout), ("stderr", stderr)):
                writer, kept = open_output(name, path)
                self._child.append(writer)
                self._kept += kept
        except BaseException:
            self.close()
            raise

    @property
    def child(self) -> tuple[int, int, int]:
        """The child's descriptors for 0, 1 and 2."""
        stdin, stdout, stderr = self._child
        return stdin, stdout, stderr

    def close_child(self) -> None:
        """Let go of the child's ends, once it has been forked: a copy kept here would hold back the streams' end."""
        while self._child:
            os.close(self._child.pop())

    def close_stdin(self) -> None:
        """Let the child's stdin end as soon as its other writers have closed it."""
        if self._stdin_writer >= 0:
            os.close(self._stdin_writer)
            self._stdin_writer = -1

    def close(self) -> None:
        """Close all that is open. May be called twice."""
        self.close_child()
        self.close_stdin()
        while self._kept:
            os.close(self._kept.pop())


def open_input(path: str) -> tuple[int, int]:
    """Open a stream for reading (empty: /dev/null): the blocking end, and one for writing that keeps a FIFO from
    ending, or -1. Raises: ShimError that names the stream and its path.
    """
    path = path.removeprefix(_FIFO_URI)
    reader = _open("stdin", path or "/dev/null", os.O_RDONLY)
    writer = -1
    try:
        if stat.S_ISFIFO(os.fstat(reader).st_mode):
            # now that there is a reader, a writer can be opened without waiting for one
            writer = _open("stdin", path, os.O_WRONLY)
    except BaseException:
        os.close(reader)
        raise
    _make_blocking(reader)
    return reader, writer


def open_output(name: str, path: str) -> tuple[int, list[int]]:
    """Open a stream for writing (empty: /dev/null): the blocking end, and those that keep what is in a FIFO.

    Raises: ShimError that names the stream and its path.
    """
    if not path:
        return _open(name, "/dev/null", os.O_WRONLY), []
    path = path.removeprefix(_FIFO_URI)
    if path.startswith(_FILE_URI):
        path = _make_file(name, path)
    kept: list[int] = []
    mode = _stat(name, path).st_mode
    if stat.S_ISFIFO(mode):
        kept.append(_open(name, path, os.O_RDONLY))
    elif not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):
        raise InvalidArgumentError(f"{name} {path!r} is neither a FIFO nor a file nor a character device")
    try:
        writer = _open(name, path, os.O_WRONLY | (os.O_APPEND if stat.S_ISREG(mode) else 0))
    except BaseException:
        for descriptor in kept:
            os.close(descriptor)
        raise
    _make_blocking(writer)
    return writer, kept


def refuse_uris(*paths: str) -> None:
    """Refuse, of the paths of stdin, stdout and stderr, the URIs that are none of ours. Raises: InvalidArgumentError.

    Those of logging programs are none here either: their pipes stand for them.
    """
    for name, path in zip(("stdin", "stdout", "stderr"), paths, strict=False):
        known = (_FIFO_URI,) if name == "stdin" else (_FIFO_URI, _FILE_URI)
        if "://" in path and not path.startswith(known):
            cure = "a path" if name == "stdin" else "a path, or file://, binary:// or binary-v2:// before one"
            raise InvalidArgumentError(f"{name} {path!r} is a URI of a kind that does not exist for it; give {cure}")


def _make_file(name: str, uri: str) -> str:
    """The path of a `file://` URI, whose file is made with its parents where it is missing."""
    path = unquote(uri.removeprefix(_FILE_URI).partition("?")[0])
    try:
        if not os.path.isabs(path):
            raise InvalidArgumentError(f"{name} {uri!r} has no absolute path; it must be file:///PATH")
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _FLAGS, 0o644))
    except OSError as error:
        raise _error(name, path, error) from error
    return path


def _stat(name: str, path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise _error(name, path, error) from error


def _open(name: str, path: str, flags: int) -> int:
    try:
        return os.open(path, flags | _FLAGS)
    except OSError as error:
        raise _error(name, path, error) from error


def _error(name: str, path: str, error: OSError) -> ShimError:
    kinds: dict[int | None, type[ShimError]] = {
        errno.ENOENT: NotFoundError,
        errno.EACCES: PermissionDeniedError,
        errno.EPERM: PermissionDeniedError,
    }
    kind = kinds.get(error.errno, InvalidArgumentError)
    return kind(f"{name} {path!r} cannot be opened: {error.strerror}; the client makes it before it creates the task")


def _make_blocking(descriptor: int) -> None:
    # each end is a file description of its own, so the shim's ends stay non-blocking
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def give_streams(user: int) -> None:
    """Make the standard streams the container's user's own, who may want to open /dev/stdout anew."""
    for descriptor in (0, 1, 2):
        status = os.fstat(descriptor)
        if status.st_uid != user and not stat.S_ISCHR(status.st_mode):
            try:
                os.fchown(descriptor, user, -1)
            except OSError:
                pass  # on a read-only file system, say: the open descriptor works all the same
