"""An OCI image as values: blobs, and the files of an OCI layout. Pure: bytes in, bytes out.

Source: OCI image specification 1.1, image-layout.md, manifest.md, config.md; Docker's `manifest.json` for older tools.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from . import media_types

__all__ = ["Blob", "Entry", "ImageConfig", "Reference", "image_layout", "parse_reference"]

# the distribution specification's grammar: [host[:port]/]path[:tag]
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(
    rf"(?P<repository>(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?",
    re.ASCII,
)
_REPOSITORY_LIMIT: Final = 255

_CONTAINERD_NAME: Final = "io.containerd.image.name"
_TAG: Final = "org.opencontainers.image.ref.name"
_TITLE: Final = "org.opencontainers.image.title"
# runwasi's own builder writes this too: without it, images that differ only in wasm layers would share one config
_LAYERS_LABEL: Final = "containerd.runwasi.layers"

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's name in its two parts."""

    repository: str  # with the registry's host, and port if it has one
    tag: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes, what they are, and for a layer that is one file the file's name."""

    media_type: str
    data: bytes = field(repr=False)
    title: str = ""
    digest: str = field(init=False)  # sha256: and 64 hexadecimal digits

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", _digest(self.data))

    @property
    def path(self) -> str:
        """Where it stands in a layout."""
        return f"blobs/{self.digest.replace(':', '/')}"

    def descriptor(self, **more: object) -> dict[str, object]:
        """The descriptor of this blob, with what else is known of it."""
        titled = {"annotations": {_TITLE: self.title}} if self.title else {}
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **titled, **more}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What runs, and on which platform; a wasm image's by default."""

    os: str = "wasip1"
    architecture: str = "wasm"
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=VALUE
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a layout."""

    name: str
    mode: int
    data: bytes = field(repr=False)


def parse_reference(text: str) -> Reference:
    """Take an image's name apart; without a tag it is `latest`. Raises: ValueError."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not an image's name; it must look like registry:5000/group/name:tag, in lower case"
        )
    if len(match["repository"]) > _REPOSITORY_LIMIT:
        raise ValueError(
            f"the image's name {match['repository']!r} has {len(match['repository'])} characters;"
            f" registries take {_REPOSITORY_LIMIT}"
        )
    return Reference(match["repository"], match["tag"] or "latest")


def image_layout(reference: Reference, config: ImageConfig, layers: Sequence[Blob]) -> list[Entry]:
    """The files of a layout that holds one image, in the order in which they are written; each blob once.

    Raises: ValueError for a compressed layer whose content cannot be read.
    """
    config_blob = Blob(media_types.IMAGE_CONFIG, _json(_config(config, layers)))
    names = {_CONTAINERD_NAME: str(reference), _TAG: reference.tag}
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.IMAGE_MANIFEST,
        "config": config_blob.descriptor(),
        "layers": [layer.descriptor() for layer in layers],
        "annotations": names,
    }
    manifest_blob = Blob(media_types.IMAGE_MANIFEST, _json(manifest))
    platform = {"architecture": config.architecture, "os": config.os}
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.IMAGE_INDEX,
        "manifests": [manifest_blob.descriptor(platform=platform, annotations=names)],
    }
    docker = [{"Config": config_blob.path, "RepoTags": [str(reference)], "Layers": [layer.path for layer in layers]}]
    blobs = {blob.path: blob.data for blob in (*layers, config_blob, manifest_blob)}
    return [
        *(Entry(path, 0o444, data) for path, data in blobs.items()),
        Entry("index.json", 0o644, _json(index)),
        Entry("oci-layout", 0o644, _json({"imageLayoutVersion": "1.0.0"})),
        Entry("manifest.json", 0o644, _json(docker)),
    ]


def _config(config: ImageConfig, layers: Sequence[Blob]) -> dict[str, object]:
    # containerd compares the number of diff ids with that of tar layers: a wasm layer must not have one
    diff_ids = [diff_id for layer in layers if (diff_id := _diff_id(layer))]
    labels = dict(config.labels)
    if len(diff_ids) < len(layers):
        labels[_LAYERS_LABEL] = _digest("".join(layer.digest.partition(":")[2] for layer in layers).encode())
    inner = {
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Env": list(config.env),
        "Labels": labels,
    }
    return {
        "architecture": config.architecture,
        "os": config.os,
        "config": {key: value for key, value in inner.items() if value},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }


def _diff_id(layer: Blob) -> str | None:
    match media_types.compression_of_tar(layer.media_type):
        case None:
            return None
        case "":
            return layer.digest
        case "gzip":
            return _digest_of_gzip(layer)
        case other:
            raise ValueError(
                f"the layer {layer.digest} of type {layer.media_type} is compressed by {other}, which cannot be read"
                f" here; give it as {media_types.IMAGE_LAYER_TAR} or {media_types.IMAGE_LAYER_TAR_GZIP}"
            )


def _digest_of_gzip(layer: Blob) -> str:
    digest = hashlib.sha256()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(layer.data)) as unpacked:
            while chunk := unpacked.read(_CHUNK):
                digest.update(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"the layer {layer.digest} of type {layer.media_type} is not a whole gzip file: {error}"
        ) from error
    return f"sha256:{digest.hexdigest()}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
