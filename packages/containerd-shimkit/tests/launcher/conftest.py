"""A launcher compiled for the tests, with a directory of its own, and a scripted zygote that it finds there."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from containerd_shimkit.launcher.block import fill_command
from containerd_shimkit.launcher.build import compile_launcher, find_compiler
from containerd_shimkit.zygote.messages import HEADER_SIZE, Request, decode_request, request_size
from containerd_shimkit.zygote.naming import socket_path

PATIENCE_MS = 3000
SLOW = """
import json, os, sys, time
if sys.argv[-1] == "zygote":
    zygote = sys.argv[0] + ".zygote"
    if not os.path.exists(zygote):
        sys.exit("there is no zygote in this test")
    exec(open(zygote).read())
    sys.exit(0)
if sys.argv[1:2] == ["linger"]:
    time.sleep(float(sys.argv[2]))
seen = {
    "argv": sys.argv,
    "env": dict(os.environ),
    "cwd": os.getcwd(),
    "stdin": sys.stdin.read() if sys.argv[1:2] == ["read"] else "",
    "open": {number: os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
             if os.path.lexists(f"/proc/self/fd/{number}")},
    "ignored": next(line for line in open("/proc/self/status") if line.startswith("SigIgn")).split()[1],
    "isolated": sys.flags.isolated,
}
with open(f"{sys.argv[0]}.{os.getpid()}.new", "w") as file:
    json.dump(seen, file)
os.rename(file.name, f"{sys.argv[0]}.{os.getpid()}.json")
print("slow", end="")
sys.exit(3)
"""
Script = Callable[[socket.socket], None]


@pytest.fixture(scope="session")
def compiler() -> list[str]:
    found = find_compiler()
    if found is None:
        pytest.skip("no C compiler (cc, gcc or clang) on PATH")
    return found


@pytest.fixture(scope="session")
def built(compiler: list[str]) -> Iterator[tuple[bytes, Path]]:
    """An empty launcher's bytes, and the directory that it uses in the place of the one in /run."""
    scratch = Path(tempfile.mkdtemp(prefix="skz-"))  # short: the path of a socket has 107 bytes
    directory = scratch / "run"
    definitions = (f'LAUNCHER_DIRECTORY="{directory}"', f"PATIENCE_MS={PATIENCE_MS}")
    compile_launcher(compiler, str(scratch / "launcher"), definitions=definitions)
    yield (scratch / "launcher").read_bytes(), directory
    shutil.rmtree(scratch)


@dataclass(slots=True)
class Launcher:
    """A launcher of a test's own, and the Python program that it falls back to, which notes how it was called."""

    path: Path
    directory: Path
    command: list[str]

    def run(
        self, *words: str, data: bytes = b"", env: dict[str, str] | None = None, cwd: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(self.path), *words], input=data, env=env, cwd=cwd, capture_output=True, check=False, timeout=30
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        command = [str(self.path), *words]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @property
    def socket(self) -> str:
        return socket_path(self.command, str(self.directory))

    def slow_runs(self) -> list[dict[str, object]]:
        """What each run of the slow path has noted."""
        script = Path(self.command[-1])
        return [json.loads(path.read_text()) for path in sorted(script.parent.glob(f"{script.name}.*.json"))]


@pytest.fixture
def launcher(built: tuple[bytes, Path], tmp_path: Path) -> Iterator[Launcher]:
    template, directory = built
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, "-I", str(script)]
    path = tmp_path / "containerd-shim-test-v1"
    path.write_bytes(fill_command(template, command))
    path.chmod(0o755)
    directory.mkdir(mode=0o700)
    yield Launcher(path, directory, command)
    if directory.is_dir() and not directory.is_symlink():
        shutil.rmtree(directory)
    else:
        directory.unlink(missing_ok=True)


@dataclass(slots=True)
class Zygote:
    """A scripted zygote: takes a request, notes it, then does with the connection what its script says."""

    path: str
    script: Script
    backlog: int = 128
    requests: list[Request] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    connections: int = 0
    _listener: socket.socket = field(init=False)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Zygote:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(self.backlog)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        os.unlink(self.path)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                try:
                    self.script(connection)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the caller has gone: its test says whether it may

    def take(self, connection: socket.socket) -> None:
        """Read the request on *connection*, and note it."""
        data, descriptors = b"", array.array("i")
        while len(data) < HEADER_SIZE or len(data) < request_size(data):
            piece, ancillary, _flags, _address = connection.recvmsg(1 << 16, socket.CMSG_SPACE(64))
            if not piece:
                return
            data += piece
            for _level, _kind, content in ancillary:
                descriptors.frombytes(content)
        directory, stdin = descriptors
        self.directories.append(os.readlink(f"/proc/self/fd/{directory}"))
        with open(stdin, "rb") as file:
            self.inputs.append(b"" if os.isatty(stdin) else file.read())
        os.close(directory)
        self.requests.append(decode_request(data))


def answering(path: str, *pieces: bytes, pause: float = 0.0) -> Zygote:
    """A zygote that takes each request and sends *pieces*, one after the other, then closes the connection."""

    def script(connection: socket.socket) -> None:
        made.take(connection)
        for number, piece in enumerate(pieces):
            if number and pause:
                threading.Event().wait(pause)
            connection.sendall(piece)

    made = Zygote(path, script)
    return made


@pytest.fixture
def zygote(launcher: Launcher) -> Callable[..., Zygote]:
    """Make a zygote at the launcher's socket that answers with the bytes given."""

    def make(*pieces: bytes, pause: float = 0.0) -> Zygote:
        return answering(launcher.socket, *pieces, pause=pause)

    return make


@pytest.fixture
def scripted(launcher: Launcher) -> Callable[..., Zygote]:
    """Make a zygote at the launcher's socket that does what a script says."""

    def make(script: Script, backlog: int = 128) -> Zygote:
        return Zygote(launcher.socket, script, backlog)

    return make
