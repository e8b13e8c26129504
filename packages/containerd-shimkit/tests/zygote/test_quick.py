from __future__ import annotations

import json
import os
import select
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_shimkit.container.state import REMOVED_FILE
from containerd_shimkit.shim.actions import Shim
from containerd_shimkit.shim.args import ShimArgs
from containerd_shimkit.shim.group import GroupLock, listen
from containerd_shimkit.zygote import quick
from containerd_shimkit.zygote.quick import delete_response, input_at_hand, start_outcome

ARGS = ShimArgs(namespace="ns", id="c1", address="/run/x.sock", action="start")


def never(*_: object) -> None:
    raise AssertionError("no instance is made here")


SHIM = Shim("test", lambda: "1", never)  # type: ignore[arg-type]


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle on a file system that counts as local, and a directory of sockets of the test's own."""
    top = Path(tempfile.mkdtemp(prefix="quick-"))  # short: the path of a socket has 107 bytes
    (top / "s").mkdir(mode=0o700)
    monkeypatch.setattr(quick, "DEFAULT_SOCKET_DIR", str(top / "s"))
    monkeypatch.setattr("containerd_shimkit.shim.address.DEFAULT_SOCKET_DIR", str(top / "s"))
    monkeypatch.setattr(quick, "_is_local", lambda directory: True)
    made = top / "bundle"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"annotations": {"io.containerd.runc.v2.group": "g"}}))
    yield made
    shutil.rmtree(top)


@pytest.fixture
def directory(bundle: Path) -> Iterator[int]:
    descriptor = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_a_first_start_makes_a_listener_and_a_second_finds_it(bundle: Path, directory: int) -> None:
    first = start_outcome(SHIM, ARGS, directory, b"")
    assert first is not None
    assert first.service is not None
    with first.service.listener as listener:
        path = listener.getsockname()
        assert first.reply.stdout == f"unix://{path}".encode() == (bundle / "address").read_bytes()
        assert first.service.bundle == str(bundle)
        second = start_outcome(SHIM, ARGS, directory, b"")
        assert second is not None
        assert second.service is None
        assert second.reply == first.reply
        with GroupLock(path) as lock:
            assert set(lock.announced()) == {"c1"}


def test_a_socket_whose_listener_is_dead_is_replaced(bundle: Path, directory: int) -> None:
    first = start_outcome(SHIM, ARGS, directory, b"")
    assert first is not None
    assert first.service is not None
    first.service.listener.close()
    second = start_outcome(SHIM, ARGS, directory, b"")
    assert second is not None
    assert second.service is not None
    second.service.listener.close()


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"x" * (1 << 20)], ids=["none", "broken", "list", "long"])
def test_a_configuration_that_is_not_as_usual_is_a_childs_work(
    bundle: Path, directory: int, content: bytes | None
) -> None:
    (bundle / "config.json").unlink()
    if content is not None:
        (bundle / "config.json").write_bytes(content)
    assert start_outcome(SHIM, ARGS, directory, b"") is None
    assert os.listdir(bundle.parent / "s") == []


def test_a_link_for_a_configuration_is_a_childs_work(bundle: Path, directory: int) -> None:
    (bundle / "config.json").rename(bundle / "other.json")
    (bundle / "config.json").symlink_to("other.json")
    assert start_outcome(SHIM, ARGS, directory, b"") is None


def test_a_group_that_somebody_is_looking_at_is_a_childs_work(bundle: Path, directory: int) -> None:
    first = start_outcome(SHIM, ARGS, directory, b"")
    assert first is not None
    assert first.service is not None
    with first.service.listener as listener, GroupLock(listener.getsockname()):
        assert start_outcome(SHIM, ARGS, directory, b"") is None


def test_a_file_system_that_may_hang_is_a_childs_work(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_is_local", lambda directory: False)
    assert start_outcome(SHIM, ARGS, directory, b"") is None
    assert delete_response("", directory) is None


def test_input_that_is_no_message_is_a_childs_work_and_leaves_nothing(bundle: Path, directory: int) -> None:
    assert start_outcome(SHIM, ARGS, directory, b"\xff") is None
    assert os.listdir(bundle.parent / "s") == []


def removed(bundle: Path, address: str) -> None:
    (bundle / REMOVED_FILE).touch()
    (bundle / "address").write_text(f"unix://{address}")


def test_delete_is_answered_at_once_when_the_shim_has_removed_everything(bundle: Path, directory: int) -> None:
    path = str(bundle.parent / "s" / "x")
    removed(bundle, path)
    for given in ("", str(bundle)):
        assert delete_response(given, directory) is not None, "its shim has ended"
    with listen(path):
        assert delete_response("", directory) is not None, "its shim lives"
    assert delete_response("", directory) is None, "its shim was killed, and its socket is left"


def test_delete_is_a_childs_work_when_anything_may_be_left(bundle: Path, directory: int) -> None:
    path = str(bundle.parent / "s" / "x")
    assert delete_response("", directory) is None, "nobody has said that it is removed"
    removed(bundle, path)
    assert delete_response(str(bundle.parent), directory) is None, "another bundle is meant"
    removed(bundle, "/elsewhere/x")
    assert delete_response("", directory) is None, "a socket that is not in the usual place"
    (bundle / "address").unlink()
    assert delete_response("", directory) is None, "no address"


def test_a_local_file_system_is_told_by_its_mount() -> None:
    root = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert not quick._is_local_mount(b"")
        assert not quick._is_local(root), "a procfs is none that bundles are on"
    finally:
        os.close(root)


def test_input_is_at_hand_when_nobody_can_add_to_it_and_is_committed_to_before_it_is_read() -> None:
    seen: list[int] = []

    def ask(stdin: int) -> bytes | None:
        return input_at_hand(stdin, lambda: seen.append(len(select.select([stdin], [], [], 0)[0])))

    with open("/dev/null", "rb") as null:
        assert ask(null.fileno()) == b""
    reader, writer = os.pipe()
    assert ask(reader) is None, "somebody may still write"
    os.write(writer, b"options")
    assert ask(reader) is None
    os.close(writer)
    assert seen == []
    assert ask(reader) == b"options"
    assert seen == [1], "it was still there"
    assert ask(reader) == b""
    os.close(reader)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert ask(ours.fileno()) is None
    assert seen == [1]


def test_input_is_left_to_others_when_its_reader_cannot_commit() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"options")
    os.close(writer)

    def gone() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        input_at_hand(reader, gone)
    assert os.read(reader, 100) == b"options"
    os.close(reader)
