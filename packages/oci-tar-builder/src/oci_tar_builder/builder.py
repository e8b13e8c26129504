"""`ImageBuilder`: an image put together layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import media_types
from .archive import files_layer, write_tar
from .layout import Blob, ImageConfig, image_layout, parse_reference

__all__ = ["ImageBuilder"]


class ImageBuilder:
    """Collects layers and settings, then writes the image as a tar of an OCI layout.

    `entrypoint`, `cmd`, `env`, `labels`, `os` and `architecture` may be set until `write`; the platform is that of a
    wasm image by default.
    """

    def __init__(self, name: str) -> None:
        """Begin the image *name*: `registry:5000/group/name:tag`. Raises: ValueError for what is no name."""
        self.reference = parse_reference(name)
        self.os = "wasip1"
        self.architecture = "wasm"
        self.entrypoint: tuple[str, ...] = ()
        self.cmd: tuple[str, ...] = ()
        self.env: tuple[str, ...] = ()
        self.labels: Mapping[str, str] = {}
        self._layers: list[Blob] = []

    def add_layer(self, data: bytes, media_type: str) -> None:
        """Add a layer of any type, as it is."""
        self._layers.append(Blob(media_type, data))

    def add_files_layer(self, files: Mapping[str, bytes]) -> None:
        """Add an ordinary layer with *files* by absolute path, all executable. Raises: ValueError for a path."""
        self.add_layer(files_layer(files), media_types.IMAGE_LAYER_TAR)

    def add_wasm_layer(self, data: bytes) -> None:
        """Add a layer that is one wasm program. Raises: ValueError for what is not wasm."""
        if not data.startswith(b"\0asm"):
            raise ValueError("it does not begin with the four bytes of a WebAssembly binary")
        self.add_layer(data, media_types.WASM_LAYER)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the image tar at *path*, whole or not at all. Raises: OSError; ValueError without any layer."""
        if not self._layers:
            raise ValueError(f"the image {self.reference} has no layer")
        config = ImageConfig(self.os, self.architecture, self.entrypoint, self.cmd, self.env, self.labels)
        write_tar(path, image_layout(self.reference, config, self._layers))
