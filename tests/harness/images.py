"""OCI image tars of native programs, made on the spot: what `ctr images import` takes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX = "/bin/busybox"
BUSYBOX_COMMANDS = (
    *("cat", "echo", "false", "grep", "head", "id", "kill", "ls", "mount", "ps", "sh", "sleep", "test", "true"),
    "unshare",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True, slots=True)
class NativeImage:
    """An image of one layer. Paths have no leading slash; programs are files of mode 0755."""

    reference: str  # as in docker.io/library/busybox:test
    programs: Mapping[str, bytes]
    links: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Sequence[str] = ()
    setuid: frozenset[str] = frozenset()  # of the programs, those that run as root whoever starts them

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the OCI layout as a tar file; the same image gives the same bytes."""
        layer = self._layer()
        config = _json(
            {
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": {"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": list(self.entrypoint)},
                "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            }
        )
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
            }
        )
        entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
        entry["annotations"] = {"io.containerd.image.name": self.reference}
        files = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
        files["index.json"] = _json({"schemaVersion": 2, "manifests": [entry]})
        files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
        Path(path).write_bytes(_tar({name: (content, 0o644) for name, content in files.items()}, {}))

    def _layer(self) -> bytes:
        modes = {name: 0o4755 if name in self.setuid else 0o755 for name in self.programs}
        return _tar({name: (content, modes[name]) for name, content in self.programs.items()}, self.links)


def busybox_image(reference: str = "docker.io/library/busybox:test") -> NativeImage:
    """Give an image of Debian's static busybox with a link for each of BUSYBOX_COMMANDS.

    Raises: FileNotFoundError where the machine has no busybox.
    """
    links = {f"bin/{name}": "busybox" for name in BUSYBOX_COMMANDS}
    return NativeImage(reference, {"bin/busybox": Path(BUSYBOX).read_bytes()}, links, ["/bin/sh"])


def _tar(files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        directories = {str(parent) for name in (*files, *links) for parent in Path(name).parents} - {"."}
        for name in sorted(directories):
            archive.addfile(_header(name, tarfile.DIRTYPE, 0o755))
        for name, (content, mode) in sorted(files.items()):
            header = _header(name, tarfile.REGTYPE, mode)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for name, target in sorted(links.items()):
            header = _header(name, tarfile.SYMTYPE, 0o777)
            header.linkname = target
            archive.addfile(header)
    return packed.getvalue()


def _header(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.mode = kind, mode
    return header


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
