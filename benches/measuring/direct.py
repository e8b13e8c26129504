"""A shim spoken to without containerd: one group, bundles made beforehand, blocking calls that cost little."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from containerd_shimkit.proto import events_pb2, forward_pb2
from containerd_shimkit.ttrpc.aio.client import parse_address
from containerd_shimkit.ttrpc.connection import Connection, RequestReceived, ResponseReceived, Role
from containerd_shimkit.ttrpc.status import Status, error_of
from containerd_shimkit.wire import bytes_field, decode_fields, varint_field

from .programs import NATIVE_OURS
from .stage import Stage

__all__ = ["DirectShim", "Events", "TaskClient", "direct_shim"]

_SERVICE: Final = "containerd.task.v2.Task"
_TIMEOUT: Final = 120.0
_READ: Final = 65536


class TaskClient:
    """One connection to a shim: a call at a time, or several that were sent before."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT)
        self._socket.connect(parse_address(address))
        self._core = Connection(Role.CLIENT)

    def fileno(self) -> int:
        """The socket, for poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def send(self, method: str, fields: bytes) -> None:
        """Begin a call; its answer is for `receive`."""
        self._socket.sendall(self._core.send_request(_SERVICE, method, fields)[1])

    def receive(self) -> dict[int, int | bytes]:
        """Wait for the next answer; its fields by number. Raises: ShimError that it means; ConnectionError."""
        while True:
            data = self._socket.recv(_READ)
            if not data:
                raise ConnectionError("the shim has closed the connection")
            for event in self._core.receive_data(data):
                assert isinstance(event, ResponseReceived)
                if isinstance(event.answer, Status):
                    raise error_of(event.answer)
                return dict(decode_fields(event.answer))

    def call(self, method: str, id: str, more: bytes = b"") -> dict[int, int | bytes]:  # noqa: A002
        """Call a method for a task; the answer's fields by number."""
        self.send(method, bytes_field(1, id) + more)
        return self.receive()

    def create(self, id: str, bundle: str, stdout: str = "") -> int:  # noqa: A002
        """Create a task; its pid."""
        return _number(self.call("Create", id, bytes_field(2, bundle) + bytes_field(6, stdout)), 1)

    def wait(self, id: str) -> int:  # noqa: A002
        """Wait for a task's end; its exit status."""
        return _number(self.call("Wait", id), 1)

    def kill(self, id: str) -> None:  # noqa: A002
        """Kill a task by SIGKILL."""
        self.call("Kill", id, varint_field(3, 9))

    def shut_down(self, id: str) -> None:  # noqa: A002
        """Ask the shim to end; that an earlier call of this has ended it is no error, nor is it one to containerd."""
        try:
            self.call("Shutdown", id)
        except ConnectionError:
            pass

    def run(self, id: str, bundle: str, stdout: str = "") -> int:  # noqa: A002
        """A task from Create to Delete; its exit status."""
        self.create(id, bundle, stdout)
        self.call("Start", id)
        status = self.wait(id)
        self.call("Delete", id)
        return status


class Events:
    """Takes the shim's events, as containerd would, and notes when TaskExit came for which container."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._exits: dict[str, float] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def exit_of(self, id: str) -> float:  # noqa: A002
        """When a container's TaskExit came, by time.monotonic; waits for it. Raises: TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: id in self._exits, _TIMEOUT):
                raise TimeoutError(f"no TaskExit of {id} within {_TIMEOUT:g} s")
            return self._exits[id]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        core = Connection(Role.SERVER)
        with connection:
            while data := connection.recv(_READ):
                now = time.monotonic()
                for event in core.receive_data(data):
                    if isinstance(event, RequestReceived):
                        connection.sendall(core.send_response(event.stream_id, b""))
                        self._note(event.request.payload, now)

    def _note(self, payload: bytes, now: float) -> None:
        envelope = forward_pb2.ForwardRequest.FromString(payload).envelope
        if envelope.topic == "/tasks/exit":
            with self._news:
                self._exits[events_pb2.TaskExit.FromString(envelope.event.value).container_id] = now
                self._news.notify_all()


@dataclass(frozen=True, slots=True)
class DirectShim:
    """A group of containers that share a root file system, and the program that starts their shim."""

    stage: Stage
    directory: str
    group: str
    events: Events

    @property
    def rootfs(self) -> str:
        """The root of all: the image's files."""
        return f"{self.directory}/rootfs"

    def bundle(
        self, args: list[str], change: Callable[[dict[str, Any]], object] = lambda spec: None
    ) -> tuple[str, str]:
        """Lay a bundle out, with the default spec as *change* leaves it; its id and path."""
        name = f"d{secrets.token_hex(6)}"
        path = f"{self.directory}/{self.stage.ctd.namespace}/{name}"
        os.makedirs(path)
        spec = self.stage.spec(args, self.group)
        spec["root"] = {"path": self.rootfs}
        change(spec)
        with open(f"{path}/config.json", "w", encoding="utf-8") as file:
            json.dump(spec, file)
        os.mkfifo(f"{path}/log", 0o600)
        return name, path

    def action(self, action: str, id: str, bundle: str) -> str:  # noqa: A002
        """Run the shim's program as containerd does, `start` or `delete`; what it prints."""
        return _run(self.command(action, id, bundle), bundle, self.environment())

    def command(self, action: str, id: str, bundle: str) -> list[str]:  # noqa: A002
        """The command line that containerd executes."""
        flags = ["-namespace", self.stage.ctd.namespace, "-address", f"{self.directory}/ctd.sock"]
        flags += ["-publish-binary", "/bin/true", "-id", id]
        return [self.stage.options.shim, *flags, *(["-bundle", bundle] if action == "delete" else []), action]

    def environment(self) -> dict[str, str]:
        """What containerd adds to its own environment."""
        return {**self.stage.ctd.environment, "TTRPC_ADDRESS": f"{self.directory}/events"}

    def start(self) -> tuple[str, TaskClient, str]:
        """Start the shim, by a container that stays until `end`; its id, a connection, and the shim's address."""
        name, path = self.bundle(NATIVE_OURS.sleep())
        address = self.action("start", name, path)
        client = TaskClient(address)
        client.create(name, path)
        client.call("Start", name)
        return name, client, address

    def end(self, holder: str, client: TaskClient) -> None:
        """End the container that `start` made, and with it the shim."""
        client.kill(holder)
        client.wait(holder)
        client.call("Delete", holder)
        client.shut_down(holder)
        client.close()


@contextmanager
def direct_shim(stage: Stage) -> Generator[DirectShim, None, None]:
    """A directory and an event sink for one group; both are removed afterwards."""
    directory = f"{stage.run_directory}/direct-{secrets.token_hex(3)}"
    os.mkdir(directory)
    events = Events(f"{directory}/events")
    made = DirectShim(stage, directory, f"g{secrets.token_hex(4)}", events)
    os.mkdir(made.rootfs)
    stage.programs.lay_out(made.rootfs)
    try:
        yield made
    finally:
        events.close()
        shutil.rmtree(directory)


def _run(command: list[str], cwd: str, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.decode()}")
    return done.stdout.decode(errors="replace")  # delete answers in protobuf


def _number(fields: dict[int, int | bytes], number: int) -> int:
    found = fields.get(number, 0)
    assert isinstance(found, int)
    return found
