"""`containerd-shimkit install`: what it puts there, what it replaces, and what it leaves alone."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from containerd_shimkit.cli import install as module
from containerd_shimkit.cli.search_path import SearchPath
from containerd_shimkit.launcher import build
from containerd_shimkit.launcher.block import MARKER, fill_command, is_launcher, read_command

Install = Callable[..., Result]
PackageManager = Callable[[str, Path], None]


@pytest.fixture
def install(run: Callable[..., Result], built: Path, script: Path, directory: Path) -> Install:
    return lambda *words: run("install", "--directory", directory, *(words or ("test",)))


def lines(result: Result) -> list[str]:
    return result.output.splitlines()


def refusal(result: Result) -> str:
    """The one line of a command that has done nothing."""
    assert result.exit_code == 1, result.output
    (line,) = lines(result)
    assert line.startswith("error: test: ")
    return line


def identity(path: Path) -> tuple[int, int]:
    """What changes with the file or anything of it, but not when it is read."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns


def test_the_launcher_for_the_shim_is_there_and_nothing_else(
    install: Install, directory: Path, command: list[str]
) -> None:
    done = install()
    (path,) = directory.iterdir()
    assert (done.exit_code, lines(done)) == (0, [f"installed {path}: it runs {' '.join(command)}"])
    assert path.name == "containerd-shim-test-v1"
    assert read_command(path.read_bytes()) == tuple(command)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_again_changes_nothing(install: Install, launcher: Path) -> None:
    before = identity(launcher)
    done = install()
    assert (done.exit_code, lines(done)) == (0, [f"{launcher} is installed already"])
    assert identity(launcher) == before


def test_again_mends_the_mode(install: Install, launcher: Path) -> None:
    launcher.chmod(0o644)
    assert install().exit_code == 0
    assert stat.S_IMODE(launcher.stat().st_mode) == 0o755


@pytest.mark.parametrize("names", [("python3",), ()], ids=["the script's own", "this one"])
def test_the_interpreter_is_the_one_that_the_script_names_if_it_is_of_this_environment(
    install: Install, script: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    for name in ("python", *names):
        (script.parent / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(script.parent / "python"))
    script.write_text(f"#!{script.parent / names[0] if names else os.path.realpath(sys.executable)}\n")
    assert install().exit_code == 0
    (path,) = directory.iterdir()
    assert read_command(path.read_bytes())[0] == str(script.parent / (names or ("python",))[0])


# Replacing.


def test_another_launcher_is_replaced_as_a_whole(
    install: Install, launcher: Path, template: bytes, command: list[str], tmp_path: Path
) -> None:
    old = fill_command(template, ["/old/python", "-I", "/old/shim"])
    launcher.write_bytes(old)
    (tmp_path / "running").hardlink_to(launcher)  # as containerd may be executing it
    done = install()
    assert lines(done) == [
        f"replaced {launcher}, which ran /old/python -I /old/shim: it runs {' '.join(command)}",
    ]
    assert (tmp_path / "running").read_bytes() == old
    assert read_command(launcher.read_bytes()) == tuple(command)
    assert list(launcher.parent.iterdir()) == [launcher]


def test_a_launcher_built_from_older_sources_is_replaced(install: Install, launcher: Path, command: list[str]) -> None:
    new = launcher.read_bytes()
    launcher.write_bytes(new.replace(b"sources=", b"sources=0"))
    assert lines(install()) == [f"replaced {launcher}: it runs {' '.join(command)}"]
    assert launcher.read_bytes() == new


def test_a_damaged_launcher_is_replaced(install: Install, launcher: Path, command: list[str]) -> None:
    good = launcher.read_bytes()
    launcher.write_bytes(good.replace(MARKER + b"\x03", MARKER + b"\xff"))
    assert lines(install()) == [f"replaced {launcher}: it runs {' '.join(command)}"]
    assert launcher.read_bytes() == good


def test_a_full_disk_leaves_the_old_launcher(
    install: Install, launcher: Path, template: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fill_command(template, ["/old/python"])
    launcher.write_bytes(old)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert refusal(install()) == f"error: test: {launcher.parent}: No space left on device"
    assert launcher.read_bytes() == old
    assert list(launcher.parent.iterdir()) == [launcher]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"#!/usr/bin/python3\n", "a console script, as pip makes them"),
        (b"#!/bin/sh\n'''exec' '/a long/path/python' \"$0\" \"$@\"\n", "a console script, as pip makes them"),
        (b"#!/bin/sh\n", "no launcher of ours"),
        (b"\x7fELF" + bytes(5000), "no launcher of ours"),
        (b"", "no launcher of ours"),
    ],
)
def test_a_file_that_is_no_launcher_is_left_alone(install: Install, directory: Path, content: bytes, what: str) -> None:
    path = directory / "containerd-shim-test-v1"
    path.write_bytes(content)
    before = identity(path)
    assert refusal(install()).startswith(f"error: test: {path} is {what}; it is left alone: ")
    assert (identity(path), path.read_bytes()) == (before, content)


def test_a_link_is_left_alone_even_to_a_launcher(install: Install, launcher: Path) -> None:
    target = launcher.rename(launcher.with_name("elsewhere"))
    launcher.symlink_to(target)
    assert f"{launcher} is a link to {target}; it is left alone" in refusal(install())
    assert launcher.is_symlink()


def test_a_directory_is_left_alone(install: Install, directory: Path) -> None:
    (directory / "containerd-shim-test-v1").mkdir()
    assert "is no launcher of ours; it is left alone" in refusal(install())


def test_a_launcher_of_the_distributions_is_left_alone(
    install: Install, launcher: Path, template: bytes, package_manager: PackageManager
) -> None:
    theirs = fill_command(template, ["/usr/bin/python3"])
    launcher.write_bytes(theirs)
    package_manager("dpkg", launcher)
    assert f"belongs to a package of the distribution (dpkg: theirs: {launcher})" in refusal(install())
    assert launcher.read_bytes() == theirs


def test_the_owner_of_what_is_left_alone_is_named(
    install: Install, directory: Path, package_manager: PackageManager
) -> None:
    path = directory / "containerd-shim-test-v1"
    path.write_bytes(b"\x7fELF, another's")
    package_manager("rpm", path)
    assert f"no launcher of ours (rpm: theirs: {path})" in refusal(install())


def test_who_has_been_faster_stays(install: Install, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "containerd-shim-test-v1"
    monkeypatch.setattr(module, "check_command", lambda command: path.write_text("faster"))
    assert refusal(install()) == f"error: test: {path} has just been made by somebody else; it is left alone"
    assert path.read_text() == "faster"
    assert list(directory.iterdir()) == [path]


# What is missing, or not in order.


def test_an_unknown_name_is_told_which_there_are(install: Install, script: Path, directory: Path) -> None:
    script.with_name("containerd-shim-other-v1").touch()
    done = install("tset")
    assert done.exit_code == 1
    assert "no program containerd-shim-tset-v1 in " in done.output
    assert "pip install containerd-shim-tset" in done.output
    there = done.output.partition("(there are: ")[2].partition(")")[0].split(", ")
    assert {"other", "test"} <= set(there)
    assert list(directory.iterdir()) == []


def test_a_script_that_cannot_be_executed_is_none(install: Install, script: Path) -> None:
    script.chmod(0o644)
    assert "no program containerd-shim-test-v1 in " in refusal(install())


def test_an_environment_without_any_shim_says_so(
    install: Install, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.unlink()
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    assert "(there is no shim at all)" in refusal(install())


@pytest.mark.parametrize("name", ["", "../x", "-x", "a b", "wasm.time"])
def test_what_can_be_no_name_is_refused(install: Install, name: str) -> None:
    done = install("--", name)
    assert done.exit_code == 2
    assert f"{name!r} is not the NAME in io.containerd.NAME.v1" in done.output


def test_one_of_several_that_fails_does_not_keep_the_others(install: Install, directory: Path) -> None:
    done = install("missing", "test")
    assert done.exit_code == 1
    assert [line.split()[0] for line in lines(done)] == ["error:", "installed"]
    assert [path.name for path in directory.iterdir()] == ["containerd-shim-test-v1"]


def test_a_directory_that_is_not_there_is_not_made(install: Install, tmp_path: Path) -> None:
    line = refusal(install("test", "--directory", tmp_path / "missing"))
    assert line.endswith(f"{tmp_path}/missing is no directory; make it, or give another --directory")
    assert not (tmp_path / "missing").exists()


def test_a_directory_that_cannot_be_written_to_is_named_with_the_cure(install: Install) -> None:
    # root cannot make a file in sysfs either
    line = refusal(install("test", "--directory", "/sys"))
    assert line.startswith("error: test: /sys: ")
    assert line.endswith("; run this as root, or give another --directory")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('first\\nno library')", "ended with 1: no library"),
        ("print('only this'); raise SystemExit(3)", "ended with 3: only this"),
        ("raise SystemExit(4)", "ended with 4: no word"),
    ],
)
def test_a_shim_that_does_not_run_is_not_installed(
    install: Install, script: Path, directory: Path, code: str, said: str
) -> None:
    script.write_text(f"#!{sys.executable}\n{code}\n")
    assert f"-I {script} -v {said}" in refusal(install())
    assert list(directory.iterdir()) == []


def test_a_shim_that_hangs_is_not_installed(
    install: Install, script: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBE_TIMEOUT", 0.2)
    script.write_text("import time; time.sleep(60)")
    assert f"-I {script} -v did not end within 0.2 s" in refusal(install())
    assert list(directory.iterdir()) == []


def test_a_pure_wheel_says_how_to_come_by_a_launcher(install: Install, built: Path, directory: Path) -> None:
    built.unlink()
    line = refusal(install())
    assert "has no launcher (it is the pure wheel, or no C compiler was there)" in line
    assert "--compile" in line
    assert f"have containerd find {os.path.dirname(sys.executable)}" in line
    assert list(directory.iterdir()) == []


def test_a_launcher_of_another_layout_is_not_installed(install: Install, built: Path) -> None:
    built.write_bytes(built.read_bytes().replace(MARKER, MARKER.replace(b"\x01", b"\x02")))
    assert f"({built} is none of this version)" in refusal(install())


def test_a_launcher_for_another_machine_is_not_installed(install: Install, built: Path) -> None:
    machine, other = os.uname().machine, {"x86_64": b"\xb7\0", "aarch64": b"\x3e\0"}[os.uname().machine]
    built.write_bytes(built.read_bytes()[:18] + other + built.read_bytes()[20:])
    assert f", this machine is {machine})" in refusal(install())


def test_a_launcher_can_be_compiled_here(install: Install, built: Path, directory: Path, command: list[str]) -> None:
    if build.find_compiler() is None:
        pytest.skip("no C compiler (cc, gcc or clang) on PATH")
    built.unlink()
    assert install("test", "--compile").exit_code == 0
    (path,) = directory.iterdir()
    assert is_launcher(path.read_bytes())
    assert read_command(path.read_bytes()) == tuple(command)
    assert lines(install("test", "--compile")) == [f"{path} is installed already"]


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("", "no C compiler (cc, gcc, clang) on PATH"),
        ("/bin/false", "failed in"),
        ("/missing/cc", "cannot be executed"),
    ],
)
def test_a_compiler_that_makes_none_is_named(
    install: Install, directory: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, said: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("PATH", "/missing")
    done = install("test", "--compile")
    assert done.exit_code == 1
    assert done.output.startswith("error: test: ")
    assert said in done.output
    assert list(directory.iterdir()) == []


# Whether containerd would execute it.


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Another directory with another program of that name."""
    path = tmp_path / "earlier" / "containerd-shim-test-v1"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_directory_where_containerd_does_not_look_is_warned_of(
    install: Install, directory: Path, search_paths: list[SearchPath]
) -> None:
    search_paths.append(SearchPath("containerd (pid 2)", ("/usr/sbin", "/usr/bin")))
    done = install()
    assert done.exit_code == 0
    (warning,) = lines(done)[1:]
    assert warning.startswith(f"warning: containerd (pid 2) does not look in {directory} but in /usr/sbin:/usr/bin: ")
    assert f"name {directory}/containerd-shim-test-v1 as the runtime's path" in warning


def test_another_program_that_comes_first_is_warned_of(
    install: Install, directory: Path, search_paths: list[SearchPath], earlier: Path
) -> None:
    search_paths[:] = [SearchPath("containerd (pid 2)", (str(earlier.parent), str(directory)))]
    done = install()
    assert done.exit_code == 0
    (warning,) = lines(done)[1:]
    assert warning.startswith(f"warning: containerd (pid 2) finds {earlier} first and executes that")


@pytest.mark.parametrize("obstacle", ["later", "not executable", "same directory"])
def test_what_is_not_in_the_way_is_not_warned_of(
    install: Install, directory: Path, search_paths: list[SearchPath], earlier: Path, obstacle: str
) -> None:
    directories = [str(earlier.parent), str(directory)]
    if obstacle == "later":
        directories.reverse()
    elif obstacle == "not executable":
        earlier.chmod(0o644)
    else:
        directories[0] = str(directory.parent / "link")
        os.symlink(directory, directories[0])
    search_paths[:] = [SearchPath("containerd (pid 2)", tuple(directories))]
    assert [line.split()[0] for line in lines(install())] == ["installed"]


def refuse_links(source: str, target: str) -> None:
    raise OSError(errno.EPERM, "Operation not permitted", source, None, target)


def test_a_file_system_without_hard_links_will_do(
    install: Install, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    assert install().exit_code == 0
    assert [each.name for each in directory.iterdir()] == ["containerd-shim-test-v1"]


def test_there_too_who_has_been_faster_stays(
    install: Install, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "containerd-shim-test-v1"
    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(module, "check_command", lambda command: path.write_text("faster"))
    assert refusal(install()) == f"error: test: {path} has just been made by somebody else; it is left alone"
    assert path.read_text() == "faster"
