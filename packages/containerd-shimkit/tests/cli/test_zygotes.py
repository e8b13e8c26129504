"""Zygotes as they answer: listeners of this very process, in a directory of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from containerd_shimkit.cli import zygotes as module
from containerd_shimkit.cli.zygotes import Health, Zygote, zygotes


@pytest.fixture
def room() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="skz-"))  # short: the path of a socket has 107 bytes
    yield path
    shutil.rmtree(path)


@contextmanager
def listening(path: Path, backlog: int = 8) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        try:
            yield listener
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # who waits in accept() still would wait for ever


def hang_up(listener: socket.socket) -> None:
    """Do with one caller what a zygote does: read to the end of its request, and close the connection."""
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(1) == b""


def test_one_that_hangs_up_on_an_empty_request_is_alive(room: Path) -> None:
    with listening(room / "a.sock") as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        found = zygotes(str(room))
        thread.join(10)
    assert found == [Zygote(str(room / "a.sock"), os.getpid(), "", Health.ALIVE)]


def test_one_that_resets_the_connection_is_alive(room: Path) -> None:
    with listening(room / "a.sock") as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        (found,) = zygotes(str(room))
        thread.join(10)
    assert found.health is Health.ALIVE


def test_one_that_says_nothing_hangs(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    with listening(room / "a.sock"):
        assert zygotes(str(room)) == [Zygote(str(room / "a.sock"), os.getpid(), "", Health.HANGS)]


def test_one_with_a_full_queue_hangs(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    with listening(room / "a.sock", backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(room / "a.sock"))
        assert zygotes(str(room)) == [Zygote(str(room / "a.sock"), 0, "", Health.HANGS)]


def test_a_full_queue_that_empties_is_waited_for(room: Path) -> None:
    def take_both(listener: socket.socket) -> None:
        time.sleep(0.2)
        listener.accept()[0].close()
        hang_up(listener)

    with listening(room / "a.sock", backlog=0) as listener, socket.socket(socket.AF_UNIX) as first:
        first.connect(str(room / "a.sock"))
        thread = threading.Thread(target=take_both, args=(listener,))
        thread.start()
        (found,) = zygotes(str(room))
        thread.join(10)
    assert found.health is Health.ALIVE


def test_what_is_left_of_dead_ones_is_none_nor_what_is_called_otherwise(room: Path) -> None:
    with listening(room / "dead.sock"):
        pass
    (room / "dead.sock.lock").touch()
    (room / "file.sock").touch()
    (room / "slow-path.0").touch()
    with listening(room / "other"):
        assert zygotes(str(room)) == []


def test_where_there_never_was_one_there_is_none(room: Path) -> None:
    assert zygotes(str(room / "missing")) == []


def test_its_command_line_says_which_runtime_it_is_of(room: Path) -> None:
    code = (
        "import socket, sys; listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen();"
        "print(flush=True); listener.accept()"
    )
    # a zygote writes one word with blanks over its command line
    words = [sys.executable, "-c", code, str(room / "a.sock"), "containerd-shim-test-v1 zygote"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (found,) = zygotes(str(room))
    assert (found.runtime, found.pid, found.health) == ("test", process.pid, Health.ALIVE)
