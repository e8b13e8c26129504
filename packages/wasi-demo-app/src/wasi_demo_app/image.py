"""The demo program, and its OCI image as a tar file for `ctr image import`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from oci_tar_builder import ImageBuilder

__all__ = ["DEFAULT_NAME", "ENTRYPOINT", "WASM_PATH", "write_image"]

WASM_PATH: Final = os.fspath(Path(__file__).parent / "wasm" / "wasi-demo-app.wasm")
ENTRYPOINT: Final = "/wasi-demo-app.wasm"
DEFAULT_NAME: Final = "localhost/wasi-demo-app:latest"


def write_image(path: str | os.PathLike[str], name: str = DEFAULT_NAME) -> None:
    """Write the image tar: one ordinary layer with the program at `ENTRYPOINT`, os `wasip1`, architecture `wasm`.

    Raises: OSError, with nothing left at *path*; ValueError for a *name* that is no image's.
    """
    builder = ImageBuilder(name)
    builder.add_files_layer({ENTRYPOINT: Path(WASM_PATH).read_bytes()})
    builder.entrypoint = (ENTRYPOINT,)
    builder.write(path)
