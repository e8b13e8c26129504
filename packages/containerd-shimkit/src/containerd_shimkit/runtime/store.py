"""Where the command line keeps its containers: a directory each, below `--root`, which says all that is known of one.

Nobody stays behind to watch a container, so every command finds out from the files and the kernel how it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..container.state import ContainerState, read_state
from ..errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ShimError,
)
from ..linux.cgroup import Cgroup, FreezerState
from ..linux.cgroups import cgroup_from
from ..linux.own_directory import make_own_directory
from ..linux.user_namespaces import own_standing

__all__ = ["Entry", "Record", "Store", "default_root"]

_NAME: Final = "containerd-shimkit-oci"
_ID: Final = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")
_RECORD: Final = "record.json"
_LOCK: Final = "lock"
_REQUESTS, _REPLIES = "start.fifo", "reply.fifo"
_VERSION: Final = 1


def default_root() -> str:
    """Where containers are kept when nobody says: /run for root, the user's own runtime directory for others."""
    if own_standing().is_hosts_root:
        return f"/run/{_NAME}"
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(own):
        raise FailedPreconditionError("XDG_RUNTIME_DIR is not set: say by --root where containers are to be kept")
    return f"{own}/{_NAME}"


@dataclass(frozen=True, slots=True)
class Record:
    """What is said of a container when it is made, and never changes; *created* as in RFC 3339."""

    bundle: str
    rootfs: str
    created: str
    owner: str
    annotations: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())


@dataclass(frozen=True, slots=True)
class Entry:
    """One container, as its directory and the kernel have it now."""

    id: str
    directory: str
    record: Record
    state: ContainerState

    @property
    def pid(self) -> int:
        """The init's pid while it lives, else 0."""
        init = self.state.init
        return init.pid if init is not None and init.is_running() else 0

    @property
    def status(self) -> str:
        """One of creating, created, running, paused, stopped."""
        if not self.pid:
            return "creating" if self.state.init is None else "stopped"
        if self.is_paused:
            return "paused"
        return "created" if os.path.exists(self.requests) else "running"

    @property
    def is_paused(self) -> bool:
        """Whether the freezer has stopped it, or is about to."""
        try:
            return bool(self.state.cgroup_paths) and self.cgroup.freezer_state() is not FreezerState.THAWED
        except ShimError:
            return False  # it has no freezer, or is just going

    @property
    def requests(self) -> str:
        """The FIFO at which the init waits for its start."""
        return f"{self.directory}/{_REQUESTS}"

    @property
    def replies(self) -> str:
        """The FIFO on which the init says why it cannot start."""
        return f"{self.directory}/{_REPLIES}"

    @property
    def cgroup(self) -> Cgroup:
        """The container's control group. Raises: InvalidArgumentError when the state file has none that can be."""
        if not self.state.cgroup_paths:
            from ..linux.cgroup_none import NoCgroup

            return NoCgroup(init=self.state.init)
        return cgroup_from(self.state.cgroup_paths)

    def document(self) -> dict[str, Any]:
        """The container's state as the specification has it, and what other runtimes add."""
        return {
            "ociVersion": "1.2.0",
            "id": self.id,
            "pid": self.pid,
            "status": self.status,
            "bundle": self.record.bundle,
            "rootfs": self.record.rootfs,
            "created": self.record.created,
            "owner": self.record.owner,
            "annotations": dict(self.record.annotations),
        }


class Store:
    """The containers below one directory."""

    def __init__(self, root: str) -> None:
        """Raises: FailedPreconditionError for a directory that is not this user's alone to write."""
        self.root = os.path.abspath(root)
        os.makedirs(os.path.dirname(self.root), exist_ok=True)
        if not make_own_directory(self.root, 0o022):
            raise FailedPreconditionError(
                f"{self.root}, where containers are kept, is not a directory that this user alone may write to; "
                "choose another by --root"
            )

    def add(self, id: str) -> str:  # noqa: A002
        """Make the directory of a new container. Raises: InvalidArgumentError, AlreadyExistsError."""
        directory = self._directory(id)
        try:
            os.mkdir(directory, 0o711)
        except FileExistsError:
            raise AlreadyExistsError(f"container {id!r} exists already in {self.root}; delete it first") from None
        return directory

    def write(self, id: str, record: Record, config: Mapping[str, object]) -> None:  # noqa: A002
        """Note what is known of the new container, with its configuration, which no later change touches.

        Raises: OSError.
        """
        directory = self._directory(id)
        # an environment may hold what is not for everybody
        with open(f"{directory}/config.json", "w", encoding="utf-8", opener=_open_private) as file:
            json.dump(config, file)
        for name in (_REQUESTS, _REPLIES):
            os.mkfifo(f"{directory}/{name}", 0o600)
        temporary = f"{directory}/.{_RECORD}"
        with open(temporary, "w", encoding="utf-8", opener=_open_private) as file:
            json.dump({"version": _VERSION, **asdict(record)}, file)
        os.rename(temporary, f"{directory}/{_RECORD}")

    def find(self, id: str) -> Entry:  # noqa: A002
        """The container *id*. Raises: InvalidArgumentError, NotFoundError, InternalError."""
        directory = self._directory(id)
        path = f"{directory}/{_RECORD}"
        try:
            with open(path, "rb") as file:
                values = json.load(file)
            if values.pop("version") != _VERSION:
                raise ValueError("written by another version")
            record = Record(**values)
        except FileNotFoundError:
            raise NotFoundError(f"there is no container {id!r} in {self.root}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise InternalError(f"{path} cannot be read: {error}") from error
        return Entry(id, directory, record, read_state(directory) or ContainerState(id))

    def remove(self, id: str) -> None:  # noqa: A002
        """Forget the container. Raises: OSError."""
        directory = self._directory(id)
        try:
            # from one moment to the next: nobody finds half a container
            gone = f"{self.root}/.{id}.{os.getpid()}"
            os.rename(directory, gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone)

    def ids(self) -> Iterator[str]:
        """Every container's name, in order."""
        for entry in sorted(os.scandir(self.root), key=lambda each: each.name):
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield entry.name

    @contextmanager
    def lock(self, id: str) -> Generator[None, None, None]:  # noqa: A002
        """Keep other commands that change the container waiting. Raises: NotFoundError when there is none."""
        try:
            descriptor = os.open(f"{self._directory(id)}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NotFoundError(f"there is no container {id!r} in {self.root}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _directory(self, id: str) -> str:  # noqa: A002
        if not _ID.fullmatch(id) or id.startswith("."):
            raise InvalidArgumentError(
                f"{id!r} cannot be a container's name: it has letters, digits and _ + - . alone, no dot in front"
            )
        return os.path.join(self.root, id)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
