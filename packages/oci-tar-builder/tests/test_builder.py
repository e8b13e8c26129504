"""`ImageBuilder`: layers and settings, put together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from oci_tar_builder import WASM_LAYER, ImageBuilder, is_wasm

MODULE = b"\0asm\x01\0\0\0"


def config_of(builder: ImageBuilder) -> Any:
    files = {entry.name: entry.data for entry in builder.entries()}
    return json.loads(files[json.loads(files["manifest.json"])[0]["Config"]])


def test_an_image_has_what_was_set_until_it_is_written(tmp_path: Path) -> None:
    builder = ImageBuilder("acme/app:v1", "linux/amd64")
    builder.add_files_layer({"/app.wasm": MODULE})
    builder.entrypoint, builder.cmd, builder.env = ("/app.wasm",), ("echo",), ("A=",)
    config = config_of(builder)
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert config["config"] == {"Entrypoint": ["/app.wasm"], "Cmd": ["echo"], "Env": ["A="]}
    builder.write(tmp_path / "one.tar")
    builder.write(tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_wasm_layer_is_typed_and_titled() -> None:
    builder = ImageBuilder("app")
    builder.add_wasm_layer(MODULE, "app.wasm")
    manifest = json.loads(next(entry.data for entry in builder.entries() if b'"layers":' in entry.data))
    assert manifest["layers"][0]["mediaType"] == WASM_LAYER
    assert manifest["layers"][0]["annotations"] == {"org.opencontainers.image.title": "app.wasm"}


def test_what_is_wrong_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'App' is not an image's name"):
        ImageBuilder("App")
    with pytest.raises(ValueError, match="'wasm' is not a platform"):
        ImageBuilder("app", "wasm")
    builder = ImageBuilder("app")
    with pytest.raises(ValueError, match="app:latest has no layer"):
        builder.entries()
    with pytest.raises(ValueError, match=r"text\.wat does not begin as a WebAssembly binary"):
        builder.add_wasm_layer(b"(module)", "text.wat")
    with pytest.raises(ValueError, match="'wasm' is not a media type"):
        builder.add_layer(b"", "wasm")
    builder.add_wasm_layer(MODULE)
    builder.env = ("=x",)
    with pytest.raises(ValueError, match="'=x' in the environment"):
        builder.entries()


def test_modules_and_components_are_wasm_and_nothing_else() -> None:
    assert is_wasm(MODULE)
    assert is_wasm(b"\0asm\x0d\0\x01\0more")
    assert not any(map(is_wasm, (b"", b"\0asm", b"\0asm\x02\0\0\0", b"(module)")))
