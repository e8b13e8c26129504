"""`containerd-shimkit uninstall`: what it removes, and what and whom it spares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from containerd_shimkit.cli import uninstall as module
from containerd_shimkit.cli.bundles import Container
from containerd_shimkit.launcher.block import MARKER

Uninstall = Callable[..., Result]
AddContainer = Callable[[str, object], Path]


@pytest.fixture
def uninstall(run: Callable[..., Result], directory: Path, state: Path) -> Uninstall:
    return lambda *words: run("uninstall", "--directory", directory, "--state", state, *(words or ("test",)))


def refusal(result: Result) -> str:
    """The one line of a command that has done nothing."""
    assert result.exit_code == 1, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: test: ")
    return line


def test_a_launcher_is_removed_and_nothing_else(uninstall: Uninstall, launcher: Path, script: Path) -> None:
    launcher.with_name("containerd-shim-other-v1").write_bytes(launcher.read_bytes())
    done = uninstall()
    assert (done.exit_code, done.output) == (0, f"removed {launcher}\n")
    assert [path.name for path in launcher.parent.iterdir()] == ["containerd-shim-other-v1"]
    assert script.exists()


def test_a_damaged_launcher_is_ours_still(uninstall: Uninstall, launcher: Path) -> None:
    launcher.write_bytes(launcher.read_bytes().replace(MARKER + b"\x03", MARKER + b"\xff"))
    assert uninstall().exit_code == 0
    assert not launcher.exists()


def test_what_is_not_there_is_no_failure(uninstall: Uninstall, directory: Path) -> None:
    done = uninstall()
    assert (done.exit_code, done.output) == (0, f"{directory}/containerd-shim-test-v1 is not there\n")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"#!/usr/bin/python3\n", "a console script"),
        (b"#!/bin/sh\n", "another program"),
        (b"\x7fELF" + bytes(5000), "another program"),
    ],
)
def test_a_file_that_is_no_launcher_stays(uninstall: Uninstall, directory: Path, content: bytes, what: str) -> None:
    path = directory / "containerd-shim-test-v1"
    path.write_bytes(content)
    assert f"{path} is no launcher but {what}; it is left alone" in refusal(uninstall())
    assert path.read_bytes() == content


def test_a_link_stays_even_to_a_launcher(uninstall: Uninstall, launcher: Path) -> None:
    target = launcher.rename(launcher.with_name("elsewhere"))
    launcher.symlink_to(target)
    assert "it is left alone" in refusal(uninstall())
    assert launcher.is_symlink()
    assert target.exists()


def test_a_launcher_of_the_distributions_stays(
    uninstall: Uninstall, launcher: Path, package_manager: Callable[[str, Path], None]
) -> None:
    package_manager("dpkg", launcher)
    assert f"belongs to a package of the distribution (dpkg: theirs: {launcher})" in refusal(
        uninstall("--force", "test")
    )
    assert launcher.exists()


def test_one_of_several_that_fails_does_not_keep_the_others(uninstall: Uninstall, launcher: Path) -> None:
    launcher.with_name("containerd-shim-other-v1").write_text("#!/bin/sh\n")
    done = uninstall("other", "test")
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.output.splitlines()] == ["error:", "removed"]
    assert not launcher.exists()


# Containers that need it.


def test_a_launcher_that_a_container_needs_stays(
    uninstall: Uninstall, launcher: Path, add_container: AddContainer
) -> None:
    bundle = add_container("k8s.io/one", launcher)
    line = refusal(uninstall())
    assert line.endswith(
        f"{launcher} is needed to clean up after 1 container (k8s.io/one); end them first, or give --force"
    )
    assert launcher.exists()
    os.rename(bundle, bundle.parent.parent.parent / "gone")  # as when the container is deleted
    assert uninstall().exit_code == 0
    assert not launcher.exists()


def test_a_message_names_five_of_many(uninstall: Uninstall, launcher: Path, add_container: AddContainer) -> None:
    for number in range(7):
        add_container(f"default/c{number}", launcher)
    assert "7 containers (default/c0, default/c1, default/c2, default/c3, default/c4 and 2 more)" in refusal(
        uninstall()
    )


def test_containers_of_other_programs_keep_nothing(
    uninstall: Uninstall, launcher: Path, add_container: AddContainer, script: Path
) -> None:
    add_container("default/runc", "/usr/bin/containerd-shim-runc-v2")
    add_container("default/slow", script)  # of this shim, but by another program of that name
    assert uninstall().exit_code == 0
    assert not launcher.exists()


def test_force_removes_what_is_needed_and_says_for_whom(
    uninstall: Uninstall, launcher: Path, add_container: AddContainer
) -> None:
    add_container("default/one", launcher)
    done = uninstall("test", "--force")
    assert (done.exit_code, done.output) == (
        0,
        f"removed {launcher}, which 1 container (default/one) still needed\n",
    )
    assert not launcher.exists()


def test_who_may_not_see_the_containers_removes_nothing(
    uninstall: Uninstall, launcher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def containers(states: Sequence[str]) -> list[Container]:
        raise PermissionError(13, "Permission denied", f"{states[0]}/tasks")

    monkeypatch.setattr(module, "containers", containers)
    assert refusal(uninstall()).endswith("/tasks: Permission denied; run this as root")
    assert launcher.exists()
