"""Accepting: who is let in, and that no error ends it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from containerd_shimkit.errors import UnimplementedError
from containerd_shimkit.ttrpc.aio import acceptor
from containerd_shimkit.ttrpc.aio.acceptor import Acceptor


class _Flaky(socket.socket):
    """A listener whose first accepts fail."""

    failures = (errno.EMFILE, errno.ECONNABORTED, errno.ENFILE, errno.EINVAL)

    def accept(self) -> tuple[socket.socket, object]:
        count = int(getattr(self, "count", 0))
        if count < len(self.failures):
            self.count = count + 1
            raise OSError(self.failures[count], os.strerror(self.failures[count]))
        return super().accept()


@contextlib.asynccontextmanager
async def _accepting(
    address: str, *, check_peer: bool = True, kind: type[socket.socket] = socket.socket
) -> AsyncIterator[tuple[Acceptor, asyncio.Queue[socket.socket]]]:
    accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
    with kind(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(64)
        accepting = Acceptor(listener, accepted.put_nowait, check_peer=check_peer)
        yield accepting, accepted
        accepting.stop()
        while not accepted.empty():
            accepted.get_nowait().close()


def _run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(bounded())


@contextlib.contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.setblocking(False)
        peer.connect(address)
        yield peer


async def _is_turned_away(peer: socket.socket) -> bool:
    """Whether the other side closes *peer* without a byte."""
    return await asyncio.get_running_loop().sock_recv(peer, 100) == b""


def _say_we_are_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)


def test_connections_are_handed_over_non_blocking_and_in_order(address: str) -> None:
    async def test() -> None:
        async with _accepting(address) as (_, accepted):
            with contextlib.ExitStack() as stack:
                peers = [stack.enter_context(_connected(address)) for _ in range(40)]
                for number, peer in enumerate(peers):
                    peer.send(bytes((number,)))
                for number in range(40):
                    with await accepted.get() as connection:
                        assert not connection.getblocking()
                        assert connection.recv(9) == bytes((number,))

    _run(test)


def test_a_peer_of_another_user_is_turned_away_without_a_byte(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with _accepting(address) as (_, accepted):
            with _connected(address) as peer:
                assert await _is_turned_away(peer)
            assert accepted.empty()

    _say_we_are_somebody_else(monkeypatch)
    _run(test)
    assert f"refused a connection of process {os.getpid()}: it runs as user {os.getuid()}" in caplog.text


def test_a_peer_of_another_user_is_welcome_where_that_is_wanted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with _accepting(address, check_peer=False) as (_, accepted):
            with _connected(address):
                (await accepted.get()).close()

    _say_we_are_somebody_else(monkeypatch)
    _run(test)


def _read_as(uid: int, gid: int, address: str) -> int:
    """Fork a child of another user that connects; its exit status: how many bytes it read, 200 when it failed."""
    child = os.fork()
    if child:
        return child
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(10)
            peer.connect(address)
            os._exit(len(peer.recv(100)))
    finally:
        os._exit(200)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize(
    ("uid", "gid", "welcome"), [(1234, 1234, False), (0, 1234, False), (1234, 0, False), (0, 0, True)]
)
def test_only_our_own_user_and_group_are_let_in(address: str, uid: int, gid: int, welcome: bool) -> None:
    async def test() -> None:
        async with _accepting(address) as (_, accepted):
            os.chmod(address, 0o777)
            os.chmod(Path(address).parent, 0o755)
            child = _read_as(uid, gid, address)
            if welcome:
                with await accepted.get() as connection:
                    connection.send(b"hello")
            while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                await asyncio.sleep(0.01)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == (5 if welcome else 0)
            assert accepted.empty()

    _run(test)


def test_a_system_that_cannot_tell_peers_says_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        with pytest.raises(UnimplementedError, match="pass check_peer=False"):
            async with _accepting(address):
                pass
        Path(address).unlink()
        async with _accepting(address, check_peer=False) as (_, accepted):
            with _connected(address):
                (await accepted.get()).close()

    monkeypatch.delattr(socket, "SO_PEERCRED")
    _run(test)


def test_no_error_of_accept_ends_accepting(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with _accepting(address, kind=_Flaky) as (_, accepted):
            with _connected(address):
                (await accepted.get()).close()

    monkeypatch.setattr(acceptor, "_PAUSE", 0.01)
    _run(test)
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot accept a connection, trying again in 0.01 s: [Errno {number}] {os.strerror(number)}"
        for number in (errno.EMFILE, errno.ENFILE, errno.EINVAL)
    ]


@pytest.mark.parametrize("kind", [socket.socket, _Flaky])
def test_accepting_can_be_stopped_even_while_it_pauses(address: str, kind: type[socket.socket]) -> None:
    async def test() -> None:
        async with _accepting(address, kind=kind) as (accepting, accepted):
            if kind is _Flaky:
                with _connected(address):
                    await asyncio.sleep(0.02)
            accepting.stop()
            accepting.stop()
            with _connected(address):
                await asyncio.sleep(0.15)
                assert accepted.empty()

    _run(test)


def test_a_peer_that_cannot_be_told_is_turned_away(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(connection: socket.socket) -> bool:
        raise OSError(errno.ENOTCONN, "gone")

    async def test() -> None:
        async with _accepting(address) as (_, accepted):
            with monkeypatch.context() as patch:
                patch.setattr(acceptor, "_is_our_own", gone)
                with _connected(address) as peer:
                    assert await _is_turned_away(peer)
            with _connected(address):
                (await accepted.get()).close()

    _run(test)
    assert "cannot tell who connected: [Errno 107] gone" in caplog.text
