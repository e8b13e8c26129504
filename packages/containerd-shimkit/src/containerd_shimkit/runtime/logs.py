"""Where the command line's messages go: to standard error, or to the file of `--log`."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Final

from ..shim.logger import format_line

__all__ = ["configure"]

_LEVELS: Final = {"WARNING": "warning", "CRITICAL": "fatal"}


def configure(path: str, *, as_json: bool, debug: bool) -> None:
    """Log to the file *path*, as JSON objects or as logrus-like lines; to standard error when it is empty."""
    handler: logging.Handler
    if path:
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(_Json() if as_json else _Lines())
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Json() if as_json else logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat().replace("+00:00", "Z")
        level = _LEVELS.get(record.levelname, record.levelname.lower())
        return json.dumps({"level": level, "msg": record.getMessage(), "time": time})


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return format_line(record).decode().rstrip("\n")
