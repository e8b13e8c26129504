"""What must be known to clean up after a shim that died: one small file in the bundle, written atomically.

Written before each thing that it names is made, so that nothing ever exists that the file does not name.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from ..errors import InternalError
from ..linux.pidfd import ProcessIdentity

__all__ = ["REMOVED_FILE", "STATE_FILE", "ContainerState", "read_state", "remove_state", "write_state"]

STATE_FILE: Final = "shim-state.json"
REMOVED_FILE: Final = "shim-removed"  # what becomes of it when nothing is left: `delete` sees that at a glance
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The traces of one container: its init, the root that it has mounted (empty: none), its cgroup's directories."""

    id: str
    init: ProcessIdentity | None = None
    mounted_rootfs: str = ""
    cgroup_paths: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())


def write_state(bundle: str, state: ContainerState) -> None:
    """Replace the bundle's state file by *state*: a reader sees the old one or the new one, whole. Raises: OSError."""
    record = {
        "version": _VERSION,
        "id": state.id,
        "init": asdict(state.init) if state.init else None,
        "mounted_rootfs": state.mounted_rootfs,
        "cgroup_paths": dict(state.cgroup_paths),
    }
    temporary = os.path.join(bundle, f".{STATE_FILE}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = json.dumps(record).encode()
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
        os.replace(temporary, os.path.join(bundle, STATE_FILE))
    except OSError as error:
        what = f"the container's state cannot be written: {error.strerror}; make room on that file system"
        raise OSError(error.errno, what, temporary) from error


def read_state(bundle: str) -> ContainerState | None:
    """The bundle's state, or None when there is no container in it.

    Raises: InternalError for a file that this version cannot read.
    """
    path = os.path.join(bundle, STATE_FILE)
    try:
        with open(path, "rb") as file:
            record = json.load(file)
        if record["version"] != _VERSION:
            raise ValueError(f"version {record['version']}, this shim reads version {_VERSION}")
        init = ProcessIdentity(**record["init"]) if record["init"] else None
        return ContainerState(record["id"], init, record["mounted_rootfs"], record["cgroup_paths"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise InternalError(f"{path} is not a state file that this shim can read: {error}") from error


def remove_state(bundle: str) -> None:
    """Forget the container: the last step of its removal."""
    try:
        os.rename(os.path.join(bundle, STATE_FILE), os.path.join(bundle, REMOVED_FILE))
    except FileNotFoundError:
        pass
    try:
        os.unlink(os.path.join(bundle, f".{STATE_FILE}"))
    except FileNotFoundError:
        pass
