from __future__ import annotations

from datetime import datetime, timezone

from containerd_shimkit.task.timestamps import encode_timestamp, split_timestamp
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st


@given(moment=st.datetimes(timezones=st.just(timezone.utc)))
def test_timestamps_equal_protobufs_own(moment: datetime) -> None:
    expected = Timestamp()
    expected.FromDatetime(moment)
    assert split_timestamp(moment) == (expected.seconds, expected.nanos)
    assert Timestamp.FromString(encode_timestamp(moment)) == expected
