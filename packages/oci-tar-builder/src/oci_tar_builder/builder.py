"""`ImageBuilder`: an image put together layer by layer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from . import media_types
from .archive import files_layer, write_tar
from .layout import Blob, Entry, ImageConfig, image_layout, parse_reference

__all__ = ["ImageBuilder", "is_wasm"]

_PLATFORM: Final = re.compile(r"[a-z0-9]+/[a-z0-9_]+")
_HEADERS: Final = (b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0")  # a module's, a component's


class ImageBuilder:
    """Collects layers and settings, then writes the image as a tar of an OCI layout.

    `entrypoint`, `cmd`, `env` (NAME=VALUE), `labels`, `os` and `architecture` may be set until `write`.
    """

    def __init__(self, name: str, platform: str = "wasip1/wasm") -> None:
        """Begin the image *name*, such as `registry:5000/group/name:tag`, for *platform*, OS/ARCHITECTURE.

        Raises: ValueError for what is no image's name or no platform.
        """
        if not _PLATFORM.fullmatch(platform):
            raise ValueError(f"{platform!r} is not a platform; it must look like wasip1/wasm or linux/amd64")
        self.reference = parse_reference(name)
        self.os, self.architecture = platform.split("/")
        self.entrypoint: tuple[str, ...] = ()
        self.cmd: tuple[str, ...] = ()
        self.env: tuple[str, ...] = ()
        self.labels: Mapping[str, str] = {}
        self._layers: list[Blob] = []

    def add_layer(self, data: bytes, media_type: str, title: str = "") -> None:
        """Add a layer of any type, as it is; *title* names the file that it is. Raises: ValueError for the type."""
        if not media_types.is_media_type(media_type):
            raise ValueError(f"{media_type!r} is not a media type; it must look like application/wasm")
        self._layers.append(Blob(media_type, data, title))

    def add_files_layer(self, files: Mapping[str, bytes]) -> None:
        """Add an ordinary layer with *files* by absolute path, all executable. Raises: ValueError for a path."""
        self.add_layer(files_layer(files), media_types.IMAGE_LAYER_TAR)

    def add_wasm_layer(self, data: bytes, title: str = "") -> None:
        """Add a layer that is one wasm program; *title* is its file's name, by which an entrypoint finds it.

        Raises: ValueError for what is not a WebAssembly binary.
        """
        if not is_wasm(data):
            raise ValueError(f"{title or 'the layer'} does not begin as a WebAssembly binary: {data[:8]!r}")
        self.add_layer(data, media_types.WASM_LAYER, title)

    def entries(self) -> list[Entry]:
        """The files of the image's OCI layout. Raises: ValueError for no layer, for a damaged one, for `env`."""
        if not self._layers:
            raise ValueError(f"the image {self.reference} has no layer; add one first")
        for variable in self.env:
            if variable.find("=") < 1:
                raise ValueError(f"{variable!r} in the environment is not NAME=VALUE")
        config = ImageConfig(
            self.os,
            self.architecture,
            tuple(self.entrypoint),
            tuple(self.cmd),
            tuple(self.env),
            dict(self.labels),
        )
        return image_layout(self.reference, config, self._layers)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the image tar at *path*, whole or not at all. Raises: OSError; ValueError as `entries`."""
        write_tar(path, self.entries())


def is_wasm(data: bytes) -> bool:
    """Whether *data* begins as a WebAssembly module or component does."""
    return data.startswith(_HEADERS)
