"""What `start`, `delete`, `-info` and `-v` do, be it in a process of their own or in a zygote's child.

They stand in the way of every container, so what they import is counted: no asyncio, no protobuf, no engine. What they
would print is given back, for in a zygote's child there is nothing to print to.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from socket import socket
from typing import TYPE_CHECKING, Final

from ..errors import InvalidArgumentError, ShimError
from ..instance import Encoded
from ..oci.strict_json import decode_object
from ..zygote.messages import Reply
from . import address, messages
from .args import ShimArgs
from .group import GroupLock, forget, is_alive, listen, remove_dead_socket

if TYPE_CHECKING:
    from ..instance import Instance, InstanceConfig

__all__ = [
    "Outcome",
    "Service",
    "Shim",
    "failure",
    "fork_failure",
    "group_socket",
    "open_service",
    "perform",
    "runtime_info",
    "start_answer",
    "version_text",
    "write_address",
]

_KILLED: Final = 137
_PROTOCOL_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Shim:
    """What makes one shim differ from another.

    `make_instance` is called for every task, in the serving process; `warm` once there, before the first: it imports
    and loads what instances need, for imports are closed after it.
    """

    name: str  # the <name> of containerd-shim-<name>-v1
    version: Callable[[], str]
    make_instance: Callable[[str, InstanceConfig], Instance]
    warm: Callable[[], None] = lambda: None
    details: Callable[[], str] = lambda: ""  # further lines for -v


@dataclass(frozen=True, slots=True)
class Service:
    """A group's shim that is to be: the socket listens already, and a process has to serve it."""

    args: ShimArgs
    listener: socket
    bundle: str
    request: messages.StartInput


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ended; after a `start` that found no shim, also what has to be served from now on."""

    reply: Reply
    service: Service | None = None


def perform(shim: Shim, args: ShimArgs, program: str, read_input: Callable[[], bytes]) -> Outcome:
    """Do what *args* ask for, in the current directory. Never raises a ShimError or OSError: those are a reply."""
    try:
        if args.version:
            return Outcome(Reply(0, version_text(shim, program)))
        if args.info:
            return Outcome(Reply(0, runtime_info(shim)))
        if args.action == "delete":
            return Outcome(Reply(0, _delete(shim, args)))
        return _start(shim, args, messages.parse_start_input(read_input(), args.id, args.namespace))
    except (ShimError, OSError) as error:
        return Outcome(failure(shim, error))


def failure(shim: Shim, error: BaseException) -> Reply:
    """The reply of an action that has failed: status 1, and the reason for containerd to take into its own error."""
    message = str(error)
    if isinstance(error, OSError):
        message = f"{error.strerror}: {error.filename or ''}".rstrip(": ")
    return Reply(1, stderr=f"containerd-shim-{shim.name}-v1: {message}\n".encode(errors="replace"))


def fork_failure(shim: Shim, error: OSError) -> Reply:
    """The reply of a `start` whose shim could not be forked."""
    cure = "; raise the limit of processes (pids.max) of containerd's cgroup" if error.errno == errno.EAGAIN else ""
    return failure(shim, OSError(error.errno, f"a shim cannot be forked: {error.strerror}{cure}"))


def version_text(shim: Shim, program: str) -> bytes:
    """What `-v` prints."""
    text = messages.version_text(os.path.basename(program), _runtime_name(shim), shim.version(), "")
    return (text + shim.details()).encode()


def runtime_info(shim: Shim) -> bytes:
    """What `-info` prints: a RuntimeInfo."""
    from ..linux.seccomp import supported_flags
    from ..oci.features import features_document

    features = features_document(supported_flags())
    return messages.encode_runtime_info(_runtime_name(shim), shim.version(), "", features=features)


def open_service(shim: Shim, args: ShimArgs) -> Service:
    """Listen for a group that is served in the foreground, at the address that `start` would use.

    Raises: ShimError, OSError.
    """
    bundle = os.getcwd()
    request = messages.parse_start_input(b"", args.id, args.namespace)
    path = _socket_path(shim, args, bundle, request)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with GroupLock(path):
        if is_alive(path):
            raise InvalidArgumentError(f"a shim of this group is serving already, at {path}")
        listener = listen(path)
        write_address(f"unix://{path}")
    return Service(args, listener, bundle, request)


def _start(shim: Shim, args: ShimArgs, request: messages.StartInput) -> Outcome:
    """Find the group's shim, or listen for the one that is to be made; the address is the answer."""
    bundle = os.getcwd()
    path = _socket_path(shim, args, bundle, request)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    lock = GroupLock(path)
    lock.acquire()
    listener = None
    try:
        if not is_alive(path):
            lock.forget_all()
            listener = listen(path)
        lock.announce(args.id)
        write_address(f"unix://{path}")
    except BaseException:
        if listener is not None:
            listener.close()
            os.unlink(path)
        lock.release(remove=not os.path.lexists(path))
        raise
    lock.release()
    service = None if listener is None else Service(args, listener, bundle, request)
    return Outcome(Reply(0, start_answer(request, f"unix://{path}")), service)


def _delete(shim: Shim, args: ShimArgs) -> bytes:
    """Remove what a container has left, its shim living or not; a DeleteResponse."""
    bundle = args.bundle or os.getcwd()
    from ..container.cleanup import clean_up_bundle

    pid = clean_up_bundle(bundle)
    if path := _known_socket_path(shim, args, bundle):
        remove_dead_socket(path)
        forget(path, args.id)
    return messages.encode_delete_response(pid, _KILLED, datetime.now(timezone.utc))


def _known_socket_path(shim: Shim, args: ShimArgs, bundle: str) -> str:
    """Where the group's shim listens or did: as the bundle's `address` says, else as `start` would name it."""
    if text := _read_text(os.path.join(bundle, "address")):
        return address.strip_scheme(text)
    try:
        return _socket_path(shim, args, bundle, messages.StartInput(Encoded()))
    except InvalidArgumentError:
        return ""  # no config.json: `start` cannot have come far


def _socket_path(shim: Shim, args: ShimArgs, bundle: str, request: messages.StartInput) -> str:
    text = _read_text(os.path.join(bundle, "config.json"))
    if text is None:
        raise InvalidArgumentError(
            f"{bundle}/config.json does not exist; `{args.action}` must be run in a container's bundle"
        )
    return group_socket(shim, args, text, f"{bundle}/config.json", request)


def group_socket(shim: Shim, args: ShimArgs, config: str | bytes, source: str, request: messages.StartInput) -> str:
    """Where the shim of the container's group listens, as *config*, the content of config.json, has it.

    *source* names that file in errors. Raises: InvalidArgumentError.
    """
    group = address.group_of(decode_object(config, source).text_mapping("annotations"), args.id)
    directory = (request.bootstrap.socket_dir if request.bootstrap else "") or address.DEFAULT_SOCKET_DIR
    # shims of other engines, and of other makers, may serve a group of the same name: each has a socket of its own
    return address.socket_path(directory, args.address, args.namespace, f"{shim.name}.{group}")


def _read_text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path} is not UTF-8: {error}") from error


def write_address(text: str, directory: int | None = None) -> None:
    """Put *text* into the file `address` of the bundle (*directory*, or the current one), whole or not at all.

    containerd 1.x finds a shim again by this file: the bare address, no newline. Raises: OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(".address", flags, 0o644, dir_fd=directory)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    os.replace(".address", "address", src_dir_fd=directory, dst_dir_fd=directory)


def start_answer(request: messages.StartInput, text: str) -> bytes:
    """What `start` prints for the address *text*, in the form that *request* asks for."""
    if request.bootstrap is None:
        return text.encode()
    return messages.encode_bootstrap_result(_PROTOCOL_VERSION, text, "ttrpc")


def _runtime_name(shim: Shim) -> str:
    return f"io.containerd.{shim.name}.v1"
