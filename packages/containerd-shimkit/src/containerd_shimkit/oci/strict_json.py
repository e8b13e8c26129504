"""JSON from outside, read strictly: what is not as it must be is named by file, field and value.

`null` counts as absent, as it does for the Go programs that write these files; unknown fields are left alone.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Mapping
from typing import Final, NoReturn, TypeAlias, cast

from ..errors import InvalidArgumentError

__all__ = ["IDS", "INT64", "MAX_SIZE", "UINT32", "UINT64", "Bounds", "JsonObject", "decode_object"]

MAX_SIZE: Final = 16 << 20  # bytes; a pod's config.json has a few tens of kilobytes

Bounds: TypeAlias = tuple[int, int]
INT64: Final[Bounds] = (-(1 << 63), (1 << 63) - 1)
UINT32: Final[Bounds] = (0, (1 << 32) - 1)
UINT64: Final[Bounds] = (0, (1 << 64) - 1)
IDS: Final[Bounds] = (0, (1 << 32) - 2)
"""Users and groups. The next number is -1 to the kernel, by which setresuid(2) leaves a user as it is: root."""

_TEXT: Final = "a string of valid Unicode without NUL"
_show: Final = reprlib.Repr()
_show.maxstring = _show.maxother = _show.maxlong = 80


def decode_object(data: bytes | str, source: str) -> JsonObject:
    """Decode *data*, which must be one JSON object; *source* names it in errors.

    Raises: InvalidArgumentError when it is too big, not UTF-8, not JSON, nested too deeply, has a key twice in one
    object, or one of the non-numbers that Python's parser would let pass.
    """
    if len(data) > MAX_SIZE:
        raise InvalidArgumentError(f"{source} has {len(data)} bytes; at most {MAX_SIZE} are read")
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidArgumentError(f"{source} is nested too deeply to be read") from None
    except ValueError as error:  # of the decoder of UTF-8, of JSON, of integers with thousands of digits, and our own
        raise InvalidArgumentError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{source} is {_show.repr(value)}; it must be a JSON object")
    return JsonObject(cast("dict[str, object]", value), source, "")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"the key {_show.repr(_first_repeated(pairs))} stands twice in one object")
    return found


def _first_repeated(pairs: list[tuple[str, object]]) -> str:
    left = Counter(key for key, _ in pairs)
    return next(key for key, _ in pairs if left[key] > 1)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


class JsonObject:
    """One object of a document, read field by field; each method takes a key and checks what it finds there."""

    __slots__ = ("_path", "_source", "values")

    def __init__(self, values: Mapping[str, object], source: str, path: str) -> None:
        self.values = values
        self._source = source
        self._path = path

    def text(self, key: str, default: str = "") -> str:
        """A string; *default* when absent."""
        value = self.values.get(key)
        return default if value is None else self._checked_text(value, key)

    def required_text(self, key: str) -> str:
        """A string that must be there and not be empty."""
        value = self.text(key)
        if not value:
            raise self.error(key, "a string that is not empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when absent."""
        return tuple(self._checked_text(value, f"{key}[{i}]") for i, value in enumerate(self._array(key)))

    def text_mapping(self, key: str) -> dict[str, str]:
        """An object whose values are all strings; empty when absent."""
        found = self.raw_object(key) or {}
        return {
            self._checked_text(name, f"{key} (a key of it)"): self._checked_text(value, f"{key}[{_show.repr(name)}]")
            for name, value in found.items()
        }

    def flag(self, key: str) -> bool:
        """A boolean; False when absent."""
        return bool(self.optional_flag(key))

    def optional_flag(self, key: str) -> bool | None:
        """A boolean; None when absent."""
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(key, "true or false")

    def integer(self, key: str, bounds: Bounds, default: int = 0) -> int:
        """An integer within *bounds*, both included; *default* when absent."""
        value = self.optional_integer(key, bounds)
        return default if value is None else value

    def required_integer(self, key: str, bounds: Bounds) -> int:
        """An integer within *bounds* that must be there."""
        value = self.optional_integer(key, bounds)
        if value is None:
            raise self._not_integer(key, bounds)
        return value

    def optional_integer(self, key: str, bounds: Bounds) -> int | None:
        """An integer within *bounds*; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        # bool is an int to Python, and 1.0 none to the Go programs
        if isinstance(value, bool) or not isinstance(value, int) or not bounds[0] <= value <= bounds[1]:
            raise self._not_integer(key, bounds)
        return value

    def integers(self, key: str, bounds: Bounds) -> tuple[int, ...]:
        """An array of integers within *bounds*; empty when absent."""
        found = JsonObject({f"{key}[{i}]": v for i, v in enumerate(self._array(key))}, self._source, self._path)
        return tuple(found.required_integer(name, bounds) for name in found.values)

    def child(self, key: str) -> JsonObject | None:
        """An object to be read in its turn; None when absent."""
        values = self.raw_object(key)
        return None if values is None else JsonObject(values, self._source, self.place(key))

    def children(self, key: str) -> list[JsonObject]:
        """An array of objects; empty when absent."""
        found: list[JsonObject] = []
        for index, value in enumerate(self._array(key)):
            place = f"{key}[{index}]"
            if not isinstance(value, dict):
                raise self._wrong(place, value, "an object")
            found.append(JsonObject(cast("dict[str, object]", value), self._source, self.place(place)))
        return found

    def raw_object(self, key: str) -> Mapping[str, object] | None:
        """An object whose fields are not looked at; None when absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "an object")
        return cast("dict[str, object] | None", value)

    def raw_array(self, key: str) -> tuple[object, ...] | None:
        """An array whose members are not looked at; None when absent."""
        return None if self.values.get(key) is None else tuple(self._array(key))

    def error(self, key: str, expected: str) -> InvalidArgumentError:
        """The error that says that the field *key* is not *expected*."""
        return self._wrong(key, self.values.get(key), expected)

    def place(self, key: str) -> str:
        """Where the field *key* stands in the document: `process.user.uid`."""
        return f"{self._path}.{key}" if self._path else key

    def _array(self, key: str) -> list[object]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(key, "an array")
        return cast("list[object]", value)

    def _checked_text(self, value: object, place: str) -> str:
        # half a surrogate pair cannot be given to the kernel, and a NUL ends what is
        if not isinstance(value, str) or "\0" in value or not (value.isascii() or _is_unicode(value)):
            raise self._wrong(place, value, _TEXT)
        return value

    def _not_integer(self, key: str, bounds: Bounds) -> InvalidArgumentError:
        return self.error(key, f"an integer from {bounds[0]} to {bounds[1]}")

    def _wrong(self, place: str, value: object, expected: str) -> InvalidArgumentError:
        what = "absent" if value is None else _show.repr(value)
        return InvalidArgumentError(f"{self._source}: {self.place(place)} is {what}; it must be {expected}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
