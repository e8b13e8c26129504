"""Tasks run without containerd: a scripted program stands for the shim, and its Task service for the guest."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from containerd_shimkit.instance import ExitStatus
from containerd_shimkit.linux import user_namespaces
from containerd_shimkit.linux.user_namespaces import Standing
from containerd_shimkit.local import LocalBundle, find_shim, local_bundle, run_task
from containerd_shimkit.proto import task_pb2
from containerd_shimkit.ttrpc.aio.server import Call, Server
from containerd_shimkit.wire import bytes_field, varint_field

SERVICE = "containerd.task.v2.Task"


def nothing(_request: Any) -> None:
    """What a method does beside answering."""


class Shim:
    """A Task service of one task, and the program that would start it."""

    def __init__(self, directory: Path) -> None:
        self.bundle = LocalBundle(str(directory), "guest", "local")
        os.makedirs(self.bundle.rootfs)
        for name in ("stdout", "stderr", "bundle/log"):
            os.mkfifo(directory / name, 0o600)
        self.program = str(directory / "shim")
        self.address = str(directory / "s")
        self.service = SERVICE
        self.calls: list[str] = []
        self.kills: list[int] = []
        self.written: list[tuple[int, bytes]] = []
        self.on: dict[str, Callable[[Any], object]] = {}
        self.ended: asyncio.Future[int]
        self.answer(f"unix://{self.address}".encode())

    def answer(self, output: bytes, status: int = 0, delete: str = "exit 0") -> None:
        """Have `start` print *output* and end with *status*."""
        Path(self.program).with_suffix(".out").write_bytes(output)
        script = f"""#!/bin/sh
for last; do :; done
echo "$last" >>{self.program}.log
[ "$last" = delete ] && {{ {delete}; }}
cat >/dev/null
[ {status} -eq 0 ] || {{ cat {self.program}.out >&2; exit {status}; }}
exec cat {self.program}.out
"""
        Path(self.program).write_text(script)
        os.chmod(self.program, 0o755)

    @property
    def actions(self) -> list[str]:
        return Path(f"{self.program}.log").read_text().split()

    def run(self, *, debug: bool = False, write: Callable[[int, bytes], object] | None = None) -> ExitStatus:
        async def play() -> ExitStatus:
            self.ended = asyncio.get_running_loop().create_future()
            methods = {name: self._handler(name) for name in ("Create", "Start", "Wait", "Kill", "Delete", "Shutdown")}
            server = Server({self.service: methods})
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(self.address)
                listener.listen()
                listener.setblocking(False)
                server.start(listener)
                self._server = server
                try:
                    taken = write or (lambda stream, data: self.written.append((stream, data)))
                    return await run_task(self.program, self.bundle, taken, debug=debug)
                finally:
                    await server.close(1)

        return asyncio.run(asyncio.wait_for(play(), 30))

    def guest_writes(self, name: str, data: bytes) -> None:
        with open(os.path.join(self.bundle.directory, name), "wb") as file:
            file.write(data)

    def _handler(self, name: str) -> Callable[[Call, bytes], Awaitable[bytes]]:
        request: Any = task_pb2.CreateTaskRequest if name == "Create" else getattr(task_pb2, f"{name}Request")

        async def handle(call: Call, payload: bytes) -> bytes:
            del call
            self.calls.append(name)
            decoded = request.FromString(payload)
            assert decoded.id == "guest"
            self.on.get(name, nothing)(decoded)
            if name == "Kill":
                if self.ended.done():
                    raise NotFoundError("the guest has ended")
                self.kills.append(decoded.signal)
                self.ended.set_result(128 + decoded.signal)
            if name == "Wait":
                return task_pb2.WaitResponse(exit_status=await asyncio.shield(self.ended)).SerializeToString()
            if name == "Shutdown":
                asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._server.close(0.1)))
            return b""

        return handle


@pytest.fixture
def shim() -> Iterator[Shim]:
    with tempfile.TemporaryDirectory(prefix="local-", dir="/tmp") as directory:  # a socket's path must be short
        yield Shim(Path(directory))


def test_the_guests_output_and_status_come_out_and_everything_ends(shim: Shim) -> None:
    def start(_request: Any) -> None:
        shim.guest_writes("stdout", b"out")
        shim.guest_writes("stderr", b"err")
        shim.guest_writes("bundle/log", b"log")
        shim.ended.set_result(42)

    shim.on["Start"] = start
    ended = shim.run()
    assert ended.status == 42
    assert ended.exited_at.tzinfo is not None
    assert sorted(shim.written) == [(1, b"out"), (2, b"err")]
    assert shim.calls == ["Create", "Start", "Wait", "Kill", "Delete", "Shutdown"]
    assert shim.actions == ["start", "delete"]


def test_the_shims_log_is_shown_on_request(shim: Shim) -> None:
    def start(_request: Any) -> None:
        shim.guest_writes("bundle/log", b"log")
        shim.ended.set_result(0)

    shim.on["Start"] = start
    shim.run(debug=True)
    assert shim.written == [(2, b"log")]


def test_output_as_big_as_a_pipe_is_not_lost_at_the_end(shim: Shim) -> None:
    def start(_request: Any) -> None:
        shim.guest_writes("stdout", b"x" * 65536)
        shim.ended.set_result(0)

    shim.on["Start"] = start
    shim.run()
    assert sum(len(data) for _, data in shim.written) == 65536


@pytest.mark.parametrize(("sent", "taken"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")])
def test_signals_are_handed_on_to_the_guest(shim: Shim, sent: str, taken: str) -> None:
    numbers = [getattr(signal, name) for name in (sent, taken)]
    before = [signal.getsignal(number) for number in numbers]
    shim.on["Wait"] = lambda _: None if shim.ended.done() else os.kill(os.getpid(), numbers[0])
    assert shim.run().status == 128 + numbers[1]
    assert shim.kills == [numbers[1]]
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_before_the_start_ends_the_run_without_one(shim: Shim) -> None:
    shim.on["Create"] = lambda _: os.kill(os.getpid(), signal.SIGTERM)
    assert shim.run().status == 143
    assert "Start" not in shim.calls
    assert shim.kills == [signal.SIGKILL]
    assert shim.calls[-2:] == ["Delete", "Shutdown"]


def test_output_that_cannot_be_written_kills_the_guest_and_is_the_callers_error(shim: Shim) -> None:
    def write(stream: int, data: bytes) -> None:
        raise BrokenPipeError("nobody reads")

    shim.on["Start"] = lambda _: shim.guest_writes("stdout", b"out")
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        shim.run(write=write)
    assert shim.kills == [signal.SIGKILL]
    assert shim.actions == ["start", "delete"]


def test_the_last_output_failing_is_an_error_too(shim: Shim) -> None:
    def start(_request: Any) -> None:
        shim.ended.set_result(0)

    def write(stream: int, data: bytes) -> None:
        raise OSError("disk full")

    shim.on["Start"] = start
    shim.on["Delete"] = lambda _: shim.guest_writes("stdout", b"late")
    with pytest.raises(OSError, match="disk full"):
        shim.run(write=write)


def test_an_error_of_the_shim_is_raised_when_everything_has_ended(shim: Shim) -> None:
    def create(_request: Any) -> None:
        raise InvalidArgumentError("no such program: /x")

    shim.on["Create"] = create
    with pytest.raises(InvalidArgumentError, match="no such program: /x"):
        shim.run()
    assert shim.calls[-1] == "Shutdown"
    assert shim.actions == ["start", "delete"]


@pytest.mark.parametrize("form", ["plain", "JSON", "protobuf"])
@pytest.mark.parametrize("version", [2, 3])
def test_an_answer_of_start_is_taken_in_every_form(shim: Shim, form: str, version: int) -> None:
    address = f"unix://{shim.address}"
    answers = {
        "plain": f"{address}\n".encode(),
        "JSON": json.dumps({"version": version, "address": address, "protocol": "ttrpc"}).encode(),
        "protobuf": varint_field(1, version) + bytes_field(2, address) + bytes_field(3, "ttrpc"),
    }
    shim.answer(answers[form])
    shim.service = f"containerd.task.v{2 if form == 'plain' else version}.Task"
    shim.on["Start"] = lambda _: shim.ended.set_result(7)
    assert shim.run().status == 7


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"hello", b"{", b"{}", b"\x08\x02", b"/\xff"),
        *(b'{"version": 2, "address": "unix:///x", "protocol": "grpc"}', b'{"version": 2, "address": 1}'),
        b'{"version": 4, "address": "unix:///x", "protocol": "ttrpc"}',
    ],
)
def test_an_answer_that_is_no_address_is_shown(shim: Shim, answer: bytes) -> None:
    shim.answer(answer)
    with pytest.raises(UnavailableError, match="shim start answered") as caught:
        shim.run()
    assert repr(answer) in str(caught.value)
    assert shim.actions == ["start", "delete"]


def test_the_words_of_a_start_that_fails_are_the_errors(shim: Shim) -> None:
    shim.answer(b"no room at all", status=1, delete="echo worse >&2; exit 1")
    with pytest.raises(UnavailableError, match="shim start failed: no room at all"):
        shim.run()
    assert shim.actions == ["start", "delete"]


def test_a_clean_up_that_fails_is_an_error(shim: Shim) -> None:
    shim.answer(f"unix://{shim.address}".encode(), delete="echo the mount is busy >&2; exit 1")
    shim.on["Start"] = lambda _: shim.ended.set_result(0)
    with pytest.raises(UnavailableError, match="shim delete failed: the mount is busy"):
        shim.run()


def test_nobody_at_the_address_is_an_error(shim: Shim) -> None:
    shim.answer(b"unix:///tmp/nobody-is-here")
    with pytest.raises(UnavailableError, match="/tmp/nobody-is-here"):
        shim.run()


def test_a_program_that_cannot_be_run_is_named(shim: Shim) -> None:
    os.unlink(shim.program)
    with pytest.raises(FileNotFoundError, match=shim.program):
        shim.run()


def test_a_shim_is_found_beside_python_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("beside", "path"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "containerd-shim-x-v1").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_shim("x") == str(tmp_path / "path" / "containerd-shim-x-v1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    assert find_shim("x") == str(tmp_path / "beside" / "containerd-shim-x-v1")
    with pytest.raises(NotFoundError, match=r"containerd-shim-y-v1 is installed neither beside .* pip install"):
        find_shim("y")


@pytest.mark.parametrize("engine", ["", "../x", "a/b", "x y", "-x"])
def test_an_engine_that_is_no_name_is_refused(engine: str) -> None:
    with pytest.raises(InvalidArgumentError, match="engine"):
        find_shim(engine)


def test_a_bundle_wants_user_namespaces_or_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_namespaces, "own_standing", lambda: Standing(is_hosts_root=False, has_fixed_groups=False))
    setting = tmp_path / "setting"
    monkeypatch.setattr(user_namespaces, "_SETTINGS", ((str(setting), "0", "1"),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    setting.write_text("0\n")
    with (
        pytest.raises(FailedPreconditionError, match=r"user 1000 cannot run .* setting .*setting is 0: .*sudo"),
        local_bundle({}, id="x"),
    ):
        pass
    setting.write_text("1\n")
    with local_bundle({"linux": {"cgroupsPath": "/x"}}, id="x") as bundle:
        spec = json.loads(Path(bundle.path, "config.json").read_text())
    assert spec["linux"]["namespaces"] == [{"type": "user"}]
    assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert "cgroupsPath" not in spec["linux"]


def test_a_bundle_wants_good_names() -> None:
    with pytest.raises(InvalidArgumentError, match="task id"), local_bundle({}, id="../x"):
        pass
    with pytest.raises(InvalidArgumentError, match="namespace"), local_bundle({}, id="x", namespace="a/b"):
        pass


@pytest.mark.root
def test_a_bundle_is_removed_however_it_is_left() -> None:
    if os.geteuid() != 0:
        pytest.skip(f"a bundle needs root, this is uid {os.geteuid()}")
    with local_bundle({"ociVersion": "1.0.2"}, id="x") as bundle:
        assert json.loads(Path(bundle.path, "config.json").read_text()) == {"ociVersion": "1.0.2"}
        assert os.listdir(bundle.rootfs) == []
    assert not os.path.exists(bundle.directory)
    with pytest.raises(RuntimeError), local_bundle({}, id="x") as bundle:
        raise RuntimeError
    assert not os.path.exists(bundle.directory)


@pytest.mark.root
def test_sigterm_removes_a_bundle_too() -> None:
    if os.geteuid() != 0:
        pytest.skip(f"a bundle needs root, this is uid {os.geteuid()}")
    script = """
import time
from containerd_shimkit.local import local_bundle
with local_bundle({}, id="x") as bundle:
    print(bundle.directory, flush=True)
    time.sleep(50)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        directory = holder.stdout.readline().strip()
        assert os.path.isdir(directory)
        holder.terminate()
        assert holder.wait(20) == 143
    assert not os.path.exists(directory)


@pytest.mark.root
def test_a_bundle_with_something_mounted_in_it_is_not_removed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"mounting needs root, this is uid {os.geteuid()}")
    (tmp_path / "precious").touch()
    directory = ""
    try:
        with pytest.raises(FailedPreconditionError, match="rootfs is still mounted in it: umount"):
            with local_bundle({}, id="x") as bundle:
                directory = bundle.directory
                subprocess.run(["mount", "--bind", str(tmp_path), bundle.rootfs], check=True)
        assert (tmp_path / "precious").exists()
    finally:
        subprocess.run(["umount", f"{directory}/bundle/rootfs"], check=True)
        subprocess.run(["rm", "-r", directory], check=True)
