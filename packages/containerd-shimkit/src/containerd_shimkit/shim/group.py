"""One shim a group of containers, though starts and the shim's own end race: the lock, the socket, the announcement.

Whoever looks for a group's shim, makes it or takes it away holds the group's lock. A `start` that finds a living shim
announces its container in the lock's file before it lets go of it. The shim reads that file, under the lock, before it
ends, and stays when a container has been announced and not come yet, for a while. So an address that `start` has
printed is never a dead one, and nobody has to wake the shim to say so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from types import TracebackType
from typing import Final

from ..errors import InvalidArgumentError
from ..wire import WireError, bytes_field, decode_fields

__all__ = [
    "ANNOUNCED_FOR",
    "FORGET_METHOD",
    "GROUP_SERVICE",
    "GroupLock",
    "decode_id",
    "forget",
    "is_alive",
    "listen",
    "remove_dead_socket",
]

GROUP_SERVICE: Final = "containerd.shimkit.v1.Group"
FORGET_METHOD: Final = "Forget"
ANNOUNCED_FOR: Final = 60.0  # seconds that a shim waits for the Create of a container that a `start` has announced

_LONGEST_FILE: Final = 1 << 16  # bytes of announcements; then those that are over go
_FORGET_TIMEOUT: Final = 0.5  # of the 5 s that `delete` has
_BACKLOG: Final = 512
_HEADER: Final = 10  # of a ttrpc frame
_REQUEST = 1


class GroupLock:
    """An exclusive lock beside a group's socket, held by a process; its file goes with the group.

    In the file are the containers that have been announced, each with the time, of the clock that counts from the boot.
    """

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

    def announce(self, id: str) -> None:  # noqa: A002
        """Note, while holding the lock, that the container *id* is about to be created. Raises: OSError."""
        if os.fstat(self._descriptor).st_size > _LONGEST_FILE:
            recent = self.announced()
            os.ftruncate(self._descriptor, 0)
            for each, moment in recent.items():
                self._note(each, moment)
        self._note(id, time.monotonic())

    def announced(self) -> dict[str, float]:
        """The containers announced within the last `ANNOUNCED_FOR` seconds, and when. Raises: OSError."""
        found: dict[str, float] = {}
        oldest = time.monotonic() - ANNOUNCED_FOR
        size = os.fstat(self._descriptor).st_size
        for line in os.pread(self._descriptor, size, 0).decode(errors="replace").splitlines():
            moment, _, id = line.partition(" ")  # noqa: A001
            try:
                found[id] = float(moment)
            except ValueError:
                continue  # a disk that was full cut it
        return {id: moment for id, moment in found.items() if id and moment > oldest}  # noqa: A001

    def forget_all(self) -> None:
        """Begin anew: what is there was announced to a shim that is dead. Raises: OSError."""
        os.ftruncate(self._descriptor, 0)

    def _note(self, id: str, moment: float) -> None:  # noqa: A002
        os.lseek(self._descriptor, 0, os.SEEK_END)
        os.write(self._descriptor, f"{moment:.6f} {id}\n".encode())

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


def is_alive(path: str) -> bool:
    """Whether a process listens at *path*. It is not woken: the kernel itself refuses a socket of another type."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def forget(path: str, id: str) -> None:  # noqa: A002
    """Tell a shim that may live at *path* that containerd has given the container *id* up, and will not ask for it.

    It is told, not waited for: `delete` has done what matters. Whoever else may listen there takes no notice.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_FORGET_TIMEOUT)
        try:
            connection.connect(path)
            connection.sendall(_request(FORGET_METHOD, id))
            connection.recv(_HEADER)
        except OSError:
            pass  # nobody is there, or it hangs


def remove_dead_socket(path: str) -> None:
    """Remove a group's socket and lock when nobody listens there any more."""
    if not os.path.lexists(path) and not os.path.lexists(f"{path}.lock"):
        return
    lock = GroupLock(path)
    if not lock.acquire(blocking=False):
        return  # a `start` is at it, and will put its own socket there
    try:
        if os.path.lexists(path) and not is_alive(path):
            os.unlink(path)
    finally:
        lock.release(remove=not os.path.lexists(path))


def decode_id(payload: bytes) -> str:
    """The container's id in a request of the group's service. Raises: InvalidArgumentError."""
    try:
        for number, value in decode_fields(payload):
            if number == 1 and isinstance(value, bytes):
                return value.decode()
    except (WireError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"a request of {GROUP_SERVICE} that cannot be read: {error}") from error
    raise InvalidArgumentError(f"a request of {GROUP_SERVICE} without an id")


def _request(method: str, id: str) -> bytes:  # noqa: A002
    """A whole ttrpc request, made by hand: `start` has no time to import a client."""
    envelope = bytes_field(1, GROUP_SERVICE) + bytes_field(2, method) + bytes_field(3, bytes_field(1, id))
    return len(envelope).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes((_REQUEST, 0)) + envelope
