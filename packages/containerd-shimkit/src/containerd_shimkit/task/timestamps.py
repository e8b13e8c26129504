"""`google.protobuf.Timestamp` from and to aware datetimes, in integers: a float would lose the microseconds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

from ..wire import varint_field

__all__ = ["encode_timestamp", "split_timestamp"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


def split_timestamp(moment: datetime) -> tuple[int, int]:
    """The (seconds, nanoseconds) since the epoch of an aware *moment*; nanoseconds are never negative."""
    elapsed: timedelta = moment - _EPOCH
    return elapsed.days * 86_400 + elapsed.seconds, elapsed.microseconds * 1000


def encode_timestamp(moment: datetime) -> bytes:
    """The message's bytes: seconds=1, nanos=2."""
    seconds, nanos = split_timestamp(moment)
    return varint_field(1, seconds) + varint_field(2, nanos)
