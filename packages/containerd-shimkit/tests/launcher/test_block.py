"""The block in a launcher's file."""

from __future__ import annotations

import os
import struct

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.launcher.block import (
    MARKER,
    MAX_WORDS,
    SIZE,
    fill_command,
    is_launcher,
    machine_of,
    read_command,
    read_sources,
)
from hypothesis import given
from hypothesis import strategies as st

BEFORE = b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\0" + b"code" * 9
EMPTY = BEFORE + MARKER.ljust(SIZE, b"\0") + b"launcher sources=0123456789abcdef\0" + b"more" * 9
ROOM = SIZE - len(MARKER) - 4

words = st.binary(max_size=200).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
commands = st.lists(words, max_size=MAX_WORDS - 1).map(lambda rest: ["/python", *rest])


@given(command=commands, other=commands)
def test_a_command_is_read_as_it_was_filled_in_whatever_was_there_before(command: list[str], other: list[str]) -> None:
    filled = fill_command(EMPTY, command)
    assert read_command(filled) == tuple(command)
    assert fill_command(fill_command(EMPTY, other), command) == filled
    assert len(filled) == len(EMPTY)
    assert filled.startswith(BEFORE)
    assert filled[len(BEFORE) + SIZE :] == EMPTY[len(BEFORE) + SIZE :]


def test_an_empty_block_has_no_command() -> None:
    assert is_launcher(EMPTY)
    assert read_command(EMPTY) == ()


def test_the_longest_command_fits_and_a_longer_one_does_not() -> None:
    longest = "/" + "x" * (ROOM - 2)
    assert read_command(fill_command(EMPTY, [longest])) == (longest,)
    with pytest.raises(InvalidArgumentError, match=f"{ROOM + 1} bytes, {ROOM} fit: install the shim at a shorter path"):
        fill_command(EMPTY, [longest + "x"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "begins with an absolute path"),
        (["python"], "begins with an absolute path, not with"),
        (["/x"] * (MAX_WORDS + 1), f"has {MAX_WORDS + 1} words: {MAX_WORDS} fit"),
        (["/x", "a\0b"], "a NUL in a word"),
    ],
)
def test_what_does_not_fit_is_named(command: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        fill_command(EMPTY, command)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!/bin/sh\n" + MARKER.ljust(SIZE), "not an ELF file"),
        (BEFORE, "0 markers in it"),
        (EMPTY + MARKER, "2 markers in it"),
        (BEFORE + MARKER, "of another version"),
        (EMPTY.replace(b"launcher: \x01", b"launcher: \x02"), "0 markers in it"),
        (b"", "not an ELF file"),
    ],
)
def test_what_is_no_launcher_is_neither_read_nor_filled(data: bytes, message: str) -> None:
    assert not is_launcher(data)
    with pytest.raises(InvalidArgumentError, match=message):
        read_command(data)
    with pytest.raises(InvalidArgumentError, match=message):
        fill_command(data, ["/x"])


@pytest.mark.parametrize("count", [17, 0xFFFFFFFF])
def test_a_count_that_cannot_be_is_damage(count: int) -> None:
    start = len(BEFORE) + len(MARKER)
    damaged = EMPTY[:start] + struct.pack("<I", count) + EMPTY[start + 4 :]
    with pytest.raises(InvalidArgumentError, match=f"is damaged: {count} words"):
        read_command(damaged)


def test_the_sources_are_named_behind_the_block() -> None:
    assert read_sources(EMPTY) == "0123456789abcdef"
    assert read_sources(EMPTY.replace(b"sources=", b"nothing=")) == ""


@pytest.mark.parametrize(
    ("data", "machine"),
    [
        (EMPTY, "x86_64"),
        (EMPTY[:18] + b"\xb7\0" + EMPTY[20:], "aarch64"),
        (EMPTY[:18] + b"\xf3\0" + EMPTY[20:], "machine number 243"),
        (b"\x7fELF", "no ELF file"),
        (b"#!" + bytes(30), "no ELF file"),
    ],
)
def test_the_machine_is_the_one_of_the_file(data: bytes, machine: str) -> None:
    assert machine_of(data) == machine
