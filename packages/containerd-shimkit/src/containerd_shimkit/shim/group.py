"""One shim a group of containers, though starts and the shim's own end race: the lock, the socket, the announcement.

Whoever looks for a group's shim, makes it or takes it away holds the group's lock. A `start` that finds a living shim
announces its container to it before it lets go of the lock; from then on the shim stays until that container has been
created and deleted, or has not come for a while. So an address that `start` has printed is never a dead one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from types import TracebackType
from typing import Final

from ..errors import InvalidArgumentError, UnavailableError
from ..wire import WireError, bytes_field, decode_fields

__all__ = [
    "ANNOUNCE_METHOD",
    "FORGET_METHOD",
    "GROUP_SERVICE",
    "GroupLock",
    "announce",
    "decode_announcement",
    "forget",
    "listen",
    "remove_dead_socket",
]

GROUP_SERVICE: Final = "containerd.shimkit.v1.Group"
ANNOUNCE_METHOD: Final = "Announce"
FORGET_METHOD: Final = "Forget"

_ANSWER_TIMEOUT: Final = 10.0
_FORGET_TIMEOUT: Final = 0.5  # of the 5 s that `delete` has
_BACKLOG: Final = 512
_HEADER: Final = 10
_REQUEST, _RESPONSE = 1, 2


class GroupLock:
    """An exclusive lock beside a group's socket, held by a process; its file goes with the group."""

    def __init__(self, socket_path: str) -> None:
        self._path = f"{socket_path}.lock"
        self._descriptor = -1

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the lock; False when somebody else has it and *blocking* is false."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                return False
            if self._is_current(descriptor):
                self._descriptor = descriptor
                return True
            os.close(descriptor)  # the last holder took the file away: lock its successor

    def release(self, *, remove: bool = False) -> None:
        """Let the lock go; with *remove* take its file away first, for the group has ended."""
        if self._descriptor < 0:
            return
        if remove:
            os.unlink(self._path)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> GroupLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def _is_current(self, descriptor: int) -> bool:
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        mine = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def listen(path: str) -> socket.socket:
    """A listening socket at *path*, 0600, in a directory that is made if need be (0700) and must be root's own.

    The group's lock is held; what stands at the path is a dead shim's. Raises: OSError, InvalidArgumentError.
    """
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    status = os.stat(directory)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise InvalidArgumentError(
            f"the socket directory {directory} can be written by others (owner {status.st_uid}, "
            f"mode {stat.S_IMODE(status.st_mode):04o}); make it yours with mode 0700"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        previous = os.umask(0o177)
        try:
            try:
                listener.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                os.unlink(path)
                listener.bind(path)
        finally:
            os.umask(previous)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def announce(path: str, id: str) -> bool:  # noqa: A002
    """Tell the shim that listens at *path* of a container to come; False when no shim lives there.

    Raises: UnavailableError when one does but gives no answer in time, or one that is not our shim's.
    """
    return _tell(path, ANNOUNCE_METHOD, id, _ANSWER_TIMEOUT)


def forget(path: str, id: str) -> None:  # noqa: A002
    """Tell a shim that may live at *path* that containerd has given the container *id* up, and will not ask for it.

    It is told, not waited for: `delete` has done what matters.
    """
    try:
        _tell(path, FORGET_METHOD, id, _FORGET_TIMEOUT)
    except UnavailableError:
        pass  # it hangs, or is somebody else's


def _tell(path: str, method: str, id: str, timeout: float) -> bool:  # noqa: A002
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(_request(method, id))
            header = _read(connection, _HEADER)
            body = None if header is None else _read(connection, int.from_bytes(header[:4], "big"))
            if header is None or body is None:
                return False
        except (FileNotFoundError, ConnectionError):
            return False
        except TimeoutError:
            raise UnavailableError(
                f"the shim at {path} exists but gave no answer within {timeout:g} s; "
                "if it hangs, end it (its containers are cleaned up by containerd) and try again"
            ) from None
    if header[8] != _RESPONSE or body:  # a success is an empty message; anything else comes from somebody else
        raise UnavailableError(f"what listens at {path} is not this shim; end it, or remove its socket, and try again")
    return True


def remove_dead_socket(path: str) -> None:
    """Remove a group's socket and lock when nobody listens there any more."""
    if not os.path.lexists(path) and not os.path.lexists(f"{path}.lock"):
        return
    lock = GroupLock(path)
    if not lock.acquire(blocking=False):
        return  # a `start` is at it, and will put its own socket there
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            outcome = connection.connect_ex(path)
        if outcome == errno.ECONNREFUSED:
            os.unlink(path)
    finally:
        lock.release(remove=not os.path.lexists(path))


def decode_announcement(payload: bytes) -> str:
    """The container's id in an announcement. Raises: InvalidArgumentError."""
    try:
        for number, value in decode_fields(payload):
            if number == 1 and isinstance(value, bytes):
                return value.decode()
    except (WireError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"an announcement that cannot be read: {error}") from error
    raise InvalidArgumentError("an announcement without an id")


def _request(method: str, id: str) -> bytes:  # noqa: A002
    """A whole ttrpc request, made by hand: `start` has no time to import a client."""
    envelope = bytes_field(1, GROUP_SERVICE) + bytes_field(2, method) + bytes_field(3, bytes_field(1, id))
    return len(envelope).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes((_REQUEST, 0)) + envelope


def _read(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return data
