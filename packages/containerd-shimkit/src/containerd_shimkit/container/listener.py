"""Hands the listener of a filter of system calls to whoever decides on the calls that the filter asks about.

Between its filter and its listener's arrival a process makes no call that might be asked about: it writes the number of
the listener's descriptor, and waits. The rest is done here, by whoever made the process. Source: OCI runtime
specification 1.2, config-linux.md, "The Container Process State"; seccomp_unotify(2).
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping
from typing import Final

from ..errors import AbortedError, FailedPreconditionError, UnimplementedError
from ..linux.pidfd import ProcessIdentity, take_descriptor
from ..oci.seccomp import Listener, listener_of
from ..oci.spec import Spec
from ..shim.reaper import Reaper
from .channel import Message
from .worker import run_in_child

__all__ = ["hand_over", "process_state", "send_listener"]

_TIMEOUT: Final = 10.0  # of a listener that does not accept
_NAME: Final = "seccompFd"


async def hand_over(
    message: Message, spec: Spec, process: ProcessIdentity, state: Mapping[str, object], reaper: Reaper
) -> None:
    """Do what *message* of a filtered *process* asks for; *state* is its container's.

    Raises: FailedPreconditionError when nobody listens, DeadlineExceededError, AbortedError when the process has gone,
    UnimplementedError before Linux 5.6.
    """
    listener = listener_of(spec.linux.seccomp) if spec.linux and spec.linux.seccomp is not None else None
    if listener is None:
        raise AbortedError(f"process {process.pid} asks for a seccomp listener, and its profile has none")
    try:
        descriptor = take_descriptor(process, int(message["descriptor"]))
    except ProcessLookupError:
        raise AbortedError(f"process {process.pid} was killed while its seccomp listener was handed over") from None
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise UnimplementedError("linux.seccomp.listenerPath needs pidfd_getfd(2), Linux 5.6") from error
        raise AbortedError(f"the seccomp listener of process {process.pid} cannot be taken: {error}") from error
    document = process_state(process.pid, listener.metadata, state)
    try:
        await run_in_child(
            lambda: send_listener(listener, document, descriptor),
            reaper,
            what=f"handing the seccomp listener to linux.seccomp.listenerPath {listener.path!r}",
            timeout=_TIMEOUT,
            keep=(descriptor,),
        )
    finally:
        os.close(descriptor)


def process_state(pid: int, metadata: str, state: Mapping[str, object]) -> bytes:
    """What goes with the listener of the process *pid*, as JSON: a `containerProcessState`."""
    document: dict[str, object] = {"ociVersion": state["ociVersion"], "fds": [_NAME], "pid": pid}
    if metadata:
        document["metadata"] = metadata
    document["state"] = state
    return json.dumps(document, separators=(",", ":")).encode()


def send_listener(listener: Listener, document: bytes, descriptor: int) -> None:
    """Send both to the listener's socket: the descriptor with the first byte. Blocks.

    Raises: FailedPreconditionError.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as line:
            line.connect(listener.path)
            sent = socket.send_fds(line, [document], [descriptor])
            line.sendall(document[sent:])
    except OSError as error:
        raise FailedPreconditionError(
            f"linux.seccomp.listenerPath {listener.path!r}: the seccomp listener cannot be handed over: "
            f"{error.strerror or error}; whoever decides on the calls has to listen there before the container is made"
        ) from error
