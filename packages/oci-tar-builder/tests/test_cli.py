"""`oci-tar-builder` on the command line."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from oci_tar_builder import IMAGE_LAYER_TAR, WASM_LAYER
from oci_tar_builder.cli import main

MODULE = b"\0asm\x01\0\0\0"
NAME = ("-n", "app", "-r", "localhost:5000/acme", "-t", "v1")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    Path("one.wasm").write_bytes(MODULE)
    Path("two.wasm").write_bytes(MODULE + b"\0\x02\x01x")
    Path("text.wat").write_text("(module)")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*NAME, *arguments])


def read(data: bytes) -> tuple[Any, Any, dict[str, bytes]]:
    """The manifest, the configuration, and all files."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]

    def blob(descriptor: Any) -> Any:
        return json.loads(files["blobs/" + descriptor["digest"].replace(":", "/")])

    manifest = blob(json.loads(files["index.json"])["manifests"][0])
    return manifest, blob(manifest["config"]), files


def test_programs_become_layers_before_other_layers() -> None:
    Path("extra.tar").write_bytes(b"tar")
    done = run("-l", f"{IMAGE_LAYER_TAR}=extra.tar", "-m", "one.wasm", "-m", "two.wasm", "--arg", "x", "-o", "o/i.tar")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "wrote localhost:5000/acme/app:v1 to o/i.tar\n"
    manifest, config, _ = read(Path("o/i.tar").read_bytes())
    assert [layer["mediaType"] for layer in manifest["layers"]] == [WASM_LAYER, WASM_LAYER, IMAGE_LAYER_TAR]
    assert config["config"]["Entrypoint"] == ["one.wasm", "x"]


def test_app_puts_the_programs_into_one_ordinary_layer() -> None:
    done = run("--app", "-m", "two.wasm", "-m", "one.wasm", "-o", "image.tar")
    assert done.exit_code == 0, done.output
    manifest, config, files = read(Path("image.tar").read_bytes())
    (layer,) = manifest["layers"]
    assert config["config"]["Entrypoint"] == ["/two.wasm"]
    with tarfile.open(fileobj=io.BytesIO(files["blobs/" + layer["digest"].replace(":", "/")])) as archive:
        assert archive.getnames() == ["one.wasm", "two.wasm"]


def test_standard_output_gets_the_same_bytes_as_a_file() -> None:
    assert run("-m", "one.wasm", "-o", "image.tar").exit_code == 0
    done = run("-m", "one.wasm", "-o", "-", "--entrypoint", "one.wasm")
    assert done.stdout_bytes == Path("image.tar").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to pack"),
        (("-l", "one.wasm"), "not TYPE=PATH"),
        (("-l", "application/wasm="), "not TYPE=PATH"),
        (("-l", "application/wasm=one.wasm", "--app"), "--app has no programs"),
        (("-l", "application/wasm=one.wasm", "--arg", "x"), "--arg has nothing"),
        (("-m", "one.wasm", "-t", "not a tag"), "not an image's name"),
        (("-m", "one.wasm", "--bogus"), "--bogus"),
    ],
)
def test_a_wrong_use_is_explained_with_status_2_and_writes_nothing(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments, "-o", "o/image.tar")
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "missing.wasm", "-o", "o/image.tar"), "cannot read missing.wasm: No such file or directory; give"),
        (("-m", ".", "-o", "o/image.tar"), "cannot read .: Is a directory"),
        (("-l", "application/wasm=missing", "-o", "o/image.tar"), "cannot read missing: No such file"),
        (("-m", "text.wat", "-o", "o/image.tar"), "text.wat is not a WebAssembly binary"),
        (("-m", "one.wasm", "-m", "./one.wasm", "-o", "o/image.tar"), "two programs have the file name 'one.wasm'"),
        (("-l", f"{IMAGE_LAYER_TAR}+gzip=one.wasm", "-o", "o/image.tar"), "not a whole gzip"),
        (("-m", "one.wasm", "-o", "one.wasm/image.tar"), "Not a directory"),
        (("-m", "one.wasm", "-o", "."), "Is a directory; give -o a path of a file where you may write"),
        (("-m", "one.wasm", "-o", "/dev/full"), "No space left on device"),
    ],
)
def test_what_cannot_be_packed_or_written_is_named_with_status_1(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert arguments[-1] in done.stderr
    assert not Path("o").exists()
    assert not list(Path().glob("*.partial"))


def test_help_and_version_are_there() -> None:
    runner = CliRunner()
    assert "--module" in runner.invoke(main, ["-h"]).stdout
    assert "0.1.0" in runner.invoke(main, ["--version"]).stdout
