"""What users get: wheels that carry what they should, install into a clean environment and work there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

BINARY = "containerd-shim-launcher"
ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
pytestmark = pytest.mark.timeout(300)


def import_name(package: str) -> str:
    return package.replace("-", "_")


@pytest.fixture(scope="module")
def uv() -> str:
    """The uv that runs these tests, or the one on PATH."""
    found = os.environ.get("UV") or shutil.which("uv")
    if not found:
        pytest.skip("no uv on PATH: run the tests by scripts/test, which brings it")
    return found


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel, opened for what is asked of it here."""

    path: Path

    def names(self) -> list[str]:
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def dist_info(self, name: str) -> str:
        with zipfile.ZipFile(self.path) as archive:
            return next(archive.read(entry).decode() for entry in self.names() if entry.endswith(f".dist-info/{name}"))

    def metadata(self) -> Message:
        return Parser().parsestr(self.dist_info("METADATA"))


@pytest.fixture(scope="module")
def dist(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package of the workspace, built as wheel and source archive."""
    directory = tmp_path_factory.mktemp("dist")
    run([uv, "build", "--quiet", "--all-packages", "--out-dir", str(directory)], cwd=ROOT)
    return directory


@pytest.fixture(scope="module")
def clean_python(uv: str, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with nothing but the wheels and what they require."""
    directory = tmp_path_factory.mktemp("clean")  # outside the workspace, whose settings uv would take
    run([uv, "venv", "--quiet", "--python", sys.executable, "venv"], cwd=directory)
    python = directory / "venv" / "bin" / "python"
    wheels = [str(wheel) for wheel in sorted(dist.glob("*.whl"))]
    run([uv, "pip", "install", "--quiet", "--python", str(python), *wheels], cwd=directory)
    return python


def run(command: list[str], cwd: Path) -> str:
    """Run outside of any active environment; give stdout. Fails with both outputs."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    finished = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def wheel_of(dist: Path, package: str) -> Wheel:
    (path,) = dist.glob(f"{import_name(package)}-*.whl")
    return Wheel(path)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_built_as_wheel_and_source(dist: Path, package: str) -> None:
    assert wheel_of(dist, package).path.is_file()
    assert len(list(dist.glob(f"{import_name(package)}-[0-9]*.tar.gz"))) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_its_package_typed_and_nothing_beside_it(dist: Path, package: str) -> None:
    names = wheel_of(dist, package).names()
    assert f"{import_name(package)}/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {import_name(package)}
    assert [name for name in names if "/tests/" in name or "__pycache__" in name] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_states_its_license_and_the_pythons_it_runs_on(dist: Path, package: str) -> None:
    metadata = wheel_of(dist, package).metadata()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert str(metadata.get_payload()).strip()  # the README


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_every_file_of_its_package(dist: Path, package: str) -> None:
    source = ROOT / "packages" / package / "src"
    # what a development install compiles in place belongs into the wheels for one machine only
    ours = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != BINARY
    }
    assert ours - set(wheel_of(dist, package).names()) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_from_a_clean_environment(clean_python: Path, package: str) -> None:
    name = import_name(package)
    found = run([str(clean_python), "-I", "-c", f"import {name}; print({name}.__file__)"], clean_python.parent)
    assert Path(found.strip()).is_relative_to(clean_python.parent.parent)


def test_every_module_imports_from_a_clean_environment(clean_python: Path) -> None:
    names = sorted(
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for source in ROOT.glob("packages/*/src")
        for path in source.rglob("*.py")
        if path.name != "__main__.py"
    )
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    run([str(clean_python), "-I", "-W", "error", "-c", script, *names], clean_python.parent)


def test_console_scripts_start_in_a_clean_environment(dist: Path, clean_python: Path) -> None:
    for package in PACKAGES:
        if not any(name.endswith("entry_points.txt") for name in wheel_of(dist, package).names()):
            continue
        declared = ConfigParser(delimiters=("=",))
        declared.read_string(wheel_of(dist, package).dist_info("entry_points.txt"))
        # the other groups are for programs to find objects by
        for name in declared["console_scripts"] if declared.has_section("console_scripts") else ():
            option = "-v" if name.startswith("containerd-shim-") else "--help"
            assert run([str(clean_python.parent / name), option], clean_python.parent)
