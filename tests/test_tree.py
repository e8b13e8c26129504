"""Hygiene of the repository: what every package carries, and what nothing here may name."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from typing_extensions import TypedDict

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))

# In pieces, or this file would name them itself.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("crates", "io"),
        ("npmjs", "org"),
        ("proxy", "golang", "org"),
        ("deb", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("registry-1", "docker", "io"),
    ]
]
MACHINE_PATHS = ["/work" + "/", "/root" + "/.", ".pyenv" + "/versions"]
WRITTEN_BY_TOOLS = ("uv.lock",)  # names the index it was resolved from, as uv's format wants


class ProjectTable(TypedDict, total=False):
    """What the tests read of a pyproject's [project]; keys with a dash are read by name."""

    name: str
    version: str
    dependencies: list[str]


def project(package: Path) -> ProjectTable:
    table: ProjectTable = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return table


VERSIONS = {project(package)["name"]: Version(project(package)["version"]) for package in PACKAGES}


def git_lines(*arguments: str) -> list[str]:
    """Run `git ls-files`; skip where this is no checkout of git, as in an unpacked archive."""
    command = ["git", "ls-files", "-z", *arguments]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot say which files belong here: {getattr(error, 'stderr', error)}")
    return [line for line in listed.stdout.split("\0") if line]


def tracked_text() -> Iterator[tuple[str, str]]:
    """Give every file that git knows and that is text, by its path from the root."""
    for name in git_lines():
        path = ROOT / name
        if name not in WRITTEN_BY_TOOLS and path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode(errors="replace")


def lines_with(pattern: str) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked_text()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_carries_what_its_users_look_for(package: Path) -> None:
    import_name = package.name.replace("-", "_")
    assert project(package)["name"] == package.name
    assert (package / "README.md").read_text().strip()
    assert (package / "CHANGELOG.md").read_text().strip()
    assert (package / "src" / import_name / "py.typed").is_file()
    assert (package / "src" / import_name / "__init__.py").is_file()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_has_a_version_that_its_changelog_knows(package: Path) -> None:
    version = project(package)["version"]
    assert str(Version(version)) == version
    assert re.search(rf"^#+ .*({re.escape(version)}|[Uu]nreleased)", (package / "CHANGELOG.md").read_text(), re.M)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_package_runs_on_the_oldest_python_we_serve(package: Path) -> None:
    text = (package / "pyproject.toml").read_text()
    found = re.search(r'^requires-python = "(.*)"$', text, re.MULTILINE)
    assert found
    bounds = SpecifierSet(found[1])
    assert "3.10" in bounds
    assert "3.9" not in bounds
    assert "3.13" in bounds


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_bounds_between_our_packages_let_in_the_version_here_and_no_breaking_one(package: Path) -> None:
    for text in project(package)["dependencies"]:
        wanted = Requirement(text)
        if wanted.name in VERSIONS:
            version = VERSIONS[wanted.name]
            breaking = f"0.{version.minor + 1}" if version.major == 0 else str(version.major + 1)
            assert version in wanted.specifier, text
            assert Version(breaking) not in wanted.specifier, text


def test_every_package_belongs_to_the_workspace() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(table["tool"]["uv"]["sources"]) == set(VERSIONS)
    assert {Requirement(text).name for text in table["project"]["dependencies"]} == set(VERSIONS)


def test_no_package_registry_is_named() -> None:
    assert lines_with("|".join(map(re.escape, REGISTRY_HOSTS))) == []


def test_no_path_of_one_machine_is_named() -> None:
    assert lines_with(rf"(?<![\w.-])({'|'.join(map(re.escape, MACHINE_PATHS))})") == []


def test_scripts_can_be_executed() -> None:
    modes = {line.split("\t")[1]: line.split()[0] for line in git_lines("--stage", "scripts", ".ci")}
    started_by_name = {name for name in modes if not name.startswith("scripts/lib/")}
    assert {name for name in started_by_name if modes[name] != "100755"} == set()


def test_a_script_that_may_have_to_install_uv_can_install_what_that_needs() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "scripts").iterdir() if path.is_file()}
    installing = {name for name, text in texts.items() if re.search("^ensure_uv$", text, re.MULTILINE)}
    assert {"check", "test"} <= installing
    assert {name for name in installing if "/scripts/lib/debian.sh" not in texts[name]} == set()
