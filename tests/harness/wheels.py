"""Wheels and environments as users have them: built and installed by uv, outside of any that is active."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

from packaging.tags import Tag, parse_tag

ROOT = Path(__file__).parent.parent.parent
LAUNCHER = "containerd-shim-launcher"  # the program in containerd-shimkit's wheels for one machine
LAUNCHER_PATH = f"containerd_shimkit/launcher/{LAUNCHER}"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel, opened for what is asked of it here."""

    path: Path

    def entries(self) -> list[zipfile.ZipInfo]:
        with zipfile.ZipFile(self.path) as archive:
            return archive.infolist()

    def names(self) -> list[str]:
        return [entry.filename for entry in self.entries()]

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)

    def dist_info(self, name: str) -> str:
        return next(self.read(entry).decode() for entry in self.names() if entry.endswith(f".dist-info/{name}"))

    def metadata(self) -> Message:
        return Parser().parsestr(self.dist_info("METADATA"))

    def is_pure(self) -> bool:
        """What the wheel says of itself."""
        return {"true": True, "false": False}[Parser().parsestr(self.dist_info("WHEEL"))["Root-Is-Purelib"]]

    def tags(self) -> frozenset[Tag]:
        """What the file inside says that the wheel is for; one tag a line."""
        lines = Parser().parsestr(self.dist_info("WHEEL")).get_all("Tag", [])
        return frozenset(tag for line in lines for tag in parse_tag(line))


def run(command: Sequence[str], cwd: Path, **variables: str) -> str:
    """Run outside of any active environment; give stdout. Fails with both outputs."""
    finished = run_unchecked(command, cwd, **variables)
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def run_unchecked(command: Sequence[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run outside of any active environment, whatever comes of it."""
    theirs = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "SOURCE_DATE_EPOCH")
    environment = {name: value for name, value in os.environ.items() if name not in theirs}
    return subprocess.run(
        command, cwd=cwd, env={**environment, **variables}, capture_output=True, text=True, check=False
    )


def install(uv: str, directory: Path, *wheels: Path | str) -> Path:
    """Make an environment of *wheels* and what they require in *directory*; give its Python."""
    run([uv, "venv", "--quiet", "--python", sys.executable, str(directory)], cwd=directory.parent)
    python = directory / "bin" / "python"
    run([uv, "pip", "install", "--quiet", "--python", str(python), *map(str, wheels)], cwd=directory)
    return python


def add_bare_shim(python: Path) -> str:
    """Put tests/bare_shim.py beside *python*, as pip puts a console script there; its NAME in io.containerd.NAME.v1."""
    program = python.with_name("containerd-shim-bare-v1")
    program.write_text(f"#!{python}\n{(ROOT / 'tests' / 'bare_shim.py').read_text()}")
    program.chmod(0o755)
    return "bare"
