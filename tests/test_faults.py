"""What goes wrong around a start: zygotes killed, stopped or out of descriptors, no process to be had, a thousand at
once. By the program that pip makes, and by the launcher."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD
from containerd_shimkit.launcher.block import fill_command
from containerd_shimkit.launcher.build import compile_launcher, find_compiler
from containerd_shimkit.shim.group import is_alive
from containerd_shimkit.wire import bytes_field
from harness.pod import Container, Pod, end, pod
from harness.processes import read_processes
from harness.tracing import Traced
from harness.zygotes import end_zygotes, is_of_this_installation, our_zygotes, wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="shims need root")]

WASM = "/app/program.wasm"
SOCKETS = "/run/containerd/s"
PIDS = Path("/sys/fs/cgroup/pids")  # version 1, as the shim's own cgroups
COMMITTED = "was killed in the middle of it; try again"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shim's program of this module's own, whose zygotes no other test uses."""
    return write_program(tmp_path_factory.mktemp("bin") / "containerd-shim-looking-v1")


def write_program(path: Path, before: str = "") -> Path:
    """The shim that looks around, with some lines that are executed *before* it."""
    text = (Path(__file__).parent / "looking_shim.py").read_text()
    path.write_text(f"#!{sys.executable}\n{before}\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module", params=["program", "launcher"])
def shim(request: pytest.FixtureRequest, program: Path) -> str:
    """What containerd would execute."""
    return str(program) if request.param == "program" else make_launcher(program)


def make_launcher(program: Path) -> str:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) on PATH")
    path = program.with_name("launcher") / program.name
    if not path.exists():
        path.parent.mkdir()
        compile_launcher(compiler, str(path))
        path.write_bytes(fill_command(path.read_bytes(), [sys.executable, "-I", str(program)]))
    return str(path)


def looking(pod: Pod, *, group: str = "") -> Container:
    def change(spec: dict[str, Any]) -> None:
        if group:
            spec["annotations"]["io.containerd.runc.v2.group"] = group

    return pod.container([WASM], {WASM: HELLO_WORLD.bytes}, change=change)


def begin(pod: Pod, container: Container, action: str = "start", **settings: Any) -> subprocess.Popen[bytes]:
    """`start` as containerd runs it, which is not waited for."""
    flags = ["-namespace", pod.namespace, "-address", f"{pod.directory}/ctd.sock", "-publish-binary", "/bin/true"]
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, **settings}
    return subprocess.Popen(
        [pod.shim, *flags, "-id", container.id, action],
        cwd=container.bundle,
        env={"PATH": os.environ["PATH"], "TTRPC_ADDRESS": f"{pod.directory}/events"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **given,
    )


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    stdout: str
    stderr: str

    @property
    def path(self) -> str:
        """The socket of the address that was printed."""
        assert (self.status, self.stderr) == (0, "")
        assert self.stdout.startswith("unix:///")
        return self.stdout.removeprefix("unix://")


def ended(running: subprocess.Popen[bytes]) -> Ended:
    stdout, stderr = running.communicate(timeout=40)
    return Ended(running.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def start(pod: Pod, container: Container, **settings: Any) -> Ended:
    return ended(begin(pod, container, **settings))


def give_up(pod: Pod, *containers: Container) -> None:
    """`delete` for containers that were announced and never created: the shim waits for them no longer."""
    for container in containers:
        done = ended(begin(pod, container, "delete"))
        assert done.status == 0, done.stderr


async def connect(pod: Pod, path: str) -> None:
    """Speak to the pod's shim, so that it is asked to end."""
    from containerd_shimkit.ttrpc.aio.client import Client

    pod.client = await Client.connect(f"unix://{path}")


def zygote_of(program: Path) -> int:
    """The pid of the one zygote of *program* in this process's context."""
    from containerd_shimkit.zygote.naming import socket_path
    from harness.zygotes import zygote_at

    found = zygote_at(Path(socket_path([sys.executable, "-I", str(program)])))
    assert found is not None
    return found


@pytest.fixture
def sockets() -> Iterator[Callable[[], set[str]]]:
    """What is new where the groups' sockets and locks are, of what nobody else's shim has: gone when the test is."""
    before = set(os.listdir(SOCKETS)) if os.path.isdir(SOCKETS) else set()

    def dead() -> set[str]:
        new = set(os.listdir(SOCKETS)) - before
        return {name for name in new if not is_alive(f"{SOCKETS}/{name.removesuffix('.lock')}")}

    yield dead
    wait_until(lambda: not dead())  # others' come and go


# No process to be had.


@dataclass(frozen=True, slots=True)
class ProcessLimit:
    """A cgroup whose processes can be counted and limited."""

    path: Path

    def enter(self) -> None:
        """In a child that is about to execute: be one of them, which the limit does not hinder."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def set(self, limit: int | str) -> None:
        (self.path / "pids.max").write_text(str(limit))

    def members(self) -> list[int]:
        return [int(each) for each in (self.path / "cgroup.procs").read_text().split()]


@pytest.fixture
def limit() -> Iterator[ProcessLimit]:
    if not (PIDS / "cgroup.procs").exists():
        pytest.skip(f"no pids controller of cgroup version 1 at {PIDS}")
    made = ProcessLimit(PIDS / f"faults-{secrets.token_hex(4)}")
    made.path.mkdir()
    yield made
    made.set("max")
    for pid in made.members():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not made.members())
    made.path.rmdir()


def only_zygotes(limit: ProcessLimit) -> bool:
    return all(b" zygote" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in limit.members())


def says_the_cure(done: Ended) -> bool:
    return (done.status, done.stdout) == (1, "") and done.stderr.endswith(
        "containerd-shim-looking-v1: a shim cannot be forked: Resource temporarily unavailable; "
        "raise the limit of processes (pids.max) of containerd's cgroup\n"
    )


def test_a_start_that_the_zygote_cannot_fork_for_fails_with_the_cure_and_leaves_nothing(
    shim: str, limit: ProcessLimit, sockets: Callable[[], set[str]]
) -> None:
    async def scenario() -> None:
        async with pod(shim) as one, pod(shim) as other:
            first, second = looking(one), looking(other)
            await connect(one, start(one, first, preexec_fn=limit.enter).path)
            there = set(limit.members())
            limit.set(0)
            for data in (b"", b"\x0a\x05a/b.C"):  # nothing, and options of a type that nobody knows
                stdin, writer = os.pipe()
                os.write(writer, data)
                os.close(writer)
                done = start(other, second, preexec_fn=limit.enter, stdin=stdin)
                os.close(stdin)
                assert says_the_cure(done), done
                assert sockets() == set()
                assert set(limit.members()) == there
            limit.set("max")
            await connect(other, start(other, second, preexec_fn=limit.enter).path)
            assert await other.shim_pid() in limit.members()
            for made, container in ((one, first), (other, second)):
                give_up(made, container)
                await end(made)

    asyncio.run(scenario())


@pytest.mark.parametrize("count", range(6))
def test_a_first_start_with_few_processes_succeeds_or_fails_with_the_cure_and_leaves_nothing(
    shim: str, limit: ProcessLimit, sockets: Callable[[], set[str]], count: int
) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            container = looking(made)
            limit.set(count)
            done = start(made, container, preexec_fn=limit.enter)
            assert says_the_cure(done) or (done.status == 0 and is_alive(done.path)), done
            if done.status:
                assert count < 4, "the launcher, the zygote and its first child, the shim"
                assert sockets() == set()
                wait_until(lambda: only_zygotes(limit))
            limit.set("max")
            await connect(made, start(made, container, preexec_fn=limit.enter).path)
            assert await made.shim_pid() in limit.members()
            give_up(made, container)

    asyncio.run(scenario())
