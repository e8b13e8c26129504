"""Makes WebAssembly OCI images as tar files, for `ctr image import`, `skopeo` and everybody who reads OCI layouts."""

from .builder import ImageBuilder
from .layout import Blob, ImageConfig, Reference, image_layout, parse_reference
from .media_types import WASM_LAYER

__all__ = ["WASM_LAYER", "Blob", "ImageBuilder", "ImageConfig", "Reference", "image_layout", "parse_reference"]
