"""scripts/build-wasm: the committed binaries are what their sources give, and it says which are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = "packages/containerd-shim-wasm-test-modules/src/containerd_shim_wasm_test_modules/modules"
DEMO = "packages/wasi-demo-app/src/wasi_demo_app/wasm"
NO_COMPILER = 3


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A workspace of one text and one C program, with the script."""
    for directory in ("scripts", MODULES, DEMO):
        (tmp_path / directory).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/build-wasm", tmp_path / "scripts")
    shutil.copy(ROOT / MODULES / "exit_code.wat", tmp_path / MODULES)
    shutil.copy(ROOT / DEMO / "wasi-demo-app.c", tmp_path / DEMO)
    return tmp_path


def build(root: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts/build-wasm"), *options]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=240
    )


def test_it_builds_what_is_missing_and_finds_it_the_same(tree: Path) -> None:
    assert build(tree, "--only-text").returncode == 0
    assert (tree / MODULES / "exit_code.wasm").read_bytes() == (ROOT / MODULES / "exit_code.wasm").read_bytes()
    assert build(tree, "--check", "--only-text").returncode == 0


@pytest.mark.parametrize("content", [None, b"", b"\0asm\x01\0\0\0"])
def test_a_binary_that_differs_or_is_missing_is_named_and_left_alone(tree: Path, content: bytes | None) -> None:
    binary = tree / MODULES / "exit_code.wasm"
    if content is not None:
        binary.write_bytes(content)
    done = build(tree, "--check", "--only-text")
    assert done.returncode == 1
    assert f"{MODULES}/exit_code.wasm" in done.stderr
    assert (binary.read_bytes() if binary.exists() else None) == content


def test_a_text_with_a_mistake_is_named_with_its_line(tree: Path) -> None:
    (tree / MODULES / "exit_code.wat").write_text("(module\n  (nonsense))")
    done = build(tree, "--only-text")
    assert done.returncode == 1
    assert f"{MODULES}/exit_code.wat" in done.stderr
    assert ":2:" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_compiler_it_says_where_one_comes_from(tree: Path) -> None:
    broken = tree / "broken" / "ziglang"
    broken.mkdir(parents=True)
    (broken / "__init__.py").touch()  # without it, a real one further down the path would win
    (broken / "__main__.py").write_text("raise SystemExit('no zig here')")
    (tree / "uv").write_text("#!/bin/sh\nexit 1\n")
    (tree / "uv").chmod(0o755)
    done = build(tree, UV=str(tree / "uv"), PYTHONPATH=str(broken.parent))
    assert done.returncode == NO_COMPILER
    assert "no zig here" in done.stderr
    assert "pip install ziglang==" in done.stderr
    assert not (tree / DEMO / "wasi-demo-app.wasm").exists()


def test_without_wasmtime_it_says_how_to_have_it(tree: Path) -> None:
    (tree / "broken").mkdir()
    (tree / "broken" / "wasmtime.py").write_text("raise ImportError")
    done = build(tree, "--check", "--only-text", PYTHONPATH=str(tree / "broken"))
    assert done.returncode == NO_COMPILER
    assert "uv run scripts/build-wasm" in done.stderr


def test_a_binary_that_cannot_be_written_leaves_the_old_one(tree: Path) -> None:
    binary = tree / MODULES / "exit_code.wasm"
    binary.write_bytes(b"old")
    script = f"ulimit -f 0; {sys.executable} {tree}/scripts/build-wasm --only-text"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert binary.read_bytes() == b"old"
    assert {path.name for path in binary.parent.iterdir()} == {"exit_code.wat", "exit_code.wasm"}


@pytest.mark.wasm_build
@pytest.mark.timeout(300)
def test_the_committed_binaries_are_what_their_sources_give() -> None:
    done = build(ROOT, "--check")
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.wasm_build
@pytest.mark.timeout(300)
def test_a_build_in_another_place_gives_the_same_bytes(tree: Path) -> None:
    done = build(tree)
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert (tree / DEMO / "wasi-demo-app.wasm").read_bytes() == (ROOT / DEMO / "wasi-demo-app.wasm").read_bytes()
    assert {path.name for path in (tree / DEMO).iterdir()} == {"wasi-demo-app.c", "wasi-demo-app.wasm"}
