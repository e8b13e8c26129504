from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_shim_wasm.cache_entry import EntryName
from containerd_shim_wasm.cache_upkeep import (
    Entry,
    list_entries,
    make_room,
    plan_removal,
    remove,
    sweep,
    try_lock,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_000_000.0
DAY = 86400.0


def name(number: int, key: str = "k1", engine: str = "e") -> EntryName:
    return EntryName(engine, key, f"{number:064x}")


def entry(number: int, size: int, last_used: float, key: str = "k1", engine: str = "e") -> Entry:
    return Entry(name(number, key, engine), (), size, last_used)


def chosen(entries: list[Entry], limit: int, wanted: EntryName | None = None) -> list[int]:
    return [entries.index(each) for each in plan_removal(entries, limit, wanted or name(99), NOW)]


def test_nothing_is_removed_that_need_not_be() -> None:
    entries = [entry(number, 10, NOW - number) for number in range(5)]
    assert chosen(entries, 50) == []
    assert chosen(entries, 49) == [4]
    assert chosen(entries, 31) == [4, 3]
    assert sorted(chosen(entries, 0)) == [0, 1, 2, 3, 4]
    assert plan_removal([], 0, None, NOW) == []


def test_an_engines_old_version_goes_before_anything_else_that_is_used() -> None:
    entries = [
        entry(0, 10, NOW - 9 * DAY),
        entry(1, 10, NOW - 2 * DAY, key="k0"),
        entry(2, 10, NOW - 3 * DAY, key="other", engine="f"),
        entry(3, 10, NOW - 60, key="k2"),  # in use: a shim with other settings, not an old version
        Entry(None, ("v9@x",), 10, NOW - 5 * DAY),
    ]
    assert chosen(entries, 40) == [1]
    assert chosen(entries, 0) == [1, 0, 4, 2, 3]


sizes = st.lists(st.tuples(st.integers(0, 100), st.floats(0, NOW)), max_size=20)


@given(sizes, st.integers(0, 500))
def test_what_is_left_fits_and_no_entry_goes_in_vain(sizes: list[tuple[int, float]], limit: int) -> None:
    entries = [entry(number, size, used) for number, (size, used) in enumerate(sizes)]
    removed = plan_removal(entries, limit, name(99), NOW)
    total = sum(each.size for each in entries)
    assert total - sum(each.size for each in removed) <= limit
    assert total - sum(each.size for each in removed[:-1]) > limit or not removed


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def make(tmp_path: Path, file: str, size: int = 10, used: float = NOW) -> None:
    (tmp_path / file).write_bytes(bytes(size))
    os.utime(tmp_path / file, (used, used))


def test_the_listing_tells_whole_entries_from_what_is_unfinished(tmp_path: Path, directory: int) -> None:
    whole, code, record, writing, locked = (name(number).text for number in range(5))
    make(tmp_path, f"{whole}.code", 100)
    make(tmp_path, f"{whole}.record", 7, NOW - 3)
    make(tmp_path, f"{code}.code")
    make(tmp_path, f"{record}.record")
    make(tmp_path, f"{writing}.code.tmp")
    make(tmp_path, f"{locked}.lock")
    make(tmp_path, "v2@stranger.blob", 5)
    (tmp_path / "directory").mkdir()
    listing = list_entries(directory)
    assert set(listing.unfinished) == {code, record, writing, locked}
    by_name = {each.name: each for each in listing.entries}
    assert by_name[name(0)] == Entry(name(0), (f"{whole}.record", f"{whole}.code"), 107, NOW - 3)
    assert (by_name[None].files, by_name[None].size) == (("v2@stranger.blob",), 5)
    assert len(listing.entries) == 2


def test_what_dead_ones_left_is_swept_and_what_living_ones_make_is_not(tmp_path: Path, directory: int) -> None:
    living, dead, whole = (name(number).text for number in range(3))
    for text in (living, dead):
        make(tmp_path, f"{text}.code.tmp")
        make(tmp_path, f"{text}.code")
    make(tmp_path, f"{dead}.lock")
    for role in ("code", "record", "record.tmp"):
        make(tmp_path, f"{whole}.{role}")
    lock = try_lock(directory, f"{living}.lock")
    assert lock is not None
    sweep(directory, list_entries(directory).unfinished)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{living}.{role}" for role in ("code", "code.tmp", "lock")),
        *(f"{whole}.{role}" for role in ("code", "record")),
    }
    os.close(lock)
    sweep(directory, list_entries(directory).unfinished)
    assert {path.name for path in tmp_path.iterdir()} == {f"{whole}.code", f"{whole}.record"}


def test_room_is_made_without_touching_what_the_caller_makes(tmp_path: Path, directory: int) -> None:
    for number in range(3):
        make(tmp_path, f"{name(number).text}.code", 90, NOW - number)
        make(tmp_path, f"{name(number).text}.record", 10, NOW - number)
    make(tmp_path, f"{name(9).text}.code.tmp")
    make_room(directory, 250, name(9))
    left = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert left == {name(number).text for number in (0, 1, 9)}


def test_a_file_that_is_open_stays_readable_when_it_is_removed(tmp_path: Path, directory: int) -> None:
    make(tmp_path, "f", 1000)
    with open(tmp_path / "f", "rb") as file:
        remove(directory, ("f", "not there"))
        assert not (tmp_path / "f").exists()
        assert len(file.read()) == 1000


def test_a_lock_is_one_holders_until_it_lets_go_whatever_happens_to_its_file(tmp_path: Path, directory: int) -> None:
    first = try_lock(directory, "l")
    assert first is not None
    assert try_lock(directory, "l") is None
    (tmp_path / "l").unlink()  # as its holder does before it lets go
    second = try_lock(directory, "l")
    assert second is not None, "a lock whose file is gone holds nobody up"
    assert try_lock(directory, "l") is None
    os.close(first)
    assert try_lock(directory, "l") is None
    os.close(second)
