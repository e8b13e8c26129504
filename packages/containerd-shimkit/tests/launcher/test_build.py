"""Compiling the launcher."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from containerd_shimkit.launcher import build
from containerd_shimkit.launcher.block import is_launcher, machine_of, read_command, read_sources


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The C sources, in a directory of the test's own."""
    directory = tmp_path / "sources"
    directory.mkdir()
    for path in Path(build.DIRECTORY).glob("*.[ch]"):
        shutil.copy(path, directory)
    return directory


def test_what_is_compiled_is_an_empty_launcher_for_this_machine(compiler: list[str], tmp_path: Path) -> None:
    output = tmp_path / "launcher"
    build.compile_launcher(compiler, str(output))
    data = output.read_bytes()
    assert is_launcher(data)
    assert read_command(data) == ()
    assert read_sources(data) == build.sources_digest()
    assert machine_of(data) == os.uname().machine
    assert stat.S_IMODE(output.stat().st_mode) == 0o755
    assert b".interp" not in data  # static: no dynamic loader


def test_a_build_is_current_until_a_source_changes(compiler: list[str], sources: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "launcher")
    assert not build.is_built_from(output, str(sources))
    build.compile_launcher(compiler, output, str(sources))
    assert build.is_built_from(output, str(sources))
    with (sources / "reply.h").open("a") as file:
        file.write("\n")
    assert not build.is_built_from(output, str(sources))


def test_every_source_counts(sources: Path) -> None:
    digests = {build.sources_digest(str(sources))}
    files = sorted(sources.iterdir())
    for path in files:
        path.write_bytes(path.read_bytes() + b"\n")
        digests.add(build.sources_digest(str(sources)))
    assert len(digests) == len(files) + 1


def test_a_mistake_is_told_and_leaves_the_old_file(compiler: list[str], sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "launcher"
    output.write_text("old")
    (sources / "reply.c").write_text("nonsense")
    with pytest.raises(build.CompileError, match=r"reply\.c:1"):
        build.compile_launcher(compiler, str(output), str(sources))
    assert output.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"launcher", "sources"}


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(build.CompileError, match="/nonexistent/cc cannot be executed: No such file"):
        build.compile_launcher(["/nonexistent/cc"], str(tmp_path / "launcher"))


def test_the_compiler_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "ccache gcc -pipe")
    assert build.find_compiler() == ["ccache", "gcc", "-pipe"]
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.find_compiler() is None
    (tmp_path / "clang").touch(mode=0o755)
    assert build.find_compiler() == [str(tmp_path / "clang")]


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(build.CompileError, match="machine 'riscv64': it is one of x86_64, aarch64"):
        build.zig("riscv64")
