"""Tar files: the same bytes for the same content, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from oci_tar_builder import Entry
from oci_tar_builder.archive import files_layer, pack_tar, write_tar

ENTRIES = [Entry("blobs/sha256/00", 0o444, b"blob" * 5000), Entry("index.json", 0o644, b"{}")]


@pytest.fixture(autouse=True)
def no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def test_a_layer_has_its_files_and_the_directories_above_them_in_order() -> None:
    found = members(files_layer({"/bin/b.wasm": b"b", "/a.wasm": b"aa"}))
    assert [(each.name, each.isdir(), each.mode, each.size) for each in found] == [
        ("bin", True, 0o755, 0),
        ("a.wasm", False, 0o755, 2),
        ("bin/b.wasm", False, 0o755, 1),
    ]
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in found} == {(0, 0, "", "", 0)}


def test_the_order_of_files_does_not_matter() -> None:
    assert files_layer({"/a": b"1", "/b": b"2"}) == files_layer({"/b": b"2", "/a": b"1"})


def test_names_that_are_long_or_not_ascii_come_through() -> None:
    names = ["/" + "x" * 200, "/größe/文.wasm"]
    found = [each.name for each in members(files_layer(dict.fromkeys(names, b"")))]
    assert found == ["größe", "größe/文.wasm", "x" * 200]


def test_every_python_writes_the_same_bytes() -> None:
    layer = files_layer({"/app/main.wasm": b"x" * 100, "/" + "x" * 200: b"", "/größe/文.wasm": b"y"})
    assert hashlib.sha256(layer).hexdigest() == "1fbadc14b886771254b8dfc68b922e7dd9f517903c0e702ba37a15dc155f3117"


@pytest.mark.parametrize("path", ["", "/", "a", "./a", "/a/", "//a", "/a//b", "/./a", "/../a", "/a/..", "/a\0b"])
def test_a_path_that_is_not_plain_is_refused_by_name(path: str) -> None:
    with pytest.raises(ValueError, match="path") as caught:
        files_layer({path: b""})
    assert repr(path) in str(caught.value)


def test_a_file_cannot_be_a_directory_too() -> None:
    with pytest.raises(ValueError, match="'/a' is a file and a directory"):
        files_layer({"/a": b"", "/a/b": b""})


def test_times_are_those_of_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert {each.mtime for each in members(files_layer({"/a/b": b""}))} == {1700000000}


@pytest.mark.parametrize("text", ["x", "-1", "1.5", str(8**11), "١"])
def test_a_source_date_epoch_that_is_no_time_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH"):
        files_layer({"/a": b""})


def test_gnu_tar_lists_what_was_written(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar on PATH")
    write_tar(tmp_path / "image.tar", ENTRIES)
    shown = subprocess.run(
        ["tar", "tvf", tmp_path / "image.tar", "--full-time", "--utc"], capture_output=True, text=True, check=True
    )
    first, second = (line.split() for line in shown.stdout.splitlines())
    assert (first[0], first[1], first[2], first[-1]) == ("-r--r--r--", "0/0", "20000", "blobs/sha256/00")
    assert (second[0], second[3], second[-1]) == ("-rw-r--r--", "1970-01-01", "index.json")


def test_the_file_replaces_what_was_there_and_obeys_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "image.tar"
    before = os.umask(0o027)
    try:
        write_tar(path, ENTRIES)
        write_tar(path, ENTRIES)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["image.tar"]


def test_a_symlink_stays_and_a_pipe_gets_the_same_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "image.tar", ENTRIES)
    (tmp_path / "link").symlink_to("image.tar")
    write_tar(tmp_path / "link", ENTRIES[:1])
    assert (tmp_path / "link").is_symlink()
    assert len(members((tmp_path / "image.tar").read_bytes())) == 1
    packed = io.BytesIO()
    pack_tar(ENTRIES[:1], packed)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        write_tar(tmp_path / "pipe", ENTRIES[:1])
        assert reader.communicate()[0] == packed.getvalue() == (tmp_path / "image.tar").read_bytes()
    assert not (tmp_path / "pipe").is_file()


def test_after_a_failure_the_old_file_stands_and_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(b"old")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "never")
    for target in (path, tmp_path / "a" / "b" / "image.tar"):
        with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH"):
            write_tar(target, ENTRIES)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_tar("/dev/full", ENTRIES)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_tar(tmp_path / "file" / "image.tar", ENTRIES)
    with pytest.raises(IsADirectoryError):
        write_tar(tmp_path, ENTRIES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert [each.name for each in tmp_path.parent.iterdir() if each.name.endswith(".partial")] == []
