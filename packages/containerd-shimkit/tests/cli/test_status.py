"""`containerd-shimkit status`: what it shows of each runtime, and what it finds wrong."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from containerd_shimkit.cli import status as module
from containerd_shimkit.cli.bundles import Container
from containerd_shimkit.cli.search_path import SearchPath
from containerd_shimkit.cli.status import Environment, ask_environment
from containerd_shimkit.cli.zygotes import Health, Zygote
from containerd_shimkit.errors import NotFoundError
from containerd_shimkit.launcher.block import MARKER, fill_command
from containerd_shimkit.zygote.naming import socket_path

AddContainer = Callable[[str, object], Path]
Status = Callable[..., Result]
CURE = "; run `containerd-shimkit install test` in the environment where the shim is installed"


@pytest.fixture(autouse=True)
def living(monkeypatch: pytest.MonkeyPatch) -> list[Zygote]:
    """The zygotes that there are; a test may add some."""
    found: list[Zygote] = []
    monkeypatch.setattr(module, "zygotes", lambda: found)
    return found


@pytest.fixture(autouse=True)
def default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "default"
    path.mkdir()
    monkeypatch.setattr(module, "DEFAULT_DIRECTORY", str(path))
    return path


@pytest.fixture
def status(run: Callable[..., Result], state: Path) -> Status:
    return lambda *words: run("status", "--state", state, *words)


@pytest.fixture
def shown(status: Status) -> Callable[[], dict[str, Any]]:
    """The one runtime that --json shows."""

    def show() -> dict[str, Any]:
        done = status("--json")
        (runtime,) = json.loads(done.stdout)
        assert done.exit_code == bool(runtime["problems"])
        assert isinstance(runtime, dict)
        return runtime

    return show


Shown = Callable[[], dict[str, Any]]


def test_a_runtime_in_order_shows_what_it_is_and_who_uses_it(
    status: Status, launcher: Path, command: list[str], add_container: AddContainer
) -> None:
    add_container("default/one", launcher)
    add_container("k8s.io/two", launcher)
    add_container("default/other", "/usr/bin/containerd-shim-runc-v2")
    done = status()
    assert done.exit_code == 0
    head, program, runs, *rest = done.output.splitlines()
    assert (head, program) == ("io.containerd.test.v1", f"  program     {launcher} (launcher)")
    assert runs.startswith(f"  runs        {' '.join(command)} (containerd-shimkit ")
    assert rest == ["  zygote      none", "  containers  default/one, k8s.io/two"]


def test_json_shows_the_same(shown: Shown, launcher: Path, command: list[str], add_container: AddContainer) -> None:
    add_container("default/one", launcher)
    runtime = shown()
    assert isinstance(runtime.pop("version"), str)
    assert runtime == {
        "name": "test",
        "path": str(launcher),
        "kind": "launcher",
        "command": command,
        "zygote": None,
        "other_zygotes": 0,
        "containers": ["default/one"],
        "problems": [],
    }


def test_nothing_of_ours_is_said_with_where_it_was_looked_for(
    status: Status, directory: Path, default_directory: Path, search_paths: list[SearchPath]
) -> None:
    (directory / "containerd-shim-runc-v1").write_bytes(b"\x7fELF")  # another's
    (directory / "containerd-shim-link-v1").symlink_to("containerd-shim-runc-v1")
    search_paths[:] = [SearchPath("x", (str(default_directory), str(directory), f"{directory}/.", "/missing"))]
    done = status()
    assert done.exit_code == 1
    assert done.output.startswith(f"no runtime of ours in {default_directory}:{directory}:/missing: ")
    assert json.loads(status("--json").stdout) == []


def test_every_directory_is_looked_in_once(
    status: Status, launcher: Path, default_directory: Path, search_paths: list[SearchPath], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(launcher.parent)
    search_paths[:] = [SearchPath("x", (str(tmp_path / "link"), str(launcher.parent), str(default_directory)))]
    (default_directory / launcher.name).write_bytes(launcher.read_bytes())
    found = json.loads(status("--json").stdout)
    assert [each["path"] for each in found] == [
        str(tmp_path / "link" / launcher.name),
        str(default_directory / launcher.name),
    ]


def test_a_console_script_is_a_runtime_too(shown: Shown, script: Path, search_paths: list[SearchPath]) -> None:
    search_paths[:] = [SearchPath("x", (str(script.parent),))]
    runtime = shown()
    assert (runtime["kind"], runtime["command"]) == ("console script", [sys.executable, "-I", str(script)])
    assert runtime["problems"] == []


# Zygotes and containers.


def test_a_zygote_is_shown_by_whose_it_is(
    status: Status, launcher: Path, command: list[str], living: list[Zygote]
) -> None:
    own = socket_path(command)
    living[:] = [Zygote(own, 1, "test", Health.ALIVE), Zygote("/b", 2, "test", Health.ALIVE)]
    assert "  zygote      alive, 1 in other contexts\n" in status().output
    living[:] = [Zygote(own, 0, "", Health.HANGS), Zygote("/c", 3, "other", Health.ALIVE)]
    assert "  zygote      hangs\n" in status().output


def test_who_may_not_look_at_zygotes_and_containers_sees_the_rest(
    status: Status, launcher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Sequence[str] = ()) -> list[Container]:
        raise PermissionError

    monkeypatch.setattr(module, "zygotes", refuse)
    monkeypatch.setattr(module, "containers", refuse)
    done = status()
    assert done.exit_code == 0
    assert done.output.splitlines()[-2:] == ["  zygote      none", "  containers  only root can tell"]


# What is wrong.


def test_a_problem_is_shown_to_people_too(status: Status, launcher: Path, script: Path) -> None:
    script.unlink()
    done = status()
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == f"  problem     {script} is gone{CURE}"


def test_an_environment_that_has_gone(shown: Shown, launcher: Path, template: bytes) -> None:
    launcher.write_bytes(fill_command(template, ["/missing/python", "-I", "/missing/shim"]))
    runtime = shown()
    assert (runtime["version"], runtime["problems"]) == (None, [f"/missing/python is gone{CURE}"])


def test_a_launcher_of_another_version(shown: Shown, launcher: Path) -> None:
    launcher.write_bytes(launcher.read_bytes().replace(b"sources=", b"sources=0"))
    runtime = shown()
    assert runtime["problems"] == [f"the launcher is not the one of containerd-shimkit {runtime['version']}{CURE}"]


@pytest.mark.parametrize(("count", "said"), [(b"\0", "it was copied, not installed"), (b"\xff", "is damaged")])
def test_a_launcher_without_a_command(shown: Shown, launcher: Path, count: bytes, said: str) -> None:
    launcher.write_bytes(launcher.read_bytes().replace(MARKER + b"\x03", MARKER + count))
    runtime = shown()
    assert runtime["command"] == []
    (problem,) = runtime["problems"]
    assert said in problem
    assert problem.endswith(CURE)


def test_a_program_that_cannot_be_executed(shown: Shown, launcher: Path) -> None:
    launcher.chmod(0o644)
    assert shown()["problems"] == [f"it cannot be executed: chmod 755 {launcher}"]


def test_a_directory_where_containerd_does_not_look(
    shown: Shown, launcher: Path, search_paths: list[SearchPath]
) -> None:
    search_paths.append(SearchPath("containerd (pid 2)", ("/missing",)))
    assert shown()["problems"] == ["containerd (pid 2) does not look there"]


def test_another_program_that_comes_first(
    shown: Shown, launcher: Path, search_paths: list[SearchPath], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier" / launcher.name
    earlier.parent.mkdir()
    earlier.write_text("#!/bin/sh\n")
    earlier.chmod(0o755)
    search_paths[:] = [SearchPath("containerd (pid 2)", (str(earlier.parent), str(launcher.parent)))]
    assert shown()["problems"] == [f"containerd (pid 2) finds {earlier} first and executes that"]


def test_a_link_to_it_that_comes_first_is_no_problem(
    shown: Shown, launcher: Path, search_paths: list[SearchPath], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier" / launcher.name
    earlier.parent.mkdir()
    earlier.symlink_to(launcher)
    search_paths[:] = [SearchPath("containerd (pid 2)", (str(earlier.parent), str(launcher.parent)))]
    assert shown()["problems"] == []


# What an environment says of itself.


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], str]:
    """A program in the place of an interpreter."""

    def make(text: str) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_this_environment_is_in_order() -> None:
    found = ask_environment(sys.executable)
    assert isinstance(found, Environment), found
    assert len(found.sources) == 16


def test_the_operators_variables_and_directory_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert isinstance(ask_environment(sys.executable), Environment)


def test_what_start_up_files_print_is_not_taken_for_an_answer(python: Callable[[str], str]) -> None:
    assert ask_environment(python('echo hello; echo \'["1.0", "abc"]\'')) == Environment("1.0", "abc")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo first >&2; echo no module >&2; exit 1", "has no working containerd-shimkit: no module"),
        ("pwd >&2; exit 1", "has no working containerd-shimkit: /"),
        ("exit 1", "has no working containerd-shimkit: "),
        ("echo hello", "has no working containerd-shimkit: it said 'hello\\n'"),
    ],
)
def test_an_environment_that_does_not_work_says_why(python: Callable[[str], str], text: str, said: str) -> None:
    found = ask_environment(python(text))
    assert isinstance(found, NotFoundError)
    assert str(found).endswith(said)


def test_an_environment_that_hangs_is_not_waited_for(
    python: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASK_TIMEOUT", 0.2)
    path = python("exec sleep 60")
    found = ask_environment(path)
    assert isinstance(found, NotFoundError)
    assert str(found) == f"{path} did not answer within 0.2 s"


def test_an_interpreter_that_may_not_be_executed_says_so(python: Callable[[str], str]) -> None:
    path = python("")
    os.chmod(path, 0o644)
    found = ask_environment(path)
    assert isinstance(found, NotFoundError)
    assert str(found) == f"{path} cannot be run: Permission denied"
