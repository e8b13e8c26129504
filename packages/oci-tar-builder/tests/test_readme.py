"""The README: its example runs, and every public name is in it."""

from __future__ import annotations

import re
from pathlib import Path

import oci_tar_builder
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_makes_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("app.wasm").write_bytes(b"\0asm\x01\0\0\0")
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    exec(example[1], {})
    assert Path("demo.tar").stat().st_size > 0


def test_every_public_name_is_documented() -> None:
    builder = [f".{name}" for name in vars(oci_tar_builder.ImageBuilder("demo")) if not name.startswith("_")]
    methods = [f".{name}" for name in vars(oci_tar_builder.ImageBuilder) if not name.startswith("_")]
    assert [name for name in (*oci_tar_builder.__all__, *builder, *methods) if f"`{name}" not in README] == []
