"""By what the launcher, and Python likewise, executes an interpreter, wherever that is and whatever they may do."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.launcher.block import fill_command
from containerd_shimkit.linux.mounts import MNT_DETACH, mount, umount

_PR_CAPBSET_DROP = 24
_CAP_SYS_ADMIN = 21
_AS_PYTHON = """
import sys
from containerd_shimkit.linux.sealed_program import execute_sealed
execute_sealed([sys.argv[1], "slow path"], {})
"""
COPY = "/memfd:shim (deleted)"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@dataclass(frozen=True, slots=True)
class Report:
    """What the program says of itself."""

    link: str
    refused: int  # errno
    has_seal: bool
    open: int

    @classmethod
    def parse(cls, text: str) -> Report:
        link, *numbers = text.splitlines()
        refused, has_seal, left = map(int, numbers)
        return cls(link, refused, bool(has_seal), left)

    @property
    def is_copy(self) -> bool:
        return self.link == COPY and self.has_seal


Build = Callable[..., Path]
Execute = Callable[..., list[Report]]


@pytest.fixture
def build(compiler: list[str]) -> Build:
    """Compile the program that reports, with a *note* in it."""

    def build(path: Path, note: str = "") -> Path:
        source = Path(__file__).parent / "report.c"
        notes = [f'-DNOTE="{note}"'] if note else []
        subprocess.run([*compiler, "-Wall", "-Werror", *notes, "-o", path, source], check=True, timeout=60)
        return path

    return build


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on a mount of its own."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs")
    yield place
    umount(str(place), MNT_DETACH)


def without_mounts() -> None:
    """In a child: give up the right to make mounts."""
    assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0) == 0


@pytest.fixture(params=["launcher", "python"])
def execute(request: pytest.FixtureRequest, launcher: Any, built: tuple[bytes, Path]) -> Execute:
    """Have the program at a path executed; the reports, of a zygote first where there is one."""

    def by_launcher(path: Path, before: Callable[[], None] | None = None) -> list[Report]:
        launcher.path.write_bytes(fill_command(built[0], [str(path)]))
        slow = _run([str(launcher.path), "slow path", "start"], before)
        (said,) = launcher.directory.glob("*.report")
        return [Report.parse(said.read_text()), slow]

    def by_python(path: Path, before: Callable[[], None] | None = None) -> list[Report]:
        return [_run([sys.executable, "-c", _AS_PYTHON, str(path)], before)]

    return by_launcher if request.param == "launcher" else by_python


def _run(command: list[str], before: Callable[[], None] | None) -> Report:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=before, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    return Report.parse(done.stdout.decode())


def is_on_roots_mount(path: Path) -> bool:
    return path.stat().st_dev == Path("/").stat().st_dev


@needs_root
def test_it_is_on_a_read_only_mount_where_it_has_its_own_path(execute: Execute, build: Build, tmp_path: Path) -> None:
    program = build(tmp_path / "program")
    link = str(program) if is_on_roots_mount(program) else "/"
    for report in execute(program):
        assert report == Report(link, errno.EROFS, False, 0)


@needs_root
def test_a_link_to_it_is_followed(execute: Execute, build: Build, tmp_path: Path) -> None:
    program = build(tmp_path / "program")
    (tmp_path / "absolute").symlink_to(program)
    (tmp_path / "link").symlink_to("absolute")
    for report in execute(tmp_path / "link"):
        assert (report.refused, report.has_seal, report.open) == (errno.EROFS, False, 0)


@needs_root
def test_of_another_mount_it_alone_is_shown(execute: Execute, build: Build, elsewhere: Path) -> None:
    for report in execute(build(elsewhere / "program")):
        assert report == Report("/", errno.EROFS, False, 0)


@needs_root
@pytest.mark.parametrize("note", ["$ORIGIN/../lib", "${ORIGIN}"])
def test_one_that_has_to_know_its_path_is_shown_with_it(
    execute: Execute, build: Build, tmp_path: Path, note: str
) -> None:
    program = build(tmp_path / "program", note)
    if is_on_roots_mount(program):
        for report in execute(program):
            assert (report.link, report.refused) == (str(program), errno.EROFS)


@needs_root
@pytest.mark.parametrize("note", ["$ORIGIN/../lib", "${ORIGIN}"])
def test_and_is_not_sealed_where_it_cannot_be(execute: Execute, build: Build, elsewhere: Path, note: str) -> None:
    program = build(elsewhere / "program", note)
    for report in execute(program):
        assert (report.link, report.refused) == (str(program), errno.ETXTBSY)


@needs_root
def test_without_the_right_to_make_mounts_it_is_a_sealed_copy(execute: Execute, build: Build, tmp_path: Path) -> None:
    for report in execute(build(tmp_path / "program"), without_mounts):
        assert report.is_copy
        assert report.open == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="for users other than root")
def test_another_user_gets_a_sealed_copy(execute: Execute, build: Build, tmp_path: Path) -> None:
    assert all(report.is_copy for report in execute(build(tmp_path / "program")))


def test_a_script_is_executed_as_it_is(execute: Execute, build: Build, tmp_path: Path) -> None:
    program = build(tmp_path / "program")
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    script.chmod(0o755)
    for report in execute(script):
        assert report.link == str(program)
