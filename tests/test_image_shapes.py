"""Images that oci-tar-builder makes, in containerd 1.6 and 2.x: imported, unpacked, and run by runc where native."""

from __future__ import annotations

import gzip
import platform
from pathlib import Path

import pytest
from containerd_shim_wasm_test_modules import COMPONENT_HELLO_WORLD, HELLO_WORLD
from harness.containerd import Containerd, CtrFailedError
from harness.images import BUSYBOX
from oci_tar_builder import IMAGE_LAYER_TAR_GZIP, ImageBuilder
from oci_tar_builder.archive import files_layer

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
# containerd 1.6 counts diff ids against all layers until 1.6.25; later ones only against those of a root file system
FIRST_WITH_WASM_LAYERS = (1, 6, 25)


@pytest.fixture(autouse=True)
def nothing_left(leftovers: None) -> None:
    """Every test here leaves the machine as it was."""
    return


def version(containerd: Containerd) -> tuple[int, ...]:
    return tuple(int(part) for part in containerd.install.version.split("+")[0].split(".")[:3])


def test_an_app_image_is_imported_under_its_name_with_all_platforms(containerd: Containerd, tmp_path: Path) -> None:
    builder = ImageBuilder("localhost:5000/acme/app:v1")
    builder.add_files_layer({"/app/hello.wasm": HELLO_WORLD.bytes})
    builder.entrypoint = ("/app/hello.wasm",)
    builder.write(tmp_path / "app.tar")
    assert "localhost:5000/acme/app:v1" in containerd.import_image(tmp_path / "app.tar", "--all-platforms")
    listed = containerd.ctr("images", "ls", "name==localhost:5000/acme/app:v1").stdout
    assert "wasip1/wasm" in listed


@pytest.mark.parametrize("compressed", [False, True])
def test_a_native_image_runs_by_its_entrypoint(containerd: Containerd, tmp_path: Path, compressed: bool) -> None:
    name = f"localhost:5000/acme/native:{compressed}"
    builder = ImageBuilder(name, platform=f"linux/{ARCHITECTURE}")
    echo = {"/bin/echo": Path(BUSYBOX).read_bytes()}
    if compressed:
        builder.add_layer(gzip.compress(files_layer(echo)), IMAGE_LAYER_TAR_GZIP)
    else:
        builder.add_files_layer(echo)
    builder.entrypoint = ("/bin/echo", "from", "the", "image")
    builder.write(tmp_path / "native.tar")
    containerd.import_image(tmp_path / "native.tar")
    ran = containerd.ctr("run", "--rm", "--runtime", "io.containerd.runc.v2", name, "native")
    assert ran.stdout == "from the image\n"


def test_an_image_of_wasm_layers_is_imported_where_containerd_knows_them(
    containerd: Containerd, tmp_path: Path
) -> None:
    name = "localhost:5000/acme/layers:v1"
    builder = ImageBuilder(name)
    builder.add_wasm_layer(HELLO_WORLD.bytes, "hello.wasm")
    builder.add_wasm_layer(COMPONENT_HELLO_WORLD.bytes, "component.wasm")
    builder.entrypoint = ("hello.wasm",)
    builder.write(tmp_path / "layers.tar")
    if version(containerd) < FIRST_WITH_WASM_LAYERS:
        with pytest.raises(CtrFailedError, match="mismatched image rootfs and manifest layers"):
            containerd.import_image(tmp_path / "layers.tar", "--all-platforms")
        return
    assert name in containerd.import_image(tmp_path / "layers.tar", "--all-platforms")
    listed = containerd.ctr("content", "ls", "--quiet").stdout.split()
    assert {entry.name.replace("blobs/sha256/", "sha256:") for entry in builder.entries()[:4]} <= set(listed)
