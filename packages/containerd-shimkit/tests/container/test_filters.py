"""The node's compiled seccomp filters: each profile is compiled once, and what is wrong with a file is no filter."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from containerd_shimkit import InvalidArgumentError
from containerd_shimkit.container import filters as module
from containerd_shimkit.container.filters import filter_of
from containerd_shimkit.linux.seccomp import LIBRARY, compile_filter
from containerd_shimkit.oci.seccomp import seccomp_of
from containerd_shimkit.shim.reaper import Reaper

pytestmark = pytest.mark.root

try:
    ctypes.CDLL(LIBRARY)
except OSError:
    pytest.skip("there is no libseccomp here", allow_module_level=True)

PROFILE: Mapping[str, object] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["sched_yield"], "action": "SCMP_ACT_ERRNO"}],
}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Path:
    """A directory for them, and a shim that remembers none."""
    if os.geteuid():
        pytest.skip("giving privileges up needs some")
    module._held.clear()
    return tmp_path / "filters"


def ask(profile: Mapping[str, object], directory: Path, times: int = 1) -> set[bytes]:
    async def whole() -> set[bytes]:
        reaper = Reaper.current()
        try:
            return {await filter_of(profile, reaper, str(directory)) for _ in range(times)}
        finally:
            reaper.stop()

    return asyncio.run(whole())


def test_a_profile_gives_its_program(fresh: Path) -> None:
    assert ask(PROFILE, fresh) == {compile_filter(seccomp_of(PROFILE))}
    assert fresh.stat().st_mode & 0o777 == 0o700


def test_who_listens_is_no_part_of_a_program(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = compiles(monkeypatch)
    notified = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    for name in ("a", "b"):
        ask({**PROFILE, "syscalls": [notified], "listenerPath": f"/run/{name}", "listenerMetadata": name}, fresh)
    assert len(asked) == 1
    with pytest.raises(InvalidArgumentError, match=r"linux\.seccomp\.listenerPath is absent"):
        ask({**PROFILE, "syscalls": [notified]}, fresh)


def compiles(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    asked: list[object] = []
    compile_anew = module._compile

    async def noted(profile: Mapping[str, object], reaper: Reaper) -> bytes:
        asked.append(profile)
        return await compile_anew(profile, reaper)

    monkeypatch.setattr(module, "_compile", noted)
    return asked


def test_it_is_compiled_once_for_a_shim_and_once_for_a_node(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = compiles(monkeypatch)
    (first,) = ask(PROFILE, fresh, times=3)
    module._held.clear()  # another shim
    assert ask(PROFILE, fresh) == {first}
    assert len(asked) == 1
    other = {**PROFILE, "defaultAction": "SCMP_ACT_LOG"}
    assert ask(other, fresh) != {first}
    assert len(asked) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "writable", "foreign", "link", "fifo", "open directory"])
def test_a_file_that_could_be_somebody_elses_is_not_used(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    asked = compiles(monkeypatch)
    (program,) = ask(PROFILE, fresh)
    (file,) = fresh.iterdir()
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-8])
    elif damage == "changed":
        file.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "writable":
        file.chmod(0o666)
    elif damage == "foreign":
        os.chown(file, 65534, 65534)
    elif damage == "open directory":
        fresh.chmod(0o777)
    else:
        file.unlink()
        if damage == "link":
            target = fresh.parent / "target"
            target.write_bytes(data)
            file.symlink_to(target)
        else:
            os.mkfifo(file, 0o600)
    module._held.clear()
    assert ask(PROFILE, fresh) == {program}
    assert len(asked) == 2


def test_a_directory_that_cannot_be_written_costs_no_container(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    fresh.write_text("a file in its place")
    assert ask(PROFILE, fresh) == {compile_filter(seccomp_of(PROFILE))}
    assert "cannot be kept" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_what_another_version_has_compiled_is_not_taken(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = compiles(monkeypatch)
    ask(PROFILE, fresh)
    module._held.clear()
    monkeypatch.setattr(module, "_COMPILER", b"another")
    ask(PROFILE, fresh)
    assert len(asked) == 2


def test_without_knowing_the_library_nothing_is_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library_identity", lambda: "")
    assert ask(PROFILE, fresh) == {compile_filter(seccomp_of(PROFILE))}
    assert not fresh.exists()


def test_the_directory_that_zygotes_share_is_made_as_they_want_it(fresh: Path) -> None:
    ask(PROFILE, fresh / "filters")
    assert [each.stat().st_mode & 0o777 for each in (fresh, fresh / "filters")] == [0o700, 0o700]


def test_a_directory_of_others_is_neither_read_nor_written(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    fresh.mkdir(mode=0o777)
    fresh.chmod(0o777)
    ask(PROFILE, fresh)
    assert "not a directory of this user's alone; remove it, or give it mode 0700" in caplog.text
    assert list(fresh.iterdir()) == []


def test_a_profile_that_is_none_leaves_nothing(fresh: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux\.seccomp\.defaultAction"):
        ask({"defaultAction": "x"}, fresh)
    assert not fresh.exists()


def test_profiles_that_are_never_the_same_do_not_fill_the_disk(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    for number in range(8):
        ask({**PROFILE, "number": number}, fresh)
        assert len(list(fresh.iterdir())) <= 3


def test_a_shim_remembers_a_few(fresh: Path) -> None:
    for number in range(12):
        ask({**PROFILE, "number": number}, fresh)
    assert len(module._held) == module._MOST_HELD
