"""The program that containerd executes: `start`, `delete`, `-info`, `-v`; and `serve`, for people.

A `start` is handed to the zygote, which is started first when there is none; the rest is handed to one that lives. What
no zygote does is done here: slower, and to the same effect.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from ..errors import InvalidArgumentError, ShimError
from ..zygote.messages import Reply
from . import messages
from .actions import Service, Shim, failure, fork_failure, open_service, perform
from .args import ShimArgs, parse_args
from .group import remove_dead_socket

__all__ = ["Shim", "main"]

_BEGUN_ANEW: Final = "CONTAINERD_SHIMKIT_SEALED"  # a slow `start`, after it has found that no zygote does it


def main(shim: Shim, argv: list[str] | None = None) -> int:
    """Do what *argv* (sys.argv without the program) asks for; the process's exit status.

    On failure the message is on stderr, from where containerd takes it into its own error.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse_args(words)
        if args.action == "zygote":
            from ..zygote.server import run_zygote

            return run_zygote(shim, args.socket)
        if args.action == "serve":
            _ensure_sealed(argv)
            _serve_in_foreground(shim, args)
            return 0
    except (ShimError, OSError) as error:
        return _print(failure(shim, error))
    if _BEGUN_ANEW not in os.environ and (reply := _ask_zygote(args, [sys.argv[0], *words])) is not None:
        return _print(reply)
    if args.action == "start":
        _ensure_sealed(argv)
    return _print(_do_it_here(shim, args))


def _ask_zygote(args: ShimArgs, words: list[str]) -> Reply | None:
    """The reply of this program's zygote; None when there is none, and, for a `start`, none can be started."""
    from ..zygote.client import Zygote

    zygote = Zygote()
    reply = zygote.request(words)
    if reply is not None or args.action != "start":
        return reply
    if problem := zygote.start():
        _log(f"no zygote, so this start is slow: {problem}")
        return None
    return zygote.request(words)


def _ensure_sealed(argv: list[str] | None) -> None:
    """Begin anew, before anything is done or read, if this is the program itself: it will fork containers."""
    if argv is None:
        from ..linux.sealed_program import ensure_sealed

        ensure_sealed(_BEGUN_ANEW)


def _do_it_here(shim: Shim, args: ShimArgs) -> Reply:
    outcome = perform(shim, args, sys.argv[0], _read_input)
    if outcome.service is not None:
        try:
            _spawn(shim, outcome.service)
        except OSError as error:
            path = outcome.service.listener.getsockname()
            outcome.service.listener.close()
            remove_dead_socket(path)
            return fork_failure(shim, error)
    return outcome.reply


def _spawn(shim: Shim, service: Service) -> None:
    """Fork the process that serves. Its listener is listening already: nobody has to wait until it is ready."""
    sys.stdout.flush()
    if os.fork():
        service.listener.close()
        return
    status = 1
    try:
        from ..linux.process import detach, hide_environment

        detach({service.listener.fileno()})
        hide_environment()  # containerd's; a zygote has none to begin with
        from .serve import prepare, serve  # all that is dear is behind this import

        prepare(shim)
        serve(shim, service)
        status = 0
    except BaseException as error:
        log_failure(shim, error)
    finally:
        os._exit(status)


def log_failure(shim: Shim, error: BaseException) -> None:
    """Say in the bundle's log why a shim could not serve; its socket closes with it, and containerd cleans up."""
    _log(f"the shim {shim.name} ended: {error!r}", error)


def _log(message: str, error: BaseException | None = None) -> None:
    """A line into the current bundle's log."""
    import logging

    from .logger import BundleLogHandler

    handler = BundleLogHandler()
    handler.add("", ".")
    level = logging.WARNING if error is None else logging.CRITICAL
    info = None if error is None else (type(error), error, error.__traceback__)
    handler.emit(logging.LogRecord("containerd_shimkit", level, "", 0, message, None, info))
    handler.remove("")


def _serve_in_foreground(shim: Shim, args: ShimArgs) -> None:
    service = open_service(shim, args)
    from ..linux.process import hide_environment
    from .serve import prepare, serve

    hide_environment()
    prepare(shim)
    serve(shim, service)


def _read_input() -> bytes:
    """What containerd wrote to stdin; nothing when a person runs this at a terminal."""
    if sys.stdin is None or os.isatty(0):
        return b""
    data = sys.stdin.buffer.read(messages.MAX_INPUT_BYTES + 1)
    if len(data) > messages.MAX_INPUT_BYTES:
        raise InvalidArgumentError(f"the input of start is longer than {messages.MAX_INPUT_BYTES} bytes")
    return data


def _print(reply: Reply) -> int:
    for descriptor, data in ((1, reply.stdout), (2, reply.stderr)):
        while data:
            data = data[os.write(descriptor, data) :]
    return reply.status
