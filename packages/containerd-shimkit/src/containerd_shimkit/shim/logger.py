"""Records to containerd's log: one logrus-like line each into the bundle's `log`, never blocking.

containerd copies that FIFO to its own log. A line about a container goes to its own bundle's FIFO, so that it is not
lost when the pod's first container, and its FIFO with it, has gone.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime, timezone
from typing import Final

__all__ = ["BundleLogHandler", "format_line"]

_LEVELS: Final = {"WARNING": "warning", "CRITICAL": "fatal"}
_MAX_LINE: Final = 4096  # PIPE_BUF: a longer write could be torn apart by another writer's
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def format_line(record: logging.LogRecord) -> bytes:
    """*record* as logrus writes it: time in RFC 3339, level, message, then what is known of container and logger.

    One line, whatever the message holds: values are quoted and escaped. At most PIPE_BUF bytes.
    """
    time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="microseconds")
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    level = _LEVELS.get(record.levelname, record.levelname.lower())
    instance = getattr(record, "instance", "")
    tail = (f" instance={json.dumps(instance)}" if instance else "") + f" logger={json.dumps(record.name)}\n"
    head = f'time="{time.replace("+00:00", "Z")}" level={level} msg='
    room = _MAX_LINE - len(head) - len(tail) - 2
    while len(text := json.dumps(message)) > room:  # json's escapes are ASCII: characters are bytes
        message = message[: len(message) - max(16, (len(text) - room) // 6)]
    return (head + text + tail).encode()


class BundleLogHandler(logging.Handler):
    """Writes to the `log` of the bundles it knows; with none, or when a FIFO is full, a record is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._targets: dict[str, int] = {}

    def add(self, id: str, bundle: str) -> None:  # noqa: A002
        """Open the `log` of *bundle* for the container *id*; a bundle without one is no error."""
        if id in self._targets:
            return
        try:
            # read-write: a FIFO opened for writing alone fails without a reader, and breaks when it goes
            descriptor = os.open(os.path.join(bundle, "log"), os.O_RDWR | os.O_APPEND | _FLAGS)
        except OSError:
            return
        self._targets[id] = descriptor

    def remove(self, id: str) -> None:  # noqa: A002
        """Forget the container *id*."""
        descriptor = self._targets.pop(id, None)
        if descriptor is not None:
            os.close(descriptor)

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record* to its container's log, or to the newest one there is."""
        descriptor = self._targets.get(getattr(record, "instance", ""))
        if descriptor is None:
            descriptor = next(reversed(self._targets.values()), None)
        if descriptor is None:
            return
        try:
            os.write(descriptor, format_line(record))
        except OSError:
            pass  # the FIFO is full, or its reader gone for good: a log must not stop a shim
