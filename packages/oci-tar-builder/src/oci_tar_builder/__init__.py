"""Makes WebAssembly OCI images as tar files, for `ctr image import`, `skopeo` and everybody who reads OCI layouts."""

from .builder import ImageBuilder, is_wasm
from .layout import Blob, Entry, ImageConfig, Reference, image_layout, parse_reference
from .media_types import IMAGE_LAYER_TAR, IMAGE_LAYER_TAR_GZIP, WASM_LAYER

__all__ = [
    "IMAGE_LAYER_TAR",
    "IMAGE_LAYER_TAR_GZIP",
    "WASM_LAYER",
    "Blob",
    "Entry",
    "ImageBuilder",
    "ImageConfig",
    "Reference",
    "image_layout",
    "is_wasm",
    "parse_reference",
]
