"""Which shim a container belongs to, and where that shim listens.

Containers of one group share a shim: the group's name comes from the container's annotations, the socket's name from
it, hashed as the Go shims hash theirs. Only the address that `start` prints counts.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from typing import Final

from ..errors import InvalidArgumentError
from ..task.identifiers import shorten

__all__ = ["DEFAULT_SOCKET_DIR", "GROUP_ANNOTATIONS", "MAX_SOCKET_PATH", "group_of", "socket_path", "strip_scheme"]

DEFAULT_SOCKET_DIR: Final = "/run/containerd/s"
GROUP_ANNOTATIONS: Final = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
MAX_SOCKET_PATH: Final = 107  # sizeof(sockaddr_un.sun_path) less the terminating NUL, unix(7)

_SCHEME: Final = "unix://"


def group_of(annotations: Mapping[str, str], id: str) -> str:  # noqa: A002  (containerd's word)
    """The group of container *id*: the first annotation that names one, else the container alone.

    Source: containerd, cmd/containerd-shim-runc-v2/manager.
    Raises: InvalidArgumentError for a group whose name would be taken for a path.
    """
    for key in GROUP_ANNOTATIONS:
        if group := annotations.get(key, ""):
            # the name is joined with the namespace's into one path: "../other/id" would be another namespace's shim
            if "/" in group or group in (".", ".."):
                raise InvalidArgumentError(f"annotation {key} is {shorten(group)}: a group's name has no path in it")
            return group
    return id


def strip_scheme(address: str) -> str:
    """The socket's path in *address*, which may be `unix:///path` or the bare path (or an abstract name, as it is).

    Raises: InvalidArgumentError for another scheme.
    """
    if address.startswith(_SCHEME):
        return address[len(_SCHEME) :]
    if "://" in address:
        raise InvalidArgumentError(f"address {shorten(address)} is not of a unix socket: give unix:///path")
    return address


def socket_path(socket_dir: str, address: str, namespace: str, group: str, *, debug: bool = False) -> str:
    """Where the shim of *group* listens, for the containerd whose socket is *address*; *debug* is a second socket's.

    Source: containerd, pkg/shim SocketAddress and DebugSocketAddress.
    Raises: InvalidArgumentError when the kernel could not take the path.
    """
    name = _join(address, namespace, group, "debug" if debug else "")
    path = posixpath.join(socket_dir, hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest())
    if len(path.encode(errors="surrogateescape")) > MAX_SOCKET_PATH:
        raise InvalidArgumentError(
            f"socket path {shorten(path)} has more than {MAX_SOCKET_PATH} bytes: give a shorter socket directory"
        )
    return path


def _join(*parts: str) -> str:
    """Join as Go's path.Join does: empty parts vanish, and no part starts anew with a slash."""
    joined = "/".join(part for part in parts if part)
    # POSIX keeps two leading slashes apart from one, Go does not
    return posixpath.normpath("/" + joined.lstrip("/") if joined.startswith("/") else joined)
