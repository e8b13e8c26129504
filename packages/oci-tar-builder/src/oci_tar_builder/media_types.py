"""Media types of images, and of the layers that hold WebAssembly."""

from __future__ import annotations

from typing import Final

__all__ = ["IMAGE_CONFIG", "IMAGE_INDEX", "IMAGE_LAYER_TAR", "IMAGE_MANIFEST", "WASM_LAYER"]

IMAGE_INDEX: Final = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
IMAGE_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
WASM_LAYER: Final = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"
