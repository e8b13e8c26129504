"""A shim spoken to directly, as containerd would, without containerd: one group, any number of containers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from containerd_shimkit import ShimError
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.proto import forward_pb2, runtime_options_pb2, task_pb2
from containerd_shimkit.ttrpc.aio.client import Client
from containerd_shimkit.ttrpc.aio.server import Call, Server
from google.protobuf import any_pb2

from harness.leftovers import Leftovers, Scope, assert_clean

SERVICE = "containerd.task.v2.Task"
TIMEOUT = 30.0


@dataclass
class Container:
    """One bundle of a pod, and the task made of it."""

    pod: Pod
    id: str
    bundle: Path

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"

    @property
    def stdout(self) -> str:
        return (self.bundle / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return (self.bundle / "stderr").read_text(errors="replace")

    async def call(self, method: str, **fields: Any) -> Any:
        return await self.pod.call(method, id=self.id, **fields)

    async def create(self, **fields: Any) -> int:
        """Create the task; the pod's first one starts the shim. Streams go to files of the bundle."""
        await self.pod.ensure_started(self)
        given = {name: str(self.bundle / name) for name in ("stdout", "stderr")} | {"options": self.pod.options()}
        answer = await self.call("Create", bundle=str(self.bundle), **{**given, **fields})
        return int(answer.pid)

    async def start(self) -> int:
        return int((await self.call("Start")).pid)

    async def wait(self) -> int:
        return int((await self.call("Wait")).exit_status)

    async def delete(self) -> Any:
        return await self.call("Delete")

    async def run(self, **fields: Any) -> int:
        """Create, start, wait, delete; the exit status."""
        await self.create(**fields)
        await self.start()
        status = await self.wait()
        await self.delete()
        return status


@dataclass
class Pod:
    """A shim that serves one group, started by its own program."""

    shim: str
    directory: Path
    namespace: str
    cache: Path  # where the shim keeps compiled code: a directory of the pod's own, so that no test finds another's
    client: Client | None = None
    events: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.namespace}-pod"

    def container(
        self,
        args: list[str],
        files: Mapping[str, bytes] = {},
        *,
        change: Callable[[dict[str, Any]], object] = lambda spec: None,
        id: str = "",  # noqa: A002
    ) -> Container:
        """Lay a bundle out: *files* by path in its root (mode 0755), the default spec as *change* leaves it."""
        id = id or f"c{secrets.token_hex(6)}"  # noqa: A001
        bundle = self.directory / "bundles" / self.namespace / id
        (bundle / "rootfs").mkdir(parents=True)
        for path, content in files.items():
            target = bundle / "rootfs" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o755)
        spec = default_spec(args, annotations={"io.containerd.runc.v2.group": self.group})
        change(spec)
        (bundle / "config.json").write_text(json.dumps(spec))
        for name in ("stdout", "stderr", "log"):
            (bundle / name).touch()
        return Container(self, id, bundle)

    def action(
        self, action: str, container: Container, *more: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the shim's program as containerd does."""
        flags = ["-namespace", self.namespace, "-address", f"{self.directory}/ctd.sock", "-publish-binary", "/bin/true"]
        return subprocess.run(
            [self.shim, *flags, "-id", container.id, *more, action],
            cwd=container.bundle,
            input=stdin,
            env={**os.environ, "TTRPC_ADDRESS": f"{self.directory}/events"},
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )

    def options(self, **settings: object) -> any_pb2.Any:
        """Runtime options, as CRI sends them: TOML, whose strings and numbers look like JSON's."""
        chosen = {"compile_cache_directory": str(self.cache), **settings}
        body = "\n".join(f"{name} = {json.dumps(value)}" for name, value in chosen.items())
        value = runtime_options_pb2.Options(config_body=body.encode()).SerializeToString()
        return any_pb2.Any(type_url="runtimeoptions.v1.Options", value=value)

    def start(self, container: Container) -> str:
        """`start` for the container; the address that it prints."""
        done = self.action("start", container)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    async def ensure_started(self, container: Container) -> None:
        """Run `start` for the pod's first container, and make the connection that the pod's calls go over."""
        if self.client is None:
            self.client = await Client.connect(self.start(container))

    async def call(self, method: str, **fields: Any) -> Any:
        """One call of the Task API: `Kill(id=..., signal=9)`; its response."""
        assert self.client is not None, "no container of this pod has been created"
        request = getattr(task_pb2, _REQUESTS.get(method, f"{method}Request"))(**fields)
        data = await self.client.call(SERVICE, method, request.SerializeToString(), timeout=TIMEOUT)
        response = getattr(task_pb2, _RESPONSES.get(method, f"{method}Response"), None)
        return response.FromString(data) if response is not None else None

    async def shim_pid(self) -> int:
        return int((await self.call("Connect", id="nobody")).shim_pid)

    def scope(self) -> Scope:
        return Scope(
            markers=(str(self.directory), self.namespace),
            bundle_parents=(str(self.directory / "bundles"),),
            spared=lambda: {os.getpid()},
            spared_cgroups=frozenset({self.namespace}),
        )


_REQUESTS = {
    "Create": "CreateTaskRequest",
    "Checkpoint": "CheckpointTaskRequest",
    "Update": "UpdateTaskRequest",
    "Exec": "ExecProcessRequest",
}
_RESPONSES = {"Create": "CreateTaskResponse"}


Scenario: TypeAlias = Callable[[Pod], Awaitable[None]]
"""What a test does in a pod."""

Play: TypeAlias = Callable[[Scenario], None]
"""The fixture `play`: runs a scenario."""


@asynccontextmanager
async def pod(shim: str) -> AsyncIterator[Pod]:
    """A pod that is ended, and has left nothing, when the block is done; its events are recorded."""
    directory = Path(tempfile.mkdtemp(prefix="pod-", dir="/run"))
    made = Pod(shim, directory, f"pod-{secrets.token_hex(4)}", directory / "modules")
    server = Server({"containerd.services.events.ttrpc.v1.Events": {"Forward": _recorder(made)}})
    listener = _listener(made.directory / "events")
    try:
        before = Leftovers.snapshot(made.scope())
        server.start(listener)
        yield made
        await end(made)
        shutil.rmtree(made.directory / "bundles")
        await asyncio.get_running_loop().run_in_executor(None, assert_clean, before)
    finally:
        await server.close(0.1)
        listener.close()
        made.scope().clear_by_force()
        shutil.rmtree(made.directory)


async def end(made: Pod) -> None:
    """Delete whatever tasks there are, and ask the shim to end. For several pods: each, before one is judged clean."""
    if made.client is None:
        return
    kill = {"signal": signal.SIGKILL, "all": True}
    for bundle in (made.directory / "bundles" / made.namespace).iterdir():
        for method, fields in (("Kill", kill), ("Wait", {}), ("Delete", {}), ("Shutdown", {})):
            try:
                await made.call(method, id=bundle.name, **fields)
            except ShimError:
                pass  # gone already, the shim itself perhaps: the leak counter judges
    await made.client.close()
    made.client = None


def _recorder(made: Pod) -> Callable[[Call, bytes], Any]:
    async def forward(call: Call, payload: bytes) -> bytes:
        envelope = forward_pb2.ForwardRequest.FromString(payload).envelope
        made.events.append((envelope.topic, envelope.event.value))
        return b""

    return forward


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    listener.listen()
    return listener
