from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from containerd_shimkit import InvalidArgumentError, UnavailableError
from containerd_shimkit.shim import group
from containerd_shimkit.shim.group import GroupLock, announce, decode_announcement, listen, remove_dead_socket
from containerd_shimkit.ttrpc.aio.server import Call, Server
from containerd_shimkit.wire import bytes_field, varint_field


@pytest.fixture
def path(tmp_path: Path) -> str:
    directory = tmp_path / "s"
    directory.mkdir(mode=0o700)
    return str(directory / "socket")


async def answer_of(server: Server, path: str) -> bool:
    """What `announce` makes of *server*."""
    with listen(path) as listener:
        server.start(listener)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, announce, path, "c1")
        finally:
            await server.close()


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


def test_the_shim_hears_of_a_container_to_come(path: str) -> None:
    heard: list[str] = []

    async def take(call: Call, payload: bytes) -> bytes:
        heard.append(decode_announcement(payload))
        return b""

    async def scenario() -> bool:
        return await answer_of(Server({group.GROUP_SERVICE: {group.ANNOUNCE_METHOD: take}}), path)

    assert asyncio.run(scenario())
    assert heard == ["c1"]


def test_somebody_elses_server_is_not_taken_for_the_shim(path: str) -> None:
    async def scenario() -> bool:
        return await answer_of(Server({}), path)

    with pytest.raises(UnavailableError, match="is not this shim"):
        asyncio.run(scenario())


def test_nobody_is_there_without_a_socket_or_behind_a_dead_one(path: str) -> None:
    assert not announce(path, "c1")
    listen(path).close()
    assert not announce(path, "c1")


def test_a_shim_that_dies_before_it_answers_is_not_there(path: str) -> None:
    with listen(path) as listener:
        listener.setblocking(True)
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        assert not announce(path, "c1")
        thread.join()


def test_a_shim_that_hangs_is_an_error_with_a_cure(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_ANSWER_TIMEOUT", 0.05)
    with listen(path), pytest.raises(UnavailableError, match="exists but gave no answer"):
        announce(path, "c1")


@pytest.mark.parametrize("payload", [b"", b"\xff", varint_field(1, 3), bytes_field(2, "c1"), bytes_field(1, b"\xff")])
def test_an_announcement_needs_an_id(payload: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="announcement"):
        decode_announcement(payload)


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
