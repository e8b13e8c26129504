from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from containerd_shimkit import InvalidArgumentError
from containerd_shimkit.shim import group
from containerd_shimkit.shim.group import (
    ANNOUNCED_FOR,
    GroupLock,
    decode_id,
    forget,
    is_alive,
    listen,
    remove_dead_socket,
)
from containerd_shimkit.ttrpc.aio.server import Call, Server
from containerd_shimkit.wire import bytes_field, varint_field


@pytest.fixture
def path(tmp_path: Path) -> str:
    directory = tmp_path / "s"
    directory.mkdir(mode=0o700)
    return str(directory / "socket")


def test_a_listener_is_its_owners_alone(path: str) -> None:
    with listen(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_listener_takes_the_place_of_a_dead_one(path: str) -> None:
    listen(path).close()
    assert os.path.exists(path)
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_directory_that_others_can_write_to_is_refused(path: str) -> None:
    os.chmod(os.path.dirname(path), 0o777)
    with pytest.raises(InvalidArgumentError, match=r"can be written by others .*0777"):
        listen(path)


def test_nobody_is_there_without_a_socket_or_behind_a_dead_one(path: str) -> None:
    assert not is_alive(path)
    listen(path).close()
    assert not is_alive(path)


def test_a_listener_is_alive_and_not_woken_by_the_question(path: str) -> None:
    with listen(path) as listener:
        assert is_alive(path)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_an_announcement_stands_in_the_locks_file_for_a_while(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with GroupLock(path) as lock:
        lock.announce("c1")
        before = time.monotonic()
        lock.announce("c2")
        lock.announce("c1")
    with GroupLock(path) as lock:
        found = lock.announced()
        assert set(found) == {"c1", "c2"}
        assert found["c1"] >= before, "the last one counts"
        later = time.monotonic() + ANNOUNCED_FOR
        monkeypatch.setattr("containerd_shimkit.shim.group.time.monotonic", lambda: later)
        assert lock.announced() == {}


def test_announcements_to_a_dead_shim_are_forgotten(path: str) -> None:
    with GroupLock(path) as lock:
        lock.announce("c1")
        lock.forget_all()
        lock.announce("c2")
        assert set(lock.announced()) == {"c2"}


def test_what_a_full_disk_cut_is_no_announcement(path: str) -> None:
    Path(f"{path}.lock").write_bytes(b"\n12\nx y\n\xff c\n")
    with GroupLock(path) as lock:
        lock.announce("c1")
        assert set(lock.announced()) == {"c1"}


def test_the_file_of_announcements_does_not_grow_for_ever(path: str) -> None:
    with GroupLock(path) as lock:
        for number in range(6000):
            lock.announce(f"container-{number % 10}")
        assert os.stat(f"{path}.lock").st_size < 2 << 16
        assert len(lock.announced()) == 10


def test_a_shim_that_lives_is_told_that_a_container_is_given_up(path: str) -> None:
    heard: list[str] = []

    async def take(call: Call, payload: bytes) -> bytes:
        heard.append(decode_id(payload))
        return b""

    async def scenario() -> None:
        server = Server({group.GROUP_SERVICE: {group.FORGET_METHOD: take}})
        with listen(path) as listener:
            server.start(listener)
            await asyncio.get_running_loop().run_in_executor(None, forget, path, "c1")
            await server.close()

    forget(path, "c1")  # nobody is there
    asyncio.run(scenario())
    assert heard == ["c1"]


@pytest.mark.parametrize("payload", [b"", b"\xff", varint_field(1, 3), bytes_field(2, "c1"), bytes_field(1, b"\xff")])
def test_a_request_of_the_groups_service_needs_an_id(payload: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match=r"containerd\.shimkit\.v1\.Group"):
        decode_id(payload)


def test_the_lock_keeps_others_out_until_it_is_released(path: str) -> None:
    first, second = GroupLock(path), GroupLock(path)
    assert first.acquire()
    assert not second.acquire(blocking=False)
    first.release()
    assert second.acquire(blocking=False)
    second.release(remove=True)
    assert os.listdir(os.path.dirname(path)) == []


def test_who_waits_for_a_lock_whose_file_goes_gets_its_successor(path: str) -> None:
    first = GroupLock(path)
    first.acquire()
    second, third = GroupLock(path), GroupLock(path)
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    time.sleep(0.05)
    first.release(remove=True)
    waiting.join()
    assert not third.acquire(blocking=False), "the second holds the file that is there now"
    second.release(remove=True)


def test_a_dead_socket_goes_and_its_lock_with_it(path: str) -> None:
    listen(path).close()
    remove_dead_socket(path)
    assert os.listdir(os.path.dirname(path)) == []
    remove_dead_socket(path)


def test_a_living_socket_stays(path: str) -> None:
    with listen(path):
        remove_dead_socket(path)
        assert os.path.exists(path)


def test_a_lock_file_that_a_killed_start_left_goes(path: str) -> None:
    Path(f"{path}.lock").touch()
    remove_dead_socket(path)
    assert os.listdir(os.path.dirname(path)) == []
