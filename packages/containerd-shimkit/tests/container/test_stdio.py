from __future__ import annotations

import os
from pathlib import Path

import pytest
from containerd_shimkit import InvalidArgumentError, NotFoundError
from containerd_shimkit.container.stdio import Stdio


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def test_no_path_is_dev_null() -> None:
    before = open_descriptors()
    stdio = Stdio("", "", "")
    for descriptor in stdio.child:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == "/dev/null"
    stdio.close()
    stdio.close()
    assert open_descriptors() == before


def test_fifos_are_opened_without_waiting_for_anybody(tmp_path: Path) -> None:
    before = open_descriptors()
    stdio = Stdio(*(fifo(tmp_path / name) for name in ("in", "out", "err")))
    stdin, stdout, _ = stdio.child
    assert os.get_blocking(stdin)
    assert os.get_blocking(stdout)
    stdio.close()
    assert open_descriptors() == before


def test_output_ends_with_its_last_writer_though_the_shim_keeps_an_end(tmp_path: Path) -> None:
    path = fifo(tmp_path / "out")
    stdio = Stdio("", path, "")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.write(stdio.child[1], b"said")
    with pytest.raises(BlockingIOError):
        assert os.read(reader, 10) == b"said"
        os.read(reader, 10)
    stdio.close_child()
    assert os.read(reader, 10) == b""
    os.close(reader)
    stdio.close()


def test_output_outlives_a_client_that_goes_and_comes_back(tmp_path: Path) -> None:
    path = fifo(tmp_path / "out")
    stdio = Stdio("", path, "")
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    os.write(stdio.child[1], b"still here")
    stdio.close_child()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 20) == b"still here"
    os.close(reader)
    stdio.close()


def test_stdin_stays_open_for_the_next_client_until_it_is_closed(tmp_path: Path) -> None:
    path = fifo(tmp_path / "in")
    stdio = Stdio(path, "", "")
    child = stdio.child[0]
    os.set_blocking(child, False)
    client = os.open(path, os.O_WRONLY)
    os.write(client, b"typed")
    os.close(client)
    assert os.read(child, 10) == b"typed"
    with pytest.raises(BlockingIOError):
        os.read(child, 10)
    stdio.close_stdin()
    assert os.read(child, 10) == b""
    stdio.close()


def test_a_files_end_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("first\n")
    stdio = Stdio("", str(file), "")
    os.write(stdio.child[1], b"second\n")
    stdio.close()
    assert file.read_text() == "first\nsecond\n"


def test_a_file_uri_names_a_file_for_both_streams_that_is_made_with_its_parents(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/logs/of%20it/out.log"
    for _ in range(2):
        stdio = Stdio("", uri, uri)
        os.write(stdio.child[1], b"out\n")
        os.write(stdio.child[2], b"err\n")
        stdio.close()
    file = tmp_path / "logs" / "of it" / "out.log"
    assert file.read_text() == "out\nerr\nout\nerr\n"
    assert file.stat().st_mode & 0o777 == 0o644
    with pytest.raises(InvalidArgumentError, match="has no absolute path"):
        Stdio("", "file://relative", "")
    with pytest.raises(InvalidArgumentError, match="stdin"):
        Stdio(uri, "", "")


def test_the_uri_of_a_fifo_is_its_path(tmp_path: Path) -> None:
    paths = [fifo(tmp_path / name) for name in ("in", "out")]
    stdio = Stdio(f"fifo://{paths[0]}", f"fifo://{paths[1]}", "")
    for path, descriptor in zip(paths, stdio.child, strict=False):
        assert os.path.samestat(os.stat(path), os.fstat(descriptor))
    stdio.close()


def test_a_stream_that_cannot_be_opened_is_named_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_descriptors()
    good = fifo(tmp_path / "good")
    with pytest.raises(NotFoundError, match=r"stderr '/no/where' cannot be opened: No such file"):
        Stdio(good, good, "/no/where")
    with pytest.raises(InvalidArgumentError, match=r"stdout .* is neither"):
        Stdio(good, str(tmp_path), "")
    with pytest.raises(InvalidArgumentError, match="stdout 'http://x' is a URI of a kind"):
        Stdio("", "http://x", "")
    assert open_descriptors() == before
