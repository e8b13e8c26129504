"""Media types of images, and of the layers that hold WebAssembly."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "IMAGE_CONFIG",
    "IMAGE_INDEX",
    "IMAGE_LAYER_TAR",
    "IMAGE_LAYER_TAR_GZIP",
    "IMAGE_MANIFEST",
    "WASM_LAYER",
    "compression_of_tar",
    "is_media_type",
]

# Source: OCI image specification 1.1, media-types.md
IMAGE_INDEX: Final = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
IMAGE_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
IMAGE_LAYER_TAR: Final = "application/vnd.oci.image.layer.v1.tar"
IMAGE_LAYER_TAR_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
WASM_LAYER: Final = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"

_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
# what containerd counts as a layer of the root file system: OCI's layers by their prefix, and Docker's three
_TAR: Final = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.[^+]*|docker\.image\.rootfs\.(?:diff|foreign\.diff)\.tar)(?:[.+](\w+))?"
)


def is_media_type(text: str) -> bool:
    """Whether *text* has the form type/subtype. Source: RFC 6838, section 4.2."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def compression_of_tar(media_type: str) -> str | None:
    """How a layer of a root file system is compressed: "" for not at all, "gzip", "zstd"; None for any other layer."""
    match = _TAR.fullmatch(media_type)
    return None if match is None else match[1] or ""
