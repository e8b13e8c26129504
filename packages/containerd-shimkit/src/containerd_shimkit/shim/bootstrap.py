"""The actions that containerd calls a shim's program for: `start`, `delete`, `-info`, `-v`; and `serve`, for people.

They stand in the way of every container, so what they import is counted: no asyncio, no protobuf, no engine. Those
come after the fork, in `serve`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from socket import socket
from typing import TYPE_CHECKING, Final

from ..errors import InvalidArgumentError, ShimError
from ..instance import Encoded
from ..oci.strict_json import decode_object
from . import address, messages
from .args import ShimArgs, parse_args
from .group import GroupLock, announce, forget, listen, remove_dead_socket

if TYPE_CHECKING:
    from ..instance import Instance, InstanceConfig

__all__ = ["Shim", "main"]

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


def main(shim: Shim, argv: list[str] | None = None) -> int:
    """Do what *argv* (sys.argv without the program) asks for; the process's exit status.

    On failure the message is on stderr, from where containerd takes it into its own error.
    """
    try:
        args = parse_args(sys.argv[1:] if argv is None else argv)
        if args.version:
            _write(_version_text(shim).encode())
        elif args.info:
            _write(_runtime_info(shim))
        else:
            _ACTIONS[args.action](shim, args)
    except ShimError as error:
        return _fail(shim, str(error))
    except OSError as error:
        return _fail(shim, f"{error.strerror}: {error.filename or ''}".rstrip(": "))
    return 0


def _start(shim: Shim, args: ShimArgs) -> None:
    """Print the address of the group's shim, making the shim if there is none."""
    bundle = os.getcwd()
    request = messages.parse_start_input(_read_input(), args.id, args.namespace)
    path = _socket_path(shim, args, bundle, request)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    lock = GroupLock(path)
    lock.acquire()
    made = False
    try:
        if not announce(path, args.id):
            listener = listen(path)
            made = True
            _write_address(bundle, f"unix://{path}")  # all that can fail comes before the fork
            _spawn(shim, args, listener, bundle, request)
        else:
            _write_address(bundle, f"unix://{path}")
    except BaseException:
        if made:
            os.unlink(path)
        lock.release(remove=not os.path.lexists(path))
        raise
    lock.release()
    _answer(request, f"unix://{path}")


def _spawn(shim: Shim, args: ShimArgs, listener: socket, bundle: str, request: messages.StartInput) -> None:
    """Fork the process that serves. Its listener is listening already: nobody has to wait until it is ready."""
    sys.stdout.flush()
    if os.fork():
        listener.close()
        return
    status = 1
    try:
        _detach(listener.fileno())
        from .serve import serve  # all that is dear is behind this import

        serve(shim, args, listener, bundle, request)
        status = 0
    except BaseException as error:
        _log_failure(shim, error)
    finally:
        os._exit(status)


def _detach(keep: int) -> None:
    """Leave containerd's session and descriptors: `start` is over for it when both of its pipes are closed."""
    from ..linux.process import close_descriptors

    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    close_descriptors({keep})


def _log_failure(shim: Shim, error: BaseException) -> None:
    """Say in the bundle's log why a shim could not serve; its socket closes with it, and containerd cleans up."""
    import logging

    from .logger import BundleLogHandler

    handler = BundleLogHandler()
    handler.add("", ".")
    record = logging.LogRecord(shim.name, logging.CRITICAL, "", 0, "the shim ended: %r", (error,), sys.exc_info())
    handler.emit(record)


def _serve(shim: Shim, args: ShimArgs) -> None:
    """Serve in the foreground, at the address that `start` would use."""
    bundle = os.getcwd()
    request = messages.parse_start_input(b"", args.id, args.namespace)
    path = _socket_path(shim, args, bundle, request)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with GroupLock(path):
        if announce(path, args.id):
            raise InvalidArgumentError(f"a shim of this group is serving already, at {path}")
        listener = listen(path)
        _write_address(bundle, f"unix://{path}")
    from .serve import serve

    serve(shim, args, listener, bundle, request)


def _delete(shim: Shim, args: ShimArgs) -> None:
    """Remove what a container has left, its shim living or not, and answer with a DeleteResponse."""
    bundle = args.bundle or os.getcwd()
    from ..container.cleanup import clean_up_bundle

    pid = clean_up_bundle(bundle)
    if path := _known_socket_path(shim, args, bundle):
        remove_dead_socket(path)
        forget(path, args.id)
    _write(messages.encode_delete_response(pid, _KILLED, datetime.now(timezone.utc)))


_ACTIONS: Final[dict[str, Callable[[Shim, ShimArgs], None]]] = {"start": _start, "serve": _serve, "delete": _delete}


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
    config = decode_object(text, f"{bundle}/config.json")
    group = address.group_of(config.text_mapping("annotations"), args.id)
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


def _write_address(bundle: str, text: str) -> None:
    """containerd 1.x finds a shim again by this file: the bare address, no newline, whole or not at all."""
    temporary = os.path.join(bundle, ".address")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, os.path.join(bundle, "address"))


def _read_input() -> bytes:
    """What containerd wrote to stdin; nothing when a person runs this at a terminal."""
    if sys.stdin is None or os.isatty(0):
        return b""
    data = sys.stdin.buffer.read(messages.MAX_INPUT_BYTES + 1)
    if len(data) > messages.MAX_INPUT_BYTES:
        raise InvalidArgumentError(f"the input of start is longer than {messages.MAX_INPUT_BYTES} bytes")
    return data


def _answer(request: messages.StartInput, text: str) -> None:
    if request.bootstrap is not None:
        _write(messages.encode_bootstrap_result(_PROTOCOL_VERSION, text, "ttrpc"))
    else:
        _write(text.encode())


def _write(data: bytes) -> None:
    """Write *data* to stdout by one call: containerd captures stdout and stderr into one stream."""
    while data:
        data = data[os.write(1, data) :]


def _version_text(shim: Shim) -> str:
    program = os.path.basename(sys.argv[0])
    return messages.version_text(program, _runtime_name(shim), shim.version(), "") + shim.details()


def _runtime_info(shim: Shim) -> bytes:
    from ..oci.features import features_document

    return messages.encode_runtime_info(_runtime_name(shim), shim.version(), "", features=features_document())


def _runtime_name(shim: Shim) -> str:
    return f"io.containerd.{shim.name}.v1"


def _fail(shim: Shim, message: str) -> int:
    os.write(2, f"containerd-shim-{shim.name}-v1: {message}\n".encode(errors="replace"))
    return 1
