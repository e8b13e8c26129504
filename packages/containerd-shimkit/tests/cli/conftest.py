"""An environment with a shim in it, a directory where containerd looks, a small file that passes for a launcher."""

from __future__ import annotations

import os
import struct
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from containerd_shimkit.cli import install, status
from containerd_shimkit.cli.main import main
from containerd_shimkit.cli.search_path import SearchPath
from containerd_shimkit.launcher import build
from containerd_shimkit.launcher.block import MARKER, SIZE, fill_command

_MACHINES = {"x86_64": 62, "aarch64": 183}  # elf.h


@pytest.fixture
def run() -> Callable[..., Result]:
    """The command, as an operator types it; what it does not catch fails the test."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def template() -> bytes:
    """What is_launcher takes for a launcher of this machine that has not been filled in; it does not run."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        pytest.skip(f"no launcher is made for {os.uname().machine}")
    header = b"\x7fELF\x02\x01" + bytes(12) + struct.pack("<H", machine)
    return header + MARKER.ljust(SIZE, b"\0") + f"launcher sources={build.sources_digest()}\0".encode()


@pytest.fixture
def built(template: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The launcher of this install, as a wheel for this machine brings it."""
    directory = tmp_path / "package"
    directory.mkdir()
    monkeypatch.setattr(build, "DIRECTORY", str(directory))
    path = directory / build.BINARY
    path.write_bytes(template)
    return path


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The console script of a shim called test, where pip puts those of this environment."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(scripts) if name == "scripts" else None)
    path = scripts / "containerd-shim-test-v1"
    claim = "(sys.argv[1:], sys.flags.isolated, os.getcwd()) == (['-v'], 1, '/')"  # as the launcher would run it
    path.write_text(f"#!{sys.executable}\nimport os, sys\nassert {claim}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def command(script: Path) -> list[str]:
    """What a launcher of the shim executes."""
    return [sys.executable, "-I", str(script)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where containerd looks for shims."""
    path = tmp_path / "bin"
    path.mkdir()
    return path


@pytest.fixture
def launcher(directory: Path, template: bytes, command: list[str]) -> Path:
    """The launcher of the shim, as `install` leaves it."""
    path = directory / "containerd-shim-test-v1"
    path.write_bytes(fill_command(template, command))
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def search_paths(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[SearchPath]:
    """Those of the containerds that run; a test may change the list."""
    found = [SearchPath("containerd (pid 1)", (str(directory),))]
    monkeypatch.setattr(install, "containerd_search_paths", lambda: found)
    monkeypatch.setattr(status, "containerd_search_paths", lambda: found)
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory of containerd, with no container yet."""
    return tmp_path / "state"


@pytest.fixture
def add_container(state: Path) -> Callable[[str, object], Path]:
    """Give containerd the bundle of a container NAMESPACE/ID that a program was started for."""

    def add(name: str, program: object) -> Path:
        bundle = state / "io.containerd.runtime.v2.task" / name
        bundle.mkdir(parents=True)
        (bundle / "shim-binary-path").write_bytes(os.fsencode(str(program)))
        return bundle

    return add


@pytest.fixture
def package_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Have a dpkg or rpm first on PATH that knows one file, as belonging to the package "theirs"."""

    def make(name: str, owned: Path) -> None:
        directory = tmp_path / "packages"
        directory.mkdir(exist_ok=True)
        program = directory / name
        program.write_text(f'#!/bin/sh\n[ "$2" = "{owned}" ] || exit 1\necho "theirs: $2"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    return make
