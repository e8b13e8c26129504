"""An OCI image as values: blobs, and the files of an OCI layout. Pure: bytes in, bytes out.

Source: OCI image specification 1.1, image-layout.md, manifest.md, config.md; Docker's `manifest.json` for older tools.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import media_types

__all__ = ["Blob", "Entry", "ImageConfig", "Reference", "image_layout", "parse_reference"]

# the distribution specification's grammar: [host[:port]/]path[:tag]
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(
    rf"(?P<repository>(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>[\w][\w.-]{{0,127}}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's name in its two parts."""

    repository: str  # with the registry's host, and port if it has one
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes, and what they are."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """The descriptor of this blob, with what else is known of it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What runs, and for which platform."""

    os: str = "wasip1"
    architecture: str = "wasm"
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a layout."""

    name: str
    data: bytes


def parse_reference(text: str) -> Reference:
    """Take an image's name apart; without a tag it is `latest`. Raises: ValueError."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an image's name; it must look like registry:5000/group/name:tag")
    return Reference(match["repository"], match["tag"] or "latest")


def image_layout(reference: Reference, config: ImageConfig, layers: Sequence[Blob]) -> list[Entry]:
    """The files of a layout that holds one image, in the order in which they are written; each blob once."""
    config_blob = Blob(media_types.IMAGE_CONFIG, _json(_config(config, layers)))
    names = {
        "io.containerd.image.name": str(reference),
        "org.opencontainers.image.ref.name": reference.tag,
    }
    manifest = Blob(
        media_types.IMAGE_MANIFEST,
        _json(
            {
                "schemaVersion": 2,
                "mediaType": media_types.IMAGE_MANIFEST,
                "config": config_blob.descriptor(),
                "layers": [layer.descriptor() for layer in layers],
                "annotations": names,
            }
        ),
    )
    platform = {"architecture": config.architecture, "os": config.os}
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.IMAGE_INDEX,
        "manifests": [manifest.descriptor(platform=platform, annotations=names)],
    }
    docker = [
        {"Config": _path(config_blob), "RepoTags": [str(reference)], "Layers": [_path(layer) for layer in layers]}
    ]
    blobs = {_path(blob): Entry(_path(blob), blob.data) for blob in (*layers, config_blob, manifest)}
    return [
        *blobs.values(),
        Entry("index.json", _json(index)),
        Entry("manifest.json", _json(docker)),
        Entry("oci-layout", _json({"imageLayoutVersion": "1.0.0"})),
    ]


def _config(config: ImageConfig, layers: Iterable[Blob]) -> dict[str, Any]:
    inner = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Env": list(config.env),
        "Labels": dict(config.labels or {}),
    }
    # diff ids are of uncompressed tars: a wasm layer has none, but containerd wants as many as there are layers
    return {
        "architecture": config.architecture,
        "os": config.os,
        "config": {key: value for key, value in inner.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }


def _path(blob: Blob) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
