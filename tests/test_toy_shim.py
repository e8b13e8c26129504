"""The documentation's shim for an engine of one's own: a real one, under containerd."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD
from harness.containerd import Containerd
from harness.images import NativeImage

IMAGE = "docker.io/library/toy:test"


@pytest.fixture(scope="module")
def shim_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with the toy's program, as pip's console script would be."""
    directory = tmp_path_factory.mktemp("bin")
    program = directory / "containerd-shim-toy-v1"
    toy = Path(__file__).parent / "toy_shim.py"
    program.write_text(f"#!{sys.executable}\n{toy.read_text()}")
    program.chmod(0o755)
    return str(directory)


@pytest.fixture(autouse=True)
def nothing_left(leftovers: None) -> None:
    return


def test_the_toy_runs_its_guest_inside_a_container(containerd: Containerd, tmp_path: Path) -> None:
    NativeImage(IMAGE, {"app.wasm": HELLO_WORLD.bytes}, {}, ["/app.wasm"]).write(tmp_path / "toy.tar")
    containerd.import_image(tmp_path / "toy.tar")
    done = containerd.ctr(
        "run", "--rm", "--runtime", "io.containerd.toy.v1", IMAGE, "toy", "/app.wasm", "a", "b", check=False
    )
    assert (done.returncode, done.stdout) == (2, f"app has {len(HELLO_WORLD.bytes)} bytes\n"), done
