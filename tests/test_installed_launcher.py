"""The operator's command beside a containerd: a launcher is put there, a container needs it, and it goes again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import SPINNER
from containerd_shimkit.launcher import build
from harness.containerd import Containerd
from harness.images import NativeImage

IMAGE = "docker.io/library/spinner:test"


@pytest.fixture(scope="module")
def shim_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where containerd looks first; there is nothing yet."""
    return str(tmp_path_factory.mktemp("bin"))


@pytest.fixture
def launcher(shim_directory: str) -> Iterator[Path]:
    """Where the launcher will be."""
    if not os.path.exists(os.path.join(build.DIRECTORY, build.BINARY)):
        pytest.skip("this install of containerd-shimkit has no launcher: no C compiler was there")
    path = Path(shim_directory, "containerd-shim-wasmtime-v1")
    yield path
    path.unlink(missing_ok=True)


def shimkit(*words: object) -> subprocess.CompletedProcess[str]:
    program = os.path.join(os.path.dirname(sys.executable), "containerd-shimkit")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=50, check=False)


def status_of(launcher: Path) -> dict[str, Any]:
    """What `status` shows of the launcher; other people's containerds may run too, and look elsewhere."""
    runtimes = json.loads(shimkit("status", "--json").stdout)
    found: dict[str, Any] = next(each for each in runtimes if each["path"] == str(launcher))
    return found


def about(containerd: Containerd, *lines: str) -> list[str]:
    return [line for line in lines if f"containerd (pid {containerd.pid})" in line]


def test_a_launcher_is_installed_used_and_removed_when_no_container_needs_it(
    containerd: Containerd, leftovers: None, launcher: Path, tmp_path: Path
) -> None:
    NativeImage(IMAGE, {"spin.wasm": SPINNER.bytes}, {}, ["/spin.wasm"]).write(tmp_path / "image.tar")
    containerd.import_image(tmp_path / "image.tar")

    done = shimkit("install", "wasmtime", "--directory", launcher.parent)
    assert (done.returncode, done.stdout.partition(": ")[0]) == (0, f"installed {launcher}"), done.stderr
    assert about(containerd, *done.stderr.splitlines()) == []

    containerd.ctr("run", "--detach", "--runtime", "io.containerd.wasmtime.v1", IMAGE, "spinner")
    assert containerd.tasks()["spinner"].status == "RUNNING"
    status = status_of(launcher)
    assert (status["kind"], status["containers"]) == ("launcher", [f"{containerd.namespace}/spinner"])
    assert status["zygote"] == "alive" or status["other_zygotes"], "who has made the shim?"
    assert [each for each in status["problems"] if "containerd (pid " not in each] == []
    assert about(containerd, *status["problems"]) == []

    uninstall = ("uninstall", "wasmtime", "--directory", launcher.parent)
    done = shimkit(*uninstall)
    assert done.returncode == 1
    assert f"is needed to clean up after 1 container ({containerd.namespace}/spinner)" in done.stderr
    assert launcher.exists()

    containerd.remove_all()
    assert status_of(launcher)["containers"] == []
    done = shimkit(*uninstall)
    assert (done.returncode, done.stdout) == (0, f"removed {launcher}\n"), done.stderr
    assert list(launcher.parent.iterdir()) == []
