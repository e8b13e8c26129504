"""Layouts: what stands in an image's files, and which names are names."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_tar_builder import (
    IMAGE_LAYER_TAR,
    IMAGE_LAYER_TAR_GZIP,
    WASM_LAYER,
    Blob,
    Entry,
    ImageConfig,
    Reference,
    image_layout,
    parse_reference,
)
from oci_tar_builder.media_types import compression_of_tar, is_media_type

REFERENCE = Reference("localhost:5000/acme/app", "v1")
COMPONENTS = st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
HOSTS = st.from_regex(r"(?:[A-Za-z0-9]{1,8}(?:[.-][A-Za-z0-9]{1,8}){0,3}(?::[0-9]{1,5})?/)?", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)


def read(entries: list[Entry]) -> tuple[dict[str, bytes], Any, Any]:
    """The files by name, the only manifest, and its configuration."""
    files = {entry.name: entry.data for entry in entries}

    def blob(descriptor: Any) -> Any:
        data = files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        assert descriptor["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
        return json.loads(data)

    (described,) = json.loads(files["index.json"])["manifests"]
    manifest = blob(described)
    return files, manifest, blob(manifest["config"])


@given(HOSTS, st.lists(COMPONENTS, min_size=1, max_size=4), TAGS)
def test_every_good_name_comes_apart_and_together_again(host: str, components: list[str], tag: str) -> None:
    repository = host + "/".join(components)
    assert parse_reference(f"{repository}:{tag}") == Reference(repository, tag)
    assert str(parse_reference(f"{repository}:{tag}")) == f"{repository}:{tag}"


@given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z0-9._:/-]{1,20}", fullmatch=True))
def test_a_name_that_is_taken_gives_itself_again(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ValueError:
        return
    assert str(reference) in (text, f"{text}:latest")
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("app", "app", "latest"),
        ("localhost:5000/app", "localhost:5000/app", "latest"),
        ("localhost:5000/app:5000", "localhost:5000/app", "5000"),
        ("ghcr.io/a/b__c:V1.2-x_y", "ghcr.io/a/b__c", "V1.2-x_y"),
    ],
)
def test_a_port_is_no_tag(text: str, repository: str, tag: str) -> None:
    assert parse_reference(text) == Reference(repository, tag)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":tag", "app:", "a//b", "/a", "a/", "App", "a/B", "a:b:c", "a b", "a:-x", "a@sha256:00", "a:é", "a\n"),
        *("../a", "a:" + "x" * 129, "a" * 256),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name") as caught:
        parse_reference(text)
    assert repr(text) in str(caught.value)


def test_the_layout_names_the_image_its_platform_and_what_runs() -> None:
    layer = Blob(IMAGE_LAYER_TAR, b"a tar")
    config = ImageConfig(entrypoint=("/app.wasm",), cmd=("echo",), env=("A=1",), labels={"l": "v"})
    files, manifest, configuration = read(image_layout(REFERENCE, config, [layer]))
    index = json.loads(files["index.json"])
    names = {
        "io.containerd.image.name": "localhost:5000/acme/app:v1",
        "org.opencontainers.image.ref.name": "v1",
    }
    assert index["manifests"][0]["annotations"] == manifest["annotations"] == names
    assert index["manifests"][0]["platform"] == {"architecture": "wasm", "os": "wasip1"}
    assert manifest["layers"] == [layer.descriptor()]
    assert configuration == {
        "architecture": "wasm",
        "os": "wasip1",
        "config": {"Entrypoint": ["/app.wasm"], "Cmd": ["echo"], "Env": ["A=1"], "Labels": {"l": "v"}},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    }
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (docker,) = json.loads(files["manifest.json"])
    assert docker["RepoTags"] == ["localhost:5000/acme/app:v1"]
    assert {docker["Config"], *docker["Layers"]} <= files.keys()


def test_the_same_image_gives_the_same_files_and_a_blob_that_comes_twice_stands_there_once() -> None:
    layer = Blob(IMAGE_LAYER_TAR, b"a tar")
    first, second = (image_layout(REFERENCE, ImageConfig(), [layer, layer]) for _ in range(2))
    assert first == second
    assert len({entry.name for entry in first}) == len(first)
    assert len(read(first)[1]["layers"]) == 2


def test_only_layers_of_the_root_file_system_have_diff_ids() -> None:
    plain, packed = Blob(IMAGE_LAYER_TAR, b"one"), Blob(IMAGE_LAYER_TAR_GZIP, gzip.compress(b"two", mtime=0))
    docker = Blob("application/vnd.docker.image.rootfs.diff.tar.gzip", packed.data)
    layers = [Blob(WASM_LAYER, b"\0asm", "app.wasm"), plain, packed, docker]
    _, manifest, configuration = read(image_layout(REFERENCE, ImageConfig(), layers))
    two = "sha256:" + hashlib.sha256(b"two").hexdigest()
    assert configuration["rootfs"]["diff_ids"] == [plain.digest, two, two]
    assert manifest["layers"][0]["annotations"] == {"org.opencontainers.image.title": "app.wasm"}


def test_images_of_other_wasm_layers_have_other_configurations() -> None:
    digests = {
        read(image_layout(REFERENCE, ImageConfig(), [Blob(WASM_LAYER, data)]))[1]["config"]["digest"]
        for data in (b"one", b"two")
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Blob(IMAGE_LAYER_TAR_GZIP, b"no gzip"), "not a whole gzip"),
        (Blob(IMAGE_LAYER_TAR_GZIP, gzip.compress(b"cut" * 100)[:-6]), "not a whole gzip"),
        (Blob(f"{IMAGE_LAYER_TAR}+zstd", b""), "compressed by zstd.*give it as"),
    ],
)
def test_a_layer_whose_content_cannot_be_seen_is_named(layer: Blob, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        image_layout(REFERENCE, ImageConfig(), [layer])
    assert layer.digest in str(caught.value)


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        (IMAGE_LAYER_TAR, ""),
        (IMAGE_LAYER_TAR_GZIP, "gzip"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar", ""),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip"),
        (WASM_LAYER, None),
        ("application/wasm", None),
    ],
)
def test_the_compression_of_a_layer_is_in_its_type(media_type: str, compression: str | None) -> None:
    assert compression_of_tar(media_type) == compression
    assert is_media_type(media_type)


@pytest.mark.parametrize("text", ["", "wasm", "/wasm", "a/", "a/b c", "a/b/c", "a/b;q=1", "é/b"])
def test_a_media_type_is_two_names(text: str) -> None:
    assert not is_media_type(text)
