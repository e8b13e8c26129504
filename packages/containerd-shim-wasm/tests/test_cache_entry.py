from __future__ import annotations

import pytest
from containerd_shim_wasm import InvalidArgumentError
from containerd_shim_wasm.cache_entry import EntryName, Record, decode_record, parse_name
from containerd_shim_wasm.digests import FileIdentity
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "0123456789abcdef" * 4
NAME = EntryName("wasmtime", "wasmtime-50.0.1-x86_64", DIGEST)
RECORD = Record(NAME, bytes(range(32)), 25_000, bytes(16), FileIdentity(1, 2, 3, 4, 5))

names = st.builds(
    EntryName,
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,31}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,119}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
unsigned = st.integers(0, 2**64 - 1)
signed = st.integers(-(2**63), 2**63 - 1)
records = st.builds(
    Record,
    names,
    st.binary(min_size=32, max_size=32),
    unsigned,
    st.binary(min_size=16, max_size=16),
    st.builds(FileIdentity, unsigned, unsigned, unsigned, signed, signed),
)


@given(names)
def test_a_name_is_a_files_name_that_leads_back_to_it(name: EntryName) -> None:
    assert parse_name(name.text) == name
    assert "/" not in name.text
    assert len(name.text + ".record.tmp") <= 255


@pytest.mark.parametrize(
    ("engine", "key", "digest"),
    [
        ("", "k", DIGEST),
        ("../x", "k", DIGEST),
        ("e@f", "k", DIGEST),
        ("e", "", DIGEST),
        ("e", "a/b", DIGEST),
        ("e", "a@b", DIGEST),
        ("e", "-k", DIGEST),
        ("e", "k\n", DIGEST),
        ("e", "k" * 121, DIGEST),
        ("e", "k", DIGEST[:-1]),
        ("e", "k", DIGEST.upper()),
        ("e", "k", f"sha256:{DIGEST}"),
    ],
)
def test_what_would_not_be_one_name_is_refused(engine: str, key: str, digest: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be part of a name in the compile cache"):
        EntryName(engine, key, digest)
    assert parse_name(f"v1@{engine}@{key}@{digest}") is None


@pytest.mark.parametrize(
    "text", ["", "v1", f"v2@e@k@{DIGEST}", f"v1@e@k@{DIGEST}@", f"e@k@{DIGEST}", f"v1@e@k@{DIGEST}.code"]
)
def test_another_versions_files_are_not_taken_for_entries(text: str) -> None:
    assert parse_name(text) is None


@given(records)
def test_a_record_reads_as_it_was_written(record: Record) -> None:
    assert decode_record(record.encode()) == record
    assert len(record.encode()) < 1024


def test_the_version_byte_is_the_ninth() -> None:
    data = bytearray(RECORD.encode())
    assert data[:9] == b"SHIMCODE\x01"
    data[8] = 2
    with pytest.raises(ValueError, match=r"begins b'SHIMCODE\\x02', not version 1"):
        decode_record(bytes(data))


@given(st.integers(0, len(RECORD.encode()) - 1))
def test_a_record_cut_anywhere_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a record"):
        decode_record(RECORD.encode()[:size])


@given(st.binary(max_size=400))
def test_what_is_no_record_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(ValueError, match="a record"):
        decode_record(data)
    with pytest.raises(ValueError, match="a record whose names are damaged"):
        decode_record(RECORD.encode()[:-64] + b"@" + data)
