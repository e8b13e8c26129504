from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from containerd_shimkit.linux.file_tree import copy_tree


def copied(source: Path, target: Path) -> None:
    source_fd, target_fd = (os.open(each, os.O_PATH | os.O_DIRECTORY) for each in (source, target))
    try:
        copy_tree(source_fd, target_fd)
    finally:
        os.close(source_fd)
        os.close(target_fd)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    return source, target


def test_directories_files_and_links_are_copied_with_their_modes_and_times(pair: tuple[Path, Path]) -> None:
    source, target = pair
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "file").write_bytes(b"x" * 3_000_000)
    (source / "a" / "b" / "file").chmod(0o4741)
    (source / "a" / "b" / "empty").touch()
    (source / "a" / "b").chmod(0o1730)
    os.utime(source / "a" / "b", ns=(10**18, 10**18 + 1))
    copied(*pair)
    assert (target / "a" / "b" / "file").read_bytes() == b"x" * 3_000_000
    for path in ("a/b", "a/b/file", "a/b/empty"):
        found, wanted = (target / path).lstat(), (source / path).lstat()
        assert (found.st_mode, found.st_size if path != "a/b" else 0) == (
            wanted.st_mode,
            wanted.st_size if path != "a/b" else 0,
        )
        assert found.st_mtime_ns == wanted.st_mtime_ns


def test_no_link_is_followed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = pair
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")
    (source / "directory").symlink_to(tmp_path / "outside")
    (source / "file").symlink_to(tmp_path / "outside" / "secret")
    (source / "dead").symlink_to("nowhere")
    copied(*pair)
    assert sorted(os.listdir(target)) == ["dead", "directory", "file"]
    assert all((target / name).is_symlink() for name in os.listdir(target))
    assert os.readlink(target / "dead") == "nowhere"


def test_a_fifo_does_not_block_and_a_socket_is_left_out(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    os.mkfifo(source / "fifo", 0o640)
    monkeypatch.chdir(source)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        copied(*pair)
    assert os.listdir(target) == ["fifo"]
    assert stat.S_ISFIFO((target / "fifo").stat().st_mode)


@pytest.mark.root
def test_owners_devices_and_extended_attributes_are_copied(pair: tuple[Path, Path]) -> None:
    source, target = pair
    (source / "file").touch()
    os.chown(source / "file", 3, 4)
    (source / "link").symlink_to("file")
    os.chown(source / "link", 5, 6, follow_symlinks=False)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(source / "file", "trusted.x", b"value")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(source / "file", "security.capability", capability)
    copied(*pair)
    for name, owner in {"file": (3, 4), "link": (5, 6), "null": (0, 0)}.items():
        found = (target / name).lstat()
        assert (found.st_uid, found.st_gid) == owner
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(target / "file", "trusted.x") == b"value"
    assert os.getxattr(target / "file", "security.capability") == capability


def test_what_is_too_deep_is_an_error_of_its_own(pair: tuple[Path, Path]) -> None:
    source, target = pair
    (source / "/".join(["d"] * 129)).mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="more than 128 directories") as caught:
        copied(source, target)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert os.listdir("/proc/self/fd") == before


def test_no_descriptor_is_left_when_it_fails(pair: tuple[Path, Path]) -> None:
    source, target = pair
    for directory in pair:
        (directory / "a").mkdir()
    (source / "a" / "file").touch()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileExistsError, match="a"):
        copied(source, target)
    assert os.listdir("/proc/self/fd") == before
