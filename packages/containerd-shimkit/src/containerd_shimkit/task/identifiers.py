"""The rule that containerd's ids and namespaces follow; what passes it is safe as a file name."""

from __future__ import annotations

import re
from typing import Final

from ..errors import InvalidArgumentError

__all__ = ["MAX_IDENTIFIER_LENGTH", "check_identifier", "shorten"]

MAX_IDENTIFIER_LENGTH: Final = 76
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_SHOWN: Final = 120


def check_identifier(value: str, what: str) -> str:
    """Give back *value* if it is an identifier; *what* names it in the error ("task id", "namespace").

    Source: containerd, pkg/identifiers.
    Raises: InvalidArgumentError.
    """
    if not value:
        raise InvalidArgumentError(f"the {what} is empty: give one of letters and digits")
    if len(value) > MAX_IDENTIFIER_LENGTH:
        raise InvalidArgumentError(
            f"{what} {shorten(value)} has {len(value)} characters: at most {MAX_IDENTIFIER_LENGTH} are allowed"
        )
    if _IDENTIFIER.fullmatch(value) is None:
        raise InvalidArgumentError(
            f"{what} {shorten(value)} is malformed: it must be letters and digits, in groups joined by one of . _ -"
        )
    return value


def shorten(value: str) -> str:
    """*value* quoted for a message, cut when it is long: what peers send may be megabytes."""
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
