"""The command itself: its own commands, and those that other packages add, well or badly."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import Result
from containerd_shimkit.cli import main as module

Run = Callable[..., Result]


@click.command("hello")
def hello() -> None:
    """Greet."""
    click.echo("hello")


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have packages add these commands, each by its name and what loading it gives or raises."""

    def install(*commands: tuple[str, object]) -> None:
        points = [EntryPoint(name, f"module{number}:x", module.GROUP) for number, (name, _) in enumerate(commands)]
        found = {point.value: what for point, (_, what) in zip(points, commands, strict=True)}

        def load(point: EntryPoint) -> object:
            what = found[point.value]
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr(EntryPoint, "load", load)
        monkeypatch.setattr(module, "entry_points", lambda group: points if group == module.GROUP else [])

    return install


def test_a_packages_command_stands_beside_our_own(run: Run, add: Callable[..., None]) -> None:
    add(("hello", hello))
    assert run("hello").output == "hello\n"
    listed = run("--help").output.partition("Commands:")[2].split("\n")
    assert [line.split()[0] for line in listed if line] == ["hello", "install", "status", "uninstall"]


def test_no_package_takes_the_place_of_our_commands(run: Run, add: Callable[..., None]) -> None:
    add(("install", hello))
    assert "NAME..." in run("install", "--help").output


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (ImportError("no libx"), "ImportError: no libx (module0:x)"),
        (ZeroDivisionError("at import"), "ZeroDivisionError: at import (module0:x)"),
        ("text", "module0:x is no click.Command but str (module0:x)"),
    ],
)
def test_a_command_that_cannot_be_loaded_is_named_and_spoils_nothing(
    run: Run, add: Callable[..., None], broken: object, said: str
) -> None:
    add(("bad", broken), ("hello", hello))
    assert "(cannot be loaded: run it to see why)" in run("--help").output
    done = run("bad", "--with", "its own words")
    assert (done.exit_code, done.output) == (1, f"Error: the command bad cannot be loaded: {said}\n")
    assert run("hello").exit_code == 0


def test_a_name_that_two_packages_want_is_nobodys(run: Run, add: Callable[..., None]) -> None:
    add(("hello", hello), ("hello", hello))
    done = run("hello")
    assert done.exit_code == 1
    assert "more than one package has it: module0:x, module1:x" in done.output


def test_a_word_that_is_no_command_is_refused(run: Run, add: Callable[..., None]) -> None:
    add()
    assert run("unistall").exit_code == 2


def test_nothing_that_containerd_waits_for_imports_the_command() -> None:
    code = "import containerd_shimkit.shim.bootstrap, sys; print([each for each in sys.modules if 'click' in each])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
