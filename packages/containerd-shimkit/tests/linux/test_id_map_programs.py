from __future__ import annotations

import os
from pathlib import Path

import pytest
from containerd_shimkit import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError
from containerd_shimkit.linux import id_map_programs
from containerd_shimkit.linux.id_map_programs import needs_programs, write_id_maps_by_programs
from containerd_shimkit.linux.programs import run_program

OWN = [(0, 1000, 1)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of a directory, and a user 1000."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    return tmp_path


def put(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("uids", "gids", "expected"),
    [
        (OWN, OWN, False),
        ([(7, 1000, 1)], OWN, False),
        ([(0, 1001, 1)], OWN, True),
        (OWN, [(0, 1000, 2)], True),
        ([*OWN, (1, 2000, 5)], OWN, True),
    ],
)
@pytest.mark.usefixtures("programs")
def test_ones_own_id_needs_no_help(
    uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]], expected: bool
) -> None:
    assert needs_programs(uids, gids) is expected


def test_root_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not needs_programs([(0, 5, 9)], [(0, 5, 9)])


def test_both_are_called_with_every_range(programs: Path) -> None:
    for name in ("newuidmap", "newgidmap"):
        put(programs / name, f'echo "$0 $*" >>{programs}/log')
    write_id_maps_by_programs(12, [(0, 1000, 1), (1, 2000, 5)], [(0, 1000, 1)])
    assert (programs / "log").read_text().splitlines() == [
        f"{programs}/newgidmap 12 0 1000 1",
        f"{programs}/newuidmap 12 0 1000 1 1 2000 5",
    ]


def test_one_that_refuses_is_quoted_with_the_field(programs: Path) -> None:
    put(programs / "newgidmap", "exit 0")
    put(programs / "newuidmap", "echo not allowed >&2; exit 1")
    with pytest.raises(InvalidArgumentError, match=r"linux\.uidMappings .* user 1000: not allowed; .*/etc/subuid"):
        write_id_maps_by_programs(12, [(0, 1, 1)], [(0, 1, 1)])


@pytest.mark.usefixtures("programs")
def test_one_that_is_missing_is_named_with_its_package() -> None:
    with pytest.raises(FailedPreconditionError, match=r"linux\.gidMappings .* newgidmap is needed.*Debian: uidmap"):
        write_id_maps_by_programs(12, [(0, 1, 1)], [(0, 1, 1)])


def test_one_that_hangs_is_killed(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(programs / "newgidmap", "exec /bin/sleep 60")
    monkeypatch.setattr(id_map_programs, "_TIMEOUT", 0.05)
    with pytest.raises(DeadlineExceededError, match=r"the program newgidmap did not end within 0\.05 s"):
        write_id_maps_by_programs(12, [(0, 1, 1)], [(0, 1, 1)])


def test_a_program_gets_path_alone_and_its_words_come_back(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    put(programs / "tell", '/usr/bin/env | /bin/grep -v -e ^PWD -e ^_ -e ^SHLVL; echo "$1" >&2; exit 3')
    assert run_program(["tell", "a b"], "the program", 10) == (3, f"PATH={programs}\na b")
