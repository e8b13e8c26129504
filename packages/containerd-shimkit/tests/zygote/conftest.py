"""Real zygotes of a shim that serves nothing, each in a directory of a test's own, and the raw words for one."""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from containerd_shimkit.zygote.messages import encode_request
from containerd_shimkit.zygote.naming import socket_path

PROGRAM = """
import sys
from containerd_shimkit.shim.actions import Shim
from containerd_shimkit.shim.bootstrap import main
from containerd_shimkit.zygote import server

def never(id, config):
    raise AssertionError("no instance is made here")

{changes}
sys.exit(main(Shim("faulty", lambda: "7", never)))
"""
ROOM = 512
Start = Callable[..., "LivingZygote"]


@dataclass(slots=True)
class LivingZygote:
    """One zygote, the child of this process."""

    process: subprocess.Popen[bytes]
    path: str

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(10)
        connection.connect(self.path)
        return connection

    def ask(self, *words: str, descriptors: Sequence[int] | None = None) -> bytes:
        """All that it answers to a whole request; by default with / and /dev/null."""
        with self.connect() as connection:
            send(connection, encode_request(["shim", *words], {}), descriptors)
            return read_to_end(connection)

    def end(self) -> None:
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int] | None = None) -> None:
    """Send *data* with *descriptors*, by default those of / and /dev/null."""
    opened = []
    if descriptors is None:
        opened = [os.open("/", os.O_RDONLY | os.O_DIRECTORY), os.open("/dev/null", os.O_RDONLY)]
        descriptors = opened
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        connection.sendmsg([data], ancillary)
    finally:
        for each in opened:
            os.close(each)


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes, however the other side ends it."""
    data = b""
    try:
        while piece := connection.recv(1 << 16):
            data += piece
    except (ConnectionResetError, BrokenPipeError):
        pass
    return data


def is_asleep(pid: int) -> bool:
    """Whether it waits for something, which a zygote does only when it has nothing to do."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S"


def read_until_ready(pipe: int) -> bytes:
    said = b""
    while select.select([pipe], [], [], 20)[0] and (piece := os.read(pipe, 1 << 16)):
        said += piece
    return said


@pytest.fixture
def start_zygote() -> Iterator[Start]:
    """Start a zygote, in whose program *changes* are made first; all end with the test.

    Without any it has no rehearsal, which would come in the middle of a test, and leaves its poll(2) only when it must.
    """
    made: list[LivingZygote] = []
    with tempfile.TemporaryDirectory(prefix="zyg-") as directory:  # short: the path of a socket has 107 bytes

        def start(changes: str = "server._QUIET = 60.0") -> LivingZygote:
            program = Path(directory, f"shim{len(made)}.py")
            program.write_text(PROGRAM.format(changes=changes))
            command = [sys.executable, "-I", str(program)]
            path = socket_path(command, directory)
            words = [*command, "-socket", path, "-padding", "-" * ROOM, "zygote"]
            process = subprocess.Popen(
                words, env={}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            made.append(LivingZygote(process, path))
            assert process.stderr is not None
            with process.stderr as pipe:
                said = read_until_ready(pipe.fileno())
            assert said.endswith(b"\0ready"), said.decode(errors="replace")
            while not is_asleep(process.pid):  # it has made what it needs only then
                time.sleep(0.01)
            return made[-1]

        yield start
        for each in made:
            each.end()


@pytest.fixture
def living_zygote(start_zygote: Start) -> LivingZygote:
    return start_zygote()


def header(magic: bytes, *numbers: int) -> bytes:
    return struct.pack("<4s3I", magic, *numbers)
