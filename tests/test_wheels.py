"""scripts/build-wheels: what it makes is what it says, for the machines that it says, and works where it is installed.

With ziglang in the environment that tests are run in (scripts/test), for the script takes it from uv's cache then.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from containerd_shimkit.launcher.block import is_launcher, machine_of, read_command, read_sources
from containerd_shimkit.launcher.build import MACHINES, sources_digest
from harness.wheels import LAUNCHER, LAUNCHER_PATH, ROOT, Wheel, add_bare_shim, install, run, run_unchecked
from packaging.tags import sys_tags
from packaging.utils import parse_sdist_filename, parse_wheel_filename

SCRIPT = str(ROOT / "scripts" / "build-wheels")
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
PT_DYNAMIC, PT_INTERP = 2, 3  # elf.h
EPOCH = "1700000000"
needs_zig = pytest.mark.wasm_build
pytestmark = pytest.mark.timeout(300)  # the first build at a place compiles a C library


@dataclass(frozen=True, slots=True)
class Build:
    """What one run has made and printed."""

    directory: Path
    output: str

    def wheel(self, machine: str) -> Wheel:
        (path,) = self.directory.glob(f"containerd_shimkit-*{machine}.whl")
        return Wheel(path)


def build(directory: Path, umask: int) -> Build:
    command = ["bash", "-c", f'umask {umask:03o} && exec "$0" "$1"', SCRIPT, str(directory)]
    return Build(directory, run(command, ROOT, SOURCE_DATE_EPOCH=EPOCH))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang in this environment: scripts/test brings it")
    return build(tmp_path_factory.mktemp("dist"), 0o022)


@pytest.fixture(scope="module")
def environment(uv: str, built: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with this machine's wheel, what that requires, and pip."""
    machine = platform.machine()
    if machine not in MACHINES:
        pytest.skip(f"there is no wheel with a launcher for {machine}")
    return install(uv, tmp_path_factory.mktemp("installed") / "venv", built.wheel(machine).path, "pip")


def program_headers(elf: bytes) -> Iterator[int]:
    """Give the types of the program headers of a little-endian file of 64 bits. Source: elf(5)."""
    assert elf[:6] == b"\x7fELF\x02\x01"
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<2H", elf, 54)
    for number in range(count):
        yield struct.unpack_from("<I", elf, offset + number * size)[0]


# What is built.


@needs_zig
def test_everything_is_built_and_listed_with_its_digest(built: Build) -> None:
    listed = {name: digest for digest, name in (line.split("  ") for line in built.output.splitlines())}
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in built.directory.iterdir()}
    assert listed == there
    archives = sorted(parse_sdist_filename(name)[0] for name in there if name.endswith(".tar.gz"))
    wheels = sorted(parse_wheel_filename(name)[0] for name in there if name.endswith(".whl"))
    assert archives == PACKAGES
    assert wheels == sorted([*PACKAGES, *("containerd-shimkit" for _ in MACHINES)])


@needs_zig
def test_a_second_run_makes_the_same_bytes(built: Build, tmp_path: Path) -> None:
    assert build(tmp_path / "made" / "by it", 0o077).output == built.output


@needs_zig
def test_the_files_inside_have_the_date_that_is_wanted(built: Build) -> None:
    for path in built.directory.glob("*.whl"):
        assert {entry.date_time for entry in Wheel(path).entries()} == {(2023, 11, 14, 22, 13, 20)}


@needs_zig
def test_a_build_that_fails_says_why_and_leaves_what_was_there(built: Build, copy: str, tmp_path: Path) -> None:
    tree, out = Path(copy).parent.parent, tmp_path / "out"
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "packages", tree / "packages", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (tree / ".cache").symlink_to(ROOT / ".cache")  # the tools that `built` has had installed
    (tree / "packages" / PACKAGES[1] / "README.md").unlink()
    out.mkdir()
    (out / "earlier.whl").touch()
    done = ask(copy, str(out), cwd=tmp_path, SOURCE_DATE_EPOCH=EPOCH)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Readme file does not exist: README.md" in done.stderr
    assert done.stderr.endswith(f"error: not built: packages/{PACKAGES[1]}\n")
    assert [path.name for path in out.iterdir()] == ["earlier.whl"]


# A wheel for one machine.


@needs_zig
@pytest.mark.parametrize("machine", MACHINES)
def test_the_tags_are_those_of_the_machine_inside_and_outside(built: Build, machine: str) -> None:
    wheel = built.wheel(machine)
    assert {str(tag) for tag in wheel.tags()} == {
        f"py3-none-manylinux_2_17_{machine}",
        f"py3-none-musllinux_1_1_{machine}",
    }
    assert wheel.tags() == parse_wheel_filename(wheel.path.name)[3]
    assert not wheel.is_pure()
    assert bool(wheel.tags() & set(sys_tags())) == (platform.machine() == machine), "who may install it"


@needs_zig
@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_inside_is_for_the_machine_and_needs_nothing_of_its_system(built: Build, machine: str) -> None:
    wheel = built.wheel(machine)
    assert [name for name in wheel.names() if wheel.read(name).startswith(b"\x7fELF")] == [LAUNCHER_PATH]
    program = wheel.read(LAUNCHER_PATH)
    assert machine_of(program) == machine
    assert not {PT_INTERP, PT_DYNAMIC} & set(program_headers(program)), "a loader, or libraries that it would load"
    assert is_launcher(program)
    assert read_command(program) == ()
    assert read_sources(program) == sources_digest()
    assert os.fsencode(ROOT) not in program


@needs_zig
@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_alone_can_be_executed(built: Build, machine: str) -> None:
    modes = {entry.filename: entry.external_attr >> 16 for entry in built.wheel(machine).entries()}
    assert modes.pop(LAUNCHER_PATH) == stat.S_IFREG | 0o755
    assert {stat.S_IMODE(mode) for mode in modes.values()} == {0o644}


@needs_zig
@pytest.mark.parametrize("machine", MACHINES)
def test_but_for_the_program_and_its_tags_it_is_the_pure_wheel(built: Build, machine: str) -> None:
    wheel, pure = built.wheel(machine), built.wheel("any")
    assert set(wheel.names()) - set(pure.names()) == {LAUNCHER_PATH}
    differing = {name for name in pure.names() if wheel.read(name) != pure.read(name)}
    assert {name.rpartition("/")[2] for name in differing} == {"WHEEL", "RECORD"}


# Installed.


@needs_zig
@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_an_installer_keeps_the_program_executable(
    built: Build, environment: Path, uv: str, installer: str, tmp_path: Path
) -> None:
    wheel = built.wheel(platform.machine())
    command = [uv, "pip", "install", "--python"] if installer == "uv" else []
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel.path)]
    run([*command, str(environment), *([] if command else ["-m", "pip", "install"]), *options], tmp_path)
    installed = tmp_path / LAUNCHER_PATH
    assert installed.read_bytes() == wheel.read(LAUNCHER_PATH)
    assert stat.S_IMODE(installed.stat().st_mode) & 0o111 == 0o111
    done = run_unchecked([str(installed)], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{LAUNCHER}: not installed: run containerd-shimkit install NAME\n"


@needs_zig
def test_the_launcher_of_an_installed_wheel_runs_the_shim_beside_it(environment: Path, tmp_path: Path) -> None:
    name, program = add_bare_shim(environment), tmp_path / "containerd-shim-bare-v1"
    command = [str(environment.with_name("containerd-shimkit")), "install", name, "--directory", str(tmp_path)]
    assert f"installed {program}: it runs {environment} -I " in run(command, tmp_path)
    assert run(command, tmp_path) == f"{program} is installed already\n"
    assert read_command(program.read_bytes()) == (str(environment), "-I", str(environment.with_name(program.name)))
    assert re.search(r"Version: 0\.\S+ by [0-9]+\n", run([str(program), "-v"], tmp_path))


# What it says. Nothing is built.


def ask(script: str, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_unchecked([script, *arguments], cwd, **variables)


@pytest.fixture
def copy(tmp_path: Path) -> str:
    """The script in a tree of its own, without anything to build and without git."""
    shutil.copytree(ROOT / "scripts", tmp_path / "tree" / "scripts")
    return str(tmp_path / "tree" / "scripts" / "build-wheels")


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_is_its_usage(argument: str, tmp_path: Path) -> None:
    done = ask(SCRIPT, argument, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: scripts/build-wheels [DIRECTORY]\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--all"], "unknown argument: --all"),
        (["one", "two"], "one DIRECTORY at most, not 2: one two"),
        ([""], "the name of DIRECTORY is empty"),
    ],
)
def test_what_it_does_not_understand_is_named(arguments: list[str], reason: str, tmp_path: Path) -> None:
    done = ask(SCRIPT, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {reason}\nusage: scripts/build-wheels")
    assert list(tmp_path.iterdir()) == []


def test_without_a_commit_the_date_has_to_be_given(copy: str, tmp_path: Path) -> None:
    # git looks no further up than here, wherever temporary files are
    done = ask(copy, str(tmp_path / "out"), cwd=tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no commit to take the date from: set SOURCE_DATE_EPOCH to the seconds since 1970\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("epoch", ["yesterday", "-1", "99999999999"])
def test_a_date_that_is_none_is_named(epoch: str, tmp_path: Path) -> None:
    done = ask(SCRIPT, str(tmp_path / "out"), cwd=tmp_path, SOURCE_DATE_EPOCH=epoch)
    assert done.returncode == 1
    assert done.stderr == f"error: SOURCE_DATE_EPOCH is no number of seconds since 1970: '{epoch}'\n"
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = ask(SCRIPT, "file/dist", cwd=tmp_path, SOURCE_DATE_EPOCH=EPOCH)
    assert done.returncode == 1
    assert done.stderr == f"error: no directory that can be written to: {tmp_path}/file/dist\n"
