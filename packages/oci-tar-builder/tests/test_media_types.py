"""Which layers are of a root file system, and what is a media type at all."""

from __future__ import annotations

import pytest
from oci_tar_builder import IMAGE_LAYER_TAR, IMAGE_LAYER_TAR_GZIP, WASM_LAYER
from oci_tar_builder.media_types import compression_of_tar, is_media_type


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        (IMAGE_LAYER_TAR, ""),
        (IMAGE_LAYER_TAR_GZIP, "gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", ""),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar", ""),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.zstd", "zstd"),
        (WASM_LAYER, None),
        ("application/wasm", None),
        ("application/x-tar", None),
        ("application/vnd.oci.image.manifest.v1+json", None),
    ],
)
def test_a_tar_layer_is_known_with_its_compression(media_type: str, compression: str | None) -> None:
    assert compression_of_tar(media_type) == compression


@pytest.mark.parametrize("text", [WASM_LAYER, "application/wasm", "a/b", "text/vnd.x-y_z+json", "a/" + "b" * 127])
def test_a_media_type_has_a_type_and_a_subtype(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text", ["", "wasm", "/wasm", "application/", "a/b/c", "a b/c", "a/b\n", "a/é", "a/" + "b" * 128]
)
def test_other_text_is_no_media_type(text: str) -> None:
    assert not is_media_type(text)
