"""The demo program by itself, under wasmtime, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from wasi_demo_app.image import WASM_PATH

FAILED = 134

# argv: program, directory to preopen, the guest's arguments
RUNNER = f"""
import sys
import wasmtime

program, root, *arguments = sys.argv[1:]
config = wasmtime.WasiConfig()
config.argv = ["wasi-demo-app.wasm", *arguments]
config.inherit_stdout(), config.inherit_stderr()
config.preopen_dir(root, "/")
engine = wasmtime.Engine()
store = wasmtime.Store(engine)
store.set_wasi(config)
linker = wasmtime.Linker(engine)
linker.define_wasi()
module = wasmtime.Module(engine, open(program, "rb").read())
try:
    linker.instantiate(store, module).exports(store)["_start"](store)
except wasmtime.ExitTrap as end:
    sys.exit(end.code)
except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
    print(error, file=sys.stderr)
    sys.exit({FAILED})
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """What runs the program, to which its arguments are added."""
    return [sys.executable, "-c", RUNNER, WASM_PATH, str(tmp_path)]


def run(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("words", "stdout"), [(["hello", "big  world"], "hello big  world\n"), ([], "\n")])
def test_echo_prints_its_words(command: list[str], words: list[str], stdout: str) -> None:
    assert run([*command, "echo", *words]) == (0, stdout, "exiting\n")


@pytest.mark.parametrize("status", [0, 1, 42, 125])
def test_exit_ends_with_its_status_and_says_nothing(command: list[str], status: int) -> None:
    assert run([*command, "exit", str(status)]) == (status, "", "")


@pytest.mark.parametrize("status", [126, 255])
def test_exit_hands_on_a_status_that_the_engine_may_refuse(command: list[str], status: int) -> None:
    assert run([*command, "exit", str(status)])[0] in (status, FAILED)


@pytest.mark.parametrize(("seconds", "at_least"), [("0", 0.0), ("0.3", 0.3), (".25", 0.25), ("0.", None), ("1", 1.0)])
def test_sleep_waits(command: list[str], seconds: str, at_least: float | None) -> None:
    if at_least is None:
        assert run([*command, "sleep", seconds])[0] == 1
        return
    started = time.monotonic()
    assert run([*command, "sleep", seconds]) == (0, "", "exiting\n")
    assert time.monotonic() - started >= at_least


def test_write_makes_a_file_of_its_words_without_an_end_of_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something longer that was there before")
    assert run([*command, "write", "/file", "some", "words"]) == (0, "", "exiting\n")
    assert (tmp_path / "file").read_bytes() == b"some words"
    assert run([*command, "write", "empty"]) == (0, "", "exiting\n")
    assert (tmp_path / "empty").read_bytes() == b""


def test_write_names_a_file_that_it_cannot_make(command: list[str]) -> None:
    status, stdout, stderr = run([*command, "write", "/missing/file", "words"])
    assert (status, stdout) == (1, "")
    assert stderr.startswith("/missing/file: ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["dance"], "unknown command: dance"),
        ([""], "unknown command: "),
        (["sleep"], "no argument for sleep"),
        (["sleep", "1", "2"], "too many arguments for sleep"),
        (["sleep", "long"], "not a number of seconds: long"),
        (["sleep", "-1"], "not a number of seconds: -1"),
        (["sleep", "."], "not a number of seconds: ."),
        (["sleep", ""], "not a number of seconds: "),
        (["sleep", "1.5s"], "not a number of seconds: 1.5s"),
        (["sleep", "123456789"], "not a number of seconds: 123456789"),
        (["exit"], "no argument for exit"),
        (["exit", "1", "2"], "too many arguments for exit"),
        (["exit", "256"], "not an exit status from 0 to 255: 256"),
        (["exit", "-1"], "not an exit status from 0 to 255: -1"),
        (["exit", "3x"], "not an exit status from 0 to 255: 3x"),
        (["exit", ""], "not an exit status from 0 to 255: "),
        (["write"], "no file for write"),
        (["daemon", "now"], "too many arguments for daemon"),
    ],
)
def test_a_mistake_is_explained_with_the_usage_and_status_1(
    command: list[str], arguments: list[str], problem: str
) -> None:
    status, stdout, stderr = run([*command, *arguments])
    assert (status, stdout) == (1, "")
    first, second = stderr.splitlines()[:2]
    assert first == problem
    assert second.startswith("usage: wasi-demo-app ")


@pytest.mark.parametrize("arguments", [[], ["daemon"]])
def test_the_daemon_sings_a_verse_a_second(command: list[str], arguments: list[str]) -> None:
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdout
        verses, times = [], []
        for _ in range(2):
            verses.append([guest.stdout.readline() for _ in range(5)])
            times.append(time.monotonic())
        guest.kill()
    assert verses[0] == verses[1]
    assert verses[0][4] == "\n"
    assert all(len(line) > 20 for line in verses[0][:4])
    assert 0.8 < times[1] - times[0] < 5


def test_the_daemon_ends_when_nobody_listens_any_more(command: list[str]) -> None:
    script = '"$@" | head -n 1; echo "${PIPESTATUS[0]}"'
    shown = subprocess.run(
        ["bash", "-c", script, "bash", *command], capture_output=True, text=True, timeout=50, check=False
    )
    assert shown.stdout.splitlines()[1] == "1"
    assert "standard output: " in shown.stderr
