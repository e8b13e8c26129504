"""`wasi-demo-app` on the command line: its own part as anybody, the guest's as root through the installed shim."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasi_demo_app import WASM_PATH

DEMO = os.path.join(os.path.dirname(sys.executable), "wasi-demo-app")
SHIM = os.path.join(os.path.dirname(sys.executable), "containerd-shim-wasmtime-v1")


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([DEMO, *arguments], capture_output=True, text=True, timeout=50, check=False)
    return done.returncode, done.stdout, done.stderr


def found_in_run() -> set[str]:
    return {entry.name for entry in Path("/run").iterdir() if entry.name.startswith("shim-")}


def living_shims(directories: set[str]) -> list[bytes]:
    """The command lines of processes that were started for one of *directories*."""
    lines: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return [line for line in lines if any(name.encode() in line for name in directories)]


@pytest.fixture
def root_and_shim() -> Iterator[None]:
    """What a run needs; afterwards no directory in /run, and no cgroup of ours, may be there that was not before."""
    if os.geteuid() != 0:
        pytest.skip(f"a container needs root, this is uid {os.geteuid()}")
    if shutil.which(SHIM) is None:
        pytest.skip(f"{SHIM} is not installed")

    def left() -> set[str]:
        groups = {path for path, _, _ in os.walk("/sys/fs/cgroup") if "wasi-demo-app-" in path}
        return found_in_run() | groups

    before = left()
    yield
    deadline = time.monotonic() + 5  # somebody else's demo may end meanwhile
    while not (after := left()) <= before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert after <= before


def test_help_and_version_tell_what_there_is() -> None:
    status, stdout, _ = run("--help")
    assert status == 0
    assert "--write-image" in stdout
    assert "sleep SECONDS" in stdout
    assert run("-h")[1] == stdout
    assert "0.1.0" in run("--version")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bogus", "echo"), "--bogus"),
        (("--engine", "../sh", "echo"), "engine '../sh' is malformed"),
        (("--engine", "", "echo"), "the engine is empty"),
        (("--image-name", "x", "echo"), "give --write-image"),
        (("--write-image", "x.tar", "echo", "hi"), "leave out 'echo hi'"),
        (("--write-image", "x.tar", "--image-name", "NO"), "'NO' is not an image's name"),
    ],
)
def test_a_wrong_use_is_explained_with_status_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, "")
    assert message in " ".join(stderr.split())
    assert not list(tmp_path.iterdir())


def test_an_unknown_shim_is_named_with_what_installs_it() -> None:
    status, stdout, stderr = run("--engine", "nonesuch", "echo")
    assert (status, stdout) == (1, "")
    assert "containerd-shim-nonesuch-v1 is installed neither" in stderr
    assert "pip install containerd-shim-nonesuch" in stderr


def test_an_ordinary_user_is_told_which_setting_denies_it() -> None:
    if shutil.which(SHIM) is None:
        pytest.skip(f"{SHIM} is not installed")
    # root becomes somebody else only after the imports: the interpreter may be in a home that is closed to others
    script = """
import os
from containerd_shimkit.linux import user_namespaces
from wasi_demo_app.cli import main

setting = "/proc/sys/user/max_user_namespaces"  # as if it were 0
user_namespaces._SETTINGS = ((setting, open(setting, encoding="ascii").read().strip(), "more"),)
os.getuid() or os.setuid(65534)
main()
"""
    done = subprocess.run([sys.executable, "-c", script, "echo"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot run a container: without root that takes a user namespace" in done.stderr
    assert "the host's setting user.max_user_namespaces is" in done.stderr
    assert "or use sudo" in done.stderr


def test_the_image_is_written_without_root_or_shim(tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.tar"
    status, stdout, stderr = run("--write-image", str(path), "--image-name", "acme/demo:v1")
    assert (status, stdout) == (0, "")
    assert stderr == f"wrote {path}: load it by `ctr image import --all-platforms {path}`\n"
    assert b"acme/demo:v1" in path.read_bytes()


@pytest.mark.parametrize(("path", "reason"), [("/dev/full", "No space left"), ("/proc/nowhere/x.tar", "No such file")])
def test_an_image_that_cannot_be_written_is_named_with_the_reason(path: str, reason: str) -> None:
    status, _, stderr = run("--write-image", path)
    assert status == 1
    assert f"{path} was not written: {reason}" in stderr
    assert "Traceback" not in stderr


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
@pytest.mark.parametrize(
    ("arguments", "status", "stdout", "stderr"),
    [
        (("echo", "hello", "big  world"), 0, "hello big  world\n", "exiting\n"),
        (("exit", "42"), 42, "", ""),
        (("exit", "0"), 0, "", ""),
        (("sleep", "0.2"), 0, "", "exiting\n"),
        (("write", "/file", "words"), 0, "", "exiting\n"),
        (("--", "echo", "--help"), 0, "--help\n", "exiting\n"),
        (("echo", "--debug"), 0, "--debug\n", "exiting\n"),
    ],
)
def test_output_and_status_are_those_of_the_guest(
    arguments: tuple[str, ...], status: int, stdout: str, stderr: str
) -> None:
    assert run(*arguments) == (status, stdout, stderr)


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
def test_a_mistake_in_the_guests_arguments_is_the_guests_to_explain() -> None:
    status, stdout, stderr = run("dance")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("unknown command: dance\nusage: wasi-demo-app ")


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
def test_debug_shows_the_shims_log() -> None:
    status, stdout, stderr = run("--debug", "echo", "hi")
    assert (status, stdout) == (0, "hi\n")
    assert "level=info" in stderr


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_a_signal_ends_the_singing_guest_and_leaves_nothing(number: int, status: int) -> None:
    before = found_in_run()
    with subprocess.Popen([DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        assert demo.stderr
        assert demo.stdout.readline()
        ours = found_in_run() - before
        assert living_shims(ours)
        demo.send_signal(number)
        assert demo.wait(20) == status
        assert demo.stderr.read() == ""
    deadline = time.monotonic() + 5
    while living_shims(ours) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not living_shims(ours)


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
@pytest.mark.parametrize("delay", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_a_signal_at_any_moment_leaves_nothing(delay: float) -> None:
    with subprocess.Popen([DEMO, "daemon"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as demo:
        time.sleep(delay)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(20) in (143, -signal.SIGTERM)  # the latter before there was anything to leave
        assert demo.stderr
        assert "Traceback" not in demo.stderr.read()


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
def test_the_guest_ends_when_nobody_listens_any_more() -> None:
    script = f'{DEMO} | head -n 1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout.splitlines()[1] == "141"
    assert done.stderr == ""


@pytest.mark.root
@pytest.mark.usefixtures("root_and_shim")
def test_output_that_cannot_be_written_is_an_error_that_names_it() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [DEMO, "echo", "hi"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=50, check=False
        )
    assert done.returncode == 1
    assert "No space left on device: 'standard output'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_is_in_the_package() -> None:
    assert Path(WASM_PATH).read_bytes().startswith(b"\0asm\x01\0\0\0")
