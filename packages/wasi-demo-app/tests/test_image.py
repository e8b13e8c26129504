"""The demo's image: one ordinary layer with the program, for a platform of WebAssembly."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from wasi_demo_app.image import DEFAULT_NAME, ENTRYPOINT, WASM_PATH, write_image


def read_tar(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each file."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        opened = [(member, archive.extractfile(member)) for member in archive]
        return {member.name: (member.mode, file.read()) for member, file in opened if file}


def blob(files: dict[str, tuple[int, bytes]], descriptor: dict[str, Any]) -> bytes:
    return files[f"blobs/{descriptor['digest'].replace(':', '/')}"][1]


def test_the_image_holds_the_program_and_starts_it(tmp_path: Path) -> None:
    write_image(tmp_path / "demo.tar")
    files = read_tar((tmp_path / "demo.tar").read_bytes())
    (entry,) = json.loads(files["index.json"][1])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == DEFAULT_NAME
    assert entry["platform"] == {"os": "wasip1", "architecture": "wasm"}
    manifest = json.loads(blob(files, entry))
    config = json.loads(blob(files, manifest["config"]))
    assert config["config"]["Entrypoint"] == [ENTRYPOINT]
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert read_tar(blob(files, layer)) == {ENTRYPOINT[1:]: (0o755, Path(WASM_PATH).read_bytes())}


def test_the_image_is_the_same_each_time_but_for_its_name(tmp_path: Path) -> None:
    for path, name in (("one", DEFAULT_NAME), ("two", DEFAULT_NAME), ("three", "registry:5000/demo:v2")):
        write_image(os.fspath(tmp_path / path), name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert b'"io.containerd.image.name":"registry:5000/demo:v2"' in (tmp_path / "three").read_bytes()


def test_what_is_no_images_name_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'No Name' is not an image's name"):
        write_image(tmp_path / "demo.tar", "No Name")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_image(tmp_path / "file" / "demo.tar")


def test_the_program_is_part_of_the_package() -> None:
    assert Path(WASM_PATH).read_bytes().startswith(b"\0asm\x01\0\0\0")
