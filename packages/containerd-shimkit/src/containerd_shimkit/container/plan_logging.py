"""What the URI of a logging program asks for: `binary:///PATH?name=value` and `binary-v2:///PATH`. Pure.

Source: containerd, runtime/v2/README.md, "IO".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import InvalidArgumentError

__all__ = ["LogCommand", "plan_logging"]

_SCHEMES: Final = ("binary://", "binary-v2://")


@dataclass(frozen=True, slots=True)
class LogCommand:
    """A logging program: *args* come behind its path. With *must_say_ready* to close its descriptor is not enough."""

    uri: str
    path: str
    args: tuple[str, ...]
    must_say_ready: bool


def plan_logging(stdout: str, stderr: str, *, terminal: bool = False) -> LogCommand | None:
    """The program that takes the output, if its URI is in *stdout*; None when both streams go elsewhere.

    One program takes both streams, so *stderr* is the same or empty; with a *terminal* it does not count.
    Raises: InvalidArgumentError that names the stream.
    """
    if not stdout.startswith(_SCHEMES):
        if stderr.startswith(_SCHEMES) and not terminal:
            raise InvalidArgumentError(f"stderr {stderr!r} is a logging program's; it must be that of stdout as well")
        return None
    if stderr not in ("", stdout) and not terminal:
        raise InvalidArgumentError(
            f"stdout goes to the logging program {stdout!r}, but stderr to {stderr!r}; it must go there as well"
        )
    return _parse(stdout)


def _parse(uri: str) -> LogCommand:
    try:
        parts = urlsplit(uri)
        path = unquote(parts.path, errors="strict")
        arguments = parse_qsl(parts.query, keep_blank_values=True, errors="strict", max_num_fields=256)
    except ValueError as error:
        raise InvalidArgumentError(f"stdout {uri!r} cannot be read: {error}") from error
    if parts.netloc or not path.startswith("/") or "\0" in path:
        raise InvalidArgumentError(f"stdout {uri!r} has no absolute path; it must be {parts.scheme}:///PATH")
    firsts: dict[str, str] = {}
    for name, value in arguments:
        if "\0" in name + value:
            raise InvalidArgumentError(f"stdout {uri!r} has a NUL in an argument, which no program can be given")
        firsts.setdefault(name, value)
    flat = tuple(word for pair in firsts.items() for word in pair)
    return LogCommand(uri, path, flat, parts.scheme == "binary-v2")
