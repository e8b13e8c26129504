"""Terminals of containers, and what copies them: in real containers, and between a pair of the host's."""

from __future__ import annotations

import array
import asyncio
import os
import pty
import signal
import socket
import stat
import tty
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ShimError,
)
from containerd_shimkit.container.terminal import TerminalStreams, send_to_console_socket

from .bench import Bench, Play, in_user_namespace

SHELL = ("/bin/sh", "-c")


class Client:
    """containerd's end: two FIFOs."""

    def __init__(self, directory: Path) -> None:
        self.stdin, self.stdout = str(directory / "in"), str(directory / "out")
        for path in (self.stdin, self.stdout):
            os.mkfifo(path)
        self.reader = os.open(self.stdout, os.O_RDONLY | os.O_NONBLOCK)
        self.writer = -1
        self.said = b""

    @property
    def config(self) -> dict[str, Any]:
        return {"stdin": self.stdin, "stdout": self.stdout, "stderr": "", "terminal": True}

    def type(self, text: bytes) -> None:
        if self.writer < 0:
            self.writer = os.open(self.stdin, os.O_WRONLY | os.O_NONBLOCK)
        assert os.write(self.writer, text) == len(text)

    def leave(self) -> None:
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self.writer = -1

    def come_back(self) -> None:
        self.reader = os.open(self.stdout, os.O_RDONLY | os.O_NONBLOCK)

    async def hear(self, words: bytes) -> bytes:
        """Read until *words* have come; all that came."""
        for _ in range(500):
            self.read()
            if words in self.said:
                said, self.said = self.said, b""
                return said
            await asyncio.sleep(0.01)
        raise AssertionError(f"{words!r} is not in {self.said!r}")

    def read(self) -> None:
        try:
            while data := os.read(self.reader, 65536):
                self.said += data
        except BlockingIOError:
            pass


# ------------------------------------------------------------------------------------------------------ in containers


@pytest.mark.root
@pytest.mark.parametrize("of_init", [True, False])
def test_a_terminal_is_of_the_containers_devpts_and_controls_the_process(
    play: Play, tmp_path: Path, of_init: bool
) -> None:
    async def scenario(bench: Bench) -> None:
        client = Client(tmp_path)
        script = "tty; stty size; ls -l /dev/pts/0 /dev/console; cat /dev/tty; exit 3"

        def change(spec: dict[str, Any]) -> None:
            spec["process"]["consoleSize"] = {"height": 33, "width": 99}
            spec["process"]["user"] = {"uid": 1000, "gid": 1000}

        if of_init:
            container = await bench.running(*SHELL, script, change=change, **client.config)
        else:
            container = await bench.running()
            size, user = {"height": 33, "width": 99}, {"uid": 1000, "gid": 1000}
            name = await bench.add(container, *SHELL, script, config=client.config, consoleSize=size, user=user)
            await container.start_exec(name)
        said = await client.hear(b"/dev/pts/0\r\n33 99\r\n")
        client.type(b"typed\n")
        said += await client.hear(b"typed\r\ntyped\r\n")  # the terminal's echo, and cat's
        assert b"1000" in said.split(b"/dev/pts/0")[0] + said
        client.type(b"\x04")
        ended = await (container.wait_timeout(10) if of_init else container.wait_exec(name))
        assert ended is not None
        assert ended.status == 3
        client.read()
        said += client.said
        if of_init:
            assert b"/dev/console" in said
            assert b"No such file" not in said
        client.leave()

    play(scenario)


@pytest.mark.root
def test_a_user_namespaces_processes_have_terminals_of_their_own_users(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        client = Client(tmp_path)
        script = "ls -ln $(tty)"
        container = await bench.running(*SHELL, script + "; cat", change=in_user_namespace, **client.config)
        assert b" 0 " in await client.hear(b"/dev/pts/0\r\n")
        name = await bench.add(
            container,
            *SHELL,
            script + "; stty size",
            config=client.config,
            user={"uid": 7, "gid": 7},
            consoleSize={"height": 5, "width": 6},
        )
        await container.start_exec(name)
        said = await client.hear(b"5 6\r\n")
        assert b" 7 " in said, said
        client.leave()

    play(scenario)


@pytest.mark.root
def test_a_terminal_takes_its_size_and_hangs_up_with_its_process(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        client = Client(tmp_path)
        script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
        container = await bench.running(*SHELL, script, **client.config)
        await client.hear(b"ready")
        await container.resize_pty(120, 40)
        await client.hear(b"40 120")
        client.type(b"\x03")  # the foreground group of the terminal is the init's, whose default is to ignore it
        await container.kill(signal.SIGKILL)
        assert await container.wait_timeout(10) is not None
        await container.resize_pty(1, 1)
        client.leave()

    play(scenario)


@pytest.mark.root
def test_all_output_is_with_the_client_before_the_end_is_told(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        for number in range(5):
            directory = tmp_path / str(number)
            directory.mkdir()
            client = Client(directory)
            script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done"
            name = await bench.add(container, *SHELL, script, config=client.config)
            await container.start_exec(name)
            await container.wait_exec(name)
            client.read()
            assert client.said.count(b"\r\n") == 2000
            assert client.said.endswith(b"line 1999\r\n")
            await container.delete_exec(name)
            client.leave()

    play(scenario)


@pytest.mark.root
def test_a_process_that_leaves_another_at_its_terminal_ends_all_the_same(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        client = Client(tmp_path)
        name = await bench.add(container, *SHELL, "trap '' HUP; sleep 1000 & echo said", config=client.config)
        await container.start_exec(name)
        assert (await asyncio.wait_for(container.wait_exec(name), 5)).status == 0
        client.read()
        assert client.said == b"said\r\n"
        client.leave()

    play(scenario)


@pytest.mark.root
def test_a_container_without_devpts_has_no_terminal(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        client = Client(tmp_path)

        def change(spec: dict[str, Any]) -> None:
            spec["mounts"] = [each for each in spec["mounts"] if each["destination"] != "/dev/pts"]

        container = await bench.running(change=change)
        name = await bench.add(container, "/bin/true", config=client.config)
        with pytest.raises(ShimError, match=r"MakeTerminal.*No such file"):
            await container.start_exec(name)
        with pytest.raises(ShimError, match="MakeTerminal"):
            await bench.container(change=change, **client.config)
        client.leave()

    play(scenario)


@pytest.mark.root
def test_what_an_image_puts_where_the_terminals_are_is_not_taken_for_them(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        client = Client(tmp_path)

        def change(spec: dict[str, Any]) -> None:
            spec["mounts"] = [each for each in spec["mounts"] if each["destination"] not in ("/dev", "/dev/pts")]

        container = await bench.running(change=change, files={"/dev/pts/ptmx": "mine"})
        name = await bench.add(container, "/bin/true", config=client.config)
        with pytest.raises(InvalidArgumentError, match="a terminal needs a devpts mounted at"):
            await container.start_exec(name)
        over = await bench.running(
            change=lambda spec: spec["mounts"].append(
                {"destination": "/dev/pts/ptmx", "source": "/dev/null", "type": "bind", "options": ["bind"]}
            )
        )
        name = await bench.add(over, "/bin/true", config=client.config)
        with pytest.raises(InvalidArgumentError, match=r"MakeTerminal.*ptmx"):
            await over.start_exec(name)
        client.leave()

    play(scenario)


@pytest.mark.root
def test_a_terminal_that_nobody_takes_is_refused(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(InvalidArgumentError, match=r"process\.terminal is true, but"):
            await bench.container(change=lambda spec: spec["process"].__setitem__("terminal", True))

    play(scenario)


@pytest.mark.root
def test_a_master_goes_to_the_console_socket(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        path = str(tmp_path / "console")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            container = await bench.container(*SHELL, "echo hello; sleep 1000", terminal=True, console_socket=path)
            line, _ = listener.accept()
        name, master = receive(line)
        line.close()
        assert name == b"/dev/pts/0"
        await container.start()
        assert os.read(master, 100) == b"hello\r\n"
        os.close(master)
        with pytest.raises(FailedPreconditionError, match="has to listen there"):
            await bench.container(terminal=True, console_socket=path)

    play(scenario)


def receive(line: socket.socket) -> tuple[bytes, int]:
    data, ancillary, _flags, _address = line.recvmsg(100, socket.CMSG_SPACE(4))
    ((_level, _kind, content),) = ancillary
    return data, array.array("i", content)[0]


def test_a_console_socket_gets_the_terminal_and_its_name(tmp_path: Path) -> None:
    path = str(tmp_path / "console")
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        send_to_console_socket(path, master, "/dev/pts/7")
        line, _ = listener.accept()
    name, received = receive(line)
    assert (name, os.isatty(received)) == (b"/dev/pts/7", True)
    for each in (master, slave, received):
        os.close(each)
    line.close()


# ------------------------------------------------------------------------------------------------------- what copies


Copy = Callable[[Client, TerminalStreams, int], Awaitable[None]]


def copying(tmp_path: Path, scenario: Copy, *, raw: bool = False, **paths: str) -> None:
    """Run a scenario between a client and the slave of a terminal that is copied."""

    async def whole() -> None:
        before = len(os.listdir("/proc/self/fd"))
        client = Client(tmp_path)
        streams = TerminalStreams(paths.get("stdin", client.stdin), paths.get("stdout", client.stdout))
        master, slave = pty.openpty()
        if raw:
            tty.setraw(slave)
        os.set_blocking(slave, False)
        streams.attach(master, "/dev/pts/1")
        try:
            await asyncio.wait_for(scenario(client, streams, slave), 20)
        finally:
            streams.close_child()
            streams.close()
            streams.close()
            client.leave()
            if slave_is_open(slave):
                os.close(slave)
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(whole())


def slave_is_open(slave: int) -> bool:
    try:
        return stat.S_ISCHR(os.fstat(slave).st_mode)
    except OSError:
        return False


async def read_from(slave: int) -> bytes:
    for _ in range(300):
        try:
            return os.read(slave, 65536)
        except BlockingIOError:
            await asyncio.sleep(0.01)
    raise AssertionError("nothing to read")


def test_input_and_output_are_copied_and_clients_come_and_go(tmp_path: Path) -> None:
    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        client.type(b"one")
        assert await read_from(slave) == b"one"
        client.leave()
        await asyncio.sleep(0.05)
        os.write(slave, b"while away")
        client.come_back()
        await client.hear(b"while away")
        client.type(b"two")
        assert await read_from(slave) == b"two"

    copying(tmp_path, scenario, raw=True)


def test_a_client_that_does_not_read_holds_the_writer_up_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        sent = 0
        quiet = 0
        while quiet < 20:
            try:
                sent += os.write(slave, b"x" * 4096)
                quiet = 0
            except BlockingIOError:
                quiet += 1
            await asyncio.sleep(0.002)
        assert 65536 < sent < 400_000, "the FIFO, our own room, the terminal's, and no more"
        heard = 0
        for _ in range(500):
            client.read()
            heard = len(client.said)
            if heard == sent:
                break
            await asyncio.sleep(0.01)
        assert heard == sent

    copying(tmp_path, scenario, raw=True)


def test_input_that_nobody_reads_is_held_back(tmp_path: Path) -> None:
    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        client.writer = os.open(client.stdin, os.O_WRONLY | os.O_NONBLOCK)
        sent, quiet = 0, 0
        while quiet < 20:
            try:
                sent += os.write(client.writer, b"y" * 4096)
                quiet = 0
            except BlockingIOError:
                quiet += 1
            await asyncio.sleep(0.002)
        assert sent < 400_000
        heard = b""
        while len(heard) < sent:
            heard += await read_from(slave)
        assert heard == b"y" * sent

    copying(tmp_path, scenario, raw=True)


@pytest.mark.parametrize(("typed", "read"), [(b"line\n", [b"line\n", b""]), (b"half", [b"half", b""]), (b"", [b""])])
def test_the_end_of_the_input_is_the_end_for_who_reads_lines(tmp_path: Path, typed: bytes, read: list[bytes]) -> None:
    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        client.type(typed)
        os.close(client.writer)
        client.writer = -1
        await asyncio.sleep(0.05)
        found = [await read_from(slave)] if typed.endswith(b"\n") else []
        with pytest.raises(BlockingIOError):
            os.read(slave, 100)  # the client may come back
        streams.close_stdin()
        assert found + [await read_from(slave) for _ in read[len(found) :]] == read

    copying(tmp_path, scenario)


def test_the_output_ends_for_the_client_when_the_terminal_has_hung_up(tmp_path: Path) -> None:
    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        os.write(slave, b"last words")
        os.close(slave)
        await streams.drain()
        await asyncio.sleep(0)
        assert os.read(client.reader, 100) == b"last words"
        assert os.read(client.reader, 100) == b"", "the end of the file"

    copying(tmp_path, scenario, raw=True)


def test_a_terminal_that_is_closed_and_opened_again_goes_on(tmp_path: Path) -> None:
    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        name = os.ttyname(slave)
        os.close(slave)
        await asyncio.sleep(0.15)
        again = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(again, b"again")
        await client.hear(b"again")
        os.close(again)

    copying(tmp_path, scenario, raw=True)


def test_files_do_as_well(tmp_path: Path) -> None:
    typed, said = tmp_path / "typed", tmp_path / "said"
    typed.write_bytes(b"from a file")
    said.touch()

    async def scenario(client: Client, streams: TerminalStreams, slave: int) -> None:
        assert await read_from(slave) == b"from a file"
        os.write(slave, b"to a file")
        for _ in range(100):
            if said.read_bytes() == b"to a file":
                break
            await asyncio.sleep(0.01)
        assert said.read_bytes() == b"to a file"

    copying(tmp_path, scenario, raw=True, stdin=str(typed), stdout=str(said))


def test_a_stream_that_cannot_be_opened_is_named_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotFoundError, match="stdin '/no/where'"):
        TerminalStreams("/no/where", "")
    with pytest.raises(NotFoundError, match="stdout '/no/where'"):
        TerminalStreams("", "/no/where")
    with pytest.raises(InvalidArgumentError, match="stdout 'http://x'"):
        TerminalStreams("", "http://x")
    assert len(os.listdir("/proc/self/fd")) == before
