"""What users get: wheels that carry what they should, install into a clean environment and work there."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from harness.wheels import LAUNCHER, ROOT, Wheel, install, run, run_unchecked
from packaging.tags import parse_tag
from packaging.utils import parse_wheel_filename

PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
pytestmark = pytest.mark.timeout(300)


def import_name(package: str) -> str:
    return package.replace("-", "_")


@pytest.fixture(scope="module")
def dist(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package of the workspace, built as wheel and source archive."""
    directory = tmp_path_factory.mktemp("dist")
    run([uv, "build", "--quiet", "--all-packages", "--out-dir", str(directory)], cwd=ROOT)
    return directory


@pytest.fixture(scope="module")
def clean_python(uv: str, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with nothing but the wheels and what they require."""
    # outside the workspace, whose settings uv would take
    return install(uv, tmp_path_factory.mktemp("clean") / "venv", *sorted(dist.glob("*.whl")))


@pytest.fixture(scope="module")
def dist_without_archives(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same once more, but each wheel from the checkout; in `dist` it is from the source archive."""
    directory = tmp_path_factory.mktemp("again")
    run([uv, "build", "--quiet", "--all-packages", "--sdist", "--wheel", "--out-dir", str(directory)], cwd=ROOT)
    return directory


def digests(directory: Path) -> dict[str, str]:
    paths = sorted([*directory.glob("*.whl"), *directory.glob("*.tar.gz")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


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
        if path.is_file() and path.suffix != ".pyc" and path.name != LAUNCHER
    }
    assert ours - set(wheel_of(dist, package).names()) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_plain_wheel_is_for_every_machine(dist: Path, package: str) -> None:
    wheel = wheel_of(dist, package)
    assert wheel.tags() == parse_wheel_filename(wheel.path.name)[3] == parse_tag("py3-none-any")
    assert wheel.is_pure()
    assert [name for name in wheel.names() if wheel.read(name).startswith(b"\x7fELF")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_source_archive_holds_what_git_knows_and_nothing_else(dist: Path, package: str) -> None:
    # what is there and neither known nor ignored is in the making: it would be known by the time of a release
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "."]
    listed = subprocess.run(command, cwd=ROOT / "packages" / package, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"git cannot say which files belong here: {listed.stderr}")
    (path,) = dist.glob(f"{import_name(package)}-[0-9]*.tar.gz")
    with tarfile.open(path) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    there = {name for name in listed.stdout.split("\0") if name and (ROOT / "packages" / package / name).is_file()}
    assert held - {"PKG-INFO", ".gitignore"} == there


def test_a_second_build_gives_the_same_bytes_from_the_checkout_and_from_the_source_archive(
    dist: Path, dist_without_archives: Path
) -> None:
    assert len(digests(dist)) == 2 * len(PACKAGES)
    assert digests(dist) == digests(dist_without_archives)


def test_without_a_launcher_install_says_where_one_comes_from(clean_python: Path, tmp_path: Path) -> None:
    command = [str(clean_python.parent / "containerd-shimkit"), "install", "wasmtime", "--directory", str(tmp_path)]
    done = run_unchecked(command, tmp_path)
    assert done.returncode == 1
    assert "has no launcher (it is the pure wheel" in done.stderr
    assert "--compile" in done.stderr
    assert list(tmp_path.iterdir()) == []


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
