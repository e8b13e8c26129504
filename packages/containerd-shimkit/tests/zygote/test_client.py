"""The caller's side, against zygotes that are not as they should be."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from containerd_shimkit import UnavailableError
from containerd_shimkit.zygote.client import Zygote, ensure_directory
from containerd_shimkit.zygote.messages import ACCEPTED, COMMITTED, Reply, encode_reply

REPLY = encode_reply(Reply(3, b"out", b"err"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "zygotes"
    made.mkdir(0o700)
    return made


def ask(directory: Path, answer: bytes, *, reads: int = 1 << 20, words: Sequence[str] = ()) -> Reply | None:
    """What a caller makes of a zygote that reads at most so much and answers *answer*."""
    zygote = Zygote(str(directory))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(zygote.path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(reads)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return zygote.request(["shim", *words, "start"])
        finally:
            thread.join()


def test_the_reply_is_what_was_sent(directory: Path) -> None:
    assert (
        ask(directory, ACCEPTED + REPLY)
        == ask_again(directory, ACCEPTED + COMMITTED + REPLY)
        == Reply(3, b"out", b"err")
    )


def ask_again(directory: Path, answer: bytes) -> Reply | None:
    os.unlink(Zygote(str(directory)).path)
    return ask(directory, answer)


@pytest.mark.parametrize(
    "answer",
    [b"", b"X", ACCEPTED, ACCEPTED + REPLY[:10], ACCEPTED + REPLY[:-1]],
    ids=["EOF", "no", "A", "header", "cut"],
)
def test_a_request_that_nobody_finishes_is_left_to_the_caller(directory: Path, answer: bytes) -> None:
    assert ask(directory, answer) is None


@pytest.mark.parametrize("reads", [1 << 20, 1], ids=["closed", "reset"])
@pytest.mark.parametrize("rest", [b"", REPLY[:-1]], ids=["nothing", "half"])
def test_after_standard_input_was_read_nobody_else_can_do_it(directory: Path, rest: bytes, reads: int) -> None:
    with pytest.raises(UnavailableError, match="try again"):
        ask(directory, ACCEPTED + COMMITTED + rest, reads=reads)


@pytest.mark.parametrize("committed", [b"", COMMITTED])
def test_an_answer_that_comes_while_the_request_is_being_sent_counts(directory: Path, committed: bytes) -> None:
    more = ["x" * 900_000]  # than a socket holds
    assert ask(directory, ACCEPTED + committed + REPLY, reads=1, words=more) == Reply(3, b"out", b"err")


def test_after_standard_input_was_read_nobody_else_can_do_what_was_being_sent(directory: Path) -> None:
    with pytest.raises(UnavailableError, match="try again"):
        ask(directory, ACCEPTED + COMMITTED, reads=1, words=["x" * 900_000])


def test_a_request_that_is_refused_while_it_is_being_sent_is_left_to_the_caller(directory: Path) -> None:
    assert ask(directory, b"", reads=1, words=["x" * 900_000]) is None


def test_where_nobody_listens_there_is_no_reply(directory: Path) -> None:
    zygote = Zygote(str(directory))
    assert zygote.request(["shim", "start"]) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(zygote.path)
    assert zygote.request(["shim", "start"]) is None


def test_a_request_beyond_the_bounds_is_not_sent(directory: Path) -> None:
    assert Zygote(str(directory)).request(["x" * (1 << 21)]) is None


def _file(path: Path) -> None:
    path.rmdir()
    path.touch()


def _link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.chmod(0o770), lambda path: path.chmod(0o705), _file, _link],
    ids=["group", "others", "file", "link"],
)
def test_a_directory_that_is_not_ours_alone_is_refused_with_the_cure(
    directory: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(directory)
    with pytest.raises(PermissionError, match="0700"):
        ensure_directory(str(directory))
    said = Zygote(str(directory)).start()
    assert "0700" in said
    assert str(directory) in said


@pytest.mark.root
def test_another_users_directory_is_refused(directory: Path) -> None:
    if os.geteuid():
        pytest.skip("giving a directory away needs root")
    os.chown(directory, 65534, 65534)
    assert "not a directory of ours alone" in Zygote(str(directory)).start()


def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    ensure_directory(str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
