"""What goes wrong around a start: zygotes killed, stopped or out of descriptors, no process to be had, a thousand at
once. By the program that pip makes, and by the launcher."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD
from containerd_shimkit.launcher.block import fill_command
from containerd_shimkit.launcher.build import compile_launcher, find_compiler
from containerd_shimkit.proto import task_pb2
from containerd_shimkit.shim import address
from containerd_shimkit.shim.group import GroupLock, is_alive
from containerd_shimkit.ttrpc.aio.client import Client
from containerd_shimkit.wire import bytes_field
from containerd_shimkit.zygote.messages import decode_reply, encode_request
from containerd_shimkit.zygote.naming import socket_path
from harness.pod import SERVICE, Container, Pod, end, pod
from harness.tracing import Traced
from harness.zygotes import end_zygotes, is_of_this_installation, wait_until, zygote_at

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
        """The socket of the address that was printed, alone or within a BootstrapResult."""
        assert (self.status, self.stderr) == (0, "")
        found = re.search(f"unix://({SOCKETS}/[0-9a-f]{{64}})", self.stdout)
        assert found, self.stdout
        return found[1]


def ended(running: subprocess.Popen[bytes]) -> Ended:
    stdout, stderr = running.communicate(timeout=40)
    return Ended(running.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def start(pod: Pod, container: Container, **settings: Any) -> Ended:
    return ended(begin(pod, container, **settings))


@contextmanager
def given(data: bytes) -> Iterator[int]:
    """A pipe with *data*, all that there will ever be."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    yield reader
    os.close(reader)


def give_up(pod: Pod, *containers: Container) -> None:
    """`delete` for containers that were announced and never created: the shim waits for them no longer."""
    for container in containers:
        done = ended(begin(pod, container, "delete"))
        assert done.status == 0, done.stderr


async def connect(pod: Pod, path: str) -> None:
    """Speak to the pod's shim, so that it is asked to end."""
    pod.client = await Client.connect(f"unix://{path}")


def zygote_of(program: Path) -> int:
    """The pid of the one zygote of *program* in this process's context."""
    found = zygote_at(Path(socket_path([sys.executable, "-I", str(program)])))
    assert found is not None
    return found


def traces_of(path: str) -> list[str]:
    """What is there of a group: its socket, its lock."""
    return [each for each in (path, f"{path}.lock") if os.path.lexists(each)]


def path_of(pod: Pod) -> str:
    """Where the pod's shim listens, or would."""
    return address.socket_path(SOCKETS, f"{pod.directory}/ctd.sock", pod.namespace, f"looking.{pod.group}")


def traced(pid: int) -> Traced:
    try:
        return Traced(pid)
    except PermissionError as error:
        pytest.skip(f"processes cannot be traced here: {error}")


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
    shim: str, limit: ProcessLimit
) -> None:
    async def scenario() -> None:
        async with pod(shim) as one, pod(shim) as other:
            first, second = looking(one), looking(other)
            await connect(one, start(one, first, preexec_fn=limit.enter).path)
            assert is_alive(path_of(one))
            there = set(limit.members())
            limit.set(0)
            for data in (b"", b"\x0a\x05a/b.C"):  # nothing, and options of a type that nobody knows
                with given(data) as stdin:
                    done = start(other, second, preexec_fn=limit.enter, stdin=stdin)
                assert says_the_cure(done), done
                assert traces_of(path_of(other)) == []
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
    shim: str, limit: ProcessLimit, count: int
) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            container = looking(made)
            limit.set(count)
            done = start(made, container, preexec_fn=limit.enter)
            assert says_the_cure(done) or (done.status == 0 and is_alive(done.path)), done
            if done.status:
                assert count < 4, "the launcher, the zygote and its first child, the shim"
                assert traces_of(path_of(made)) == []
                wait_until(lambda: only_zygotes(limit))
            limit.set("max")
            await connect(made, start(made, container, preexec_fn=limit.enter).path)
            assert await made.shim_pid() in limit.members()
            give_up(made, container)

    asyncio.run(scenario())


def test_delete_needs_no_further_process(shim: str, limit: ProcessLimit) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            container = looking(made)
            await connect(made, start(made, container, preexec_fn=limit.enter).path)
            await container.create()
            os.kill(await made.shim_pid(), signal.SIGKILL)
            assert made.client is not None
            await made.client.close()
            made.client = None
            limit.set(0)
            done = ended(begin(made, container, "delete", preexec_fn=limit.enter))
            assert (done.status, done.stderr) == (0, "")

    asyncio.run(scenario())


# No descriptor to be had.


@pytest.mark.parametrize("room", range(12))
def test_a_start_succeeds_however_few_descriptors_its_zygote_may_have(shim: str, program: Path, room: int) -> None:
    async def scenario() -> None:
        async with pod(shim) as one, pod(shim) as other:
            first, second = looking(one), looking(other)
            await connect(one, start(one, first).path)
            zygote = zygote_of(program)
            _, hard = resource.prlimit(zygote, resource.RLIMIT_NOFILE)
            limit = len(os.listdir(f"/proc/{zygote}/fd")) + room
            resource.prlimit(zygote, resource.RLIMIT_NOFILE, (limit, hard))
            with given(b"") as stdin:
                await connect(other, start(other, second, stdin=stdin).path)
            assert await other.shim_pid()
            for made, container in ((one, first), (other, second)):
                give_up(made, container)
                await end(made)
            end_zygotes({zygote: Path("/nonexistent")} if is_of_this_installation(zygote) else {})

    asyncio.run(scenario())


# A zygote that is stopped or killed.


def test_twenty_starts_succeed_though_the_zygote_is_stopped_and_it_ends_when_it_wakes(shim: str, program: Path) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            containers = [looking(made) for _ in range(21)]
            first = start(made, containers[0])
            await connect(made, first.path)
            stopped = zygote_of(program)
            os.kill(stopped, signal.SIGSTOP)
            try:
                began = time.monotonic()
                running = [begin(made, container) for container in containers[1:]]
                assert {ended(each).path for each in running} == {first.path}
                assert time.monotonic() - began < 10
                assert zygote_of(program) != stopped
            finally:
                os.kill(stopped, signal.SIGCONT)
            wait_until(lambda: not is_of_this_installation(stopped))
            give_up(made, *containers)

    asyncio.run(scenario())


STRIDE = 9  # of a zygote's system calls at a start: at every so-manieth of them one is killed


@pytest.mark.parametrize("has_input", [False, True], ids=["without input", "with input"])
@pytest.mark.parametrize("is_first", [True, False], ids=["makes a shim", "finds a shim"])
def test_a_zygote_killed_at_any_of_its_system_calls_costs_no_start(
    shim: str, program: Path, has_input: bool, is_first: bool
) -> None:
    async def one(count: int) -> tuple[bool, Ended]:
        """A start whose zygote is killed at its *count*th system call; whether it came as far."""
        async with pod(shim) as made:
            before = looking(made)
            paths = {start(made, before).path}  # there is a zygote, and this group's shim
            container = looking(made, group=f"{made.namespace}-first" if is_first else "")
            data = (
                bytes_field(1, container.id) + bytes_field(2, made.namespace) if has_input else b""
            )  # BootstrapParams
            zygote = traced(zygote_of(program))
            with given(data) as stdin:
                running = begin(made, container, stdin=stdin)
                reached = zygote.pass_calls(count, lambda: running.poll() is not None) == count
                zygote.kill()
                done = ended(running)
            with given(data) as stdin:
                again = start(made, container, stdin=stdin)
            if done.status == 0:
                assert done == again, "nothing of its input was lost"
            for path in {again.path, *paths}:
                await connect(made, path)
                give_up(made, container, before)
                await end(made)
            return reached, done

    count, reached = 1, True
    while reached:
        reached, done = asyncio.run(one(count))
        assert done.status == 0 or (has_input and COMMITTED in done.stderr), (count, done)
        count += STRIDE
    assert count > 4 * STRIDE


def test_a_zygote_that_wakes_just_when_its_caller_gives_it_up_takes_no_input_along(shim: str, program: Path) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            first, container = looking(made), looking(made)
            await connect(made, start(made, first).path)
            data = bytes_field(1, container.id) + bytes_field(2, made.namespace)  # BootstrapParams
            stopped = zygote_of(program)
            os.kill(stopped, signal.SIGSTOP)
            with given(data) as stdin:
                running = begin(made, container, stdin=stdin)
                wait_until(lambda: "poll" in Path(f"/proc/{running.pid}/wchan").read_text())
                caller = traced(running.pid)
                assert caller.pass_calls(2, lambda: False) == 2  # its waiting is over, and it is about to do the next
                os.kill(stopped, signal.SIGCONT)
                time.sleep(0.2)
                caller.let_go()
                done = ended(running)
            with given(data) as stdin:
                assert start(made, container, stdin=stdin) == done
            give_up(made, first, container)

    asyncio.run(scenario())


# A child of the zygote that is killed, or whose zygote is.


def children_of(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@contextmanager
def a_child_that_waits_for_input(pod: Pod, container: Container, program: Path) -> Iterator[tuple[Any, int, int]]:
    """A `start` whose input is not at its end: the process, its zygote, the zygote's child."""
    zygote = zygote_of(program)
    before = children_of(zygote)
    reader, writer = os.pipe()
    running = begin(pod, container, stdin=reader)
    os.close(reader)
    wait_until(lambda: len(children_of(zygote) - before) == 1)
    (child,) = children_of(zygote) - before
    wait_until(lambda: Path(f"/proc/{child}/wchan").read_text() in ("0", "anon_pipe_read", "pipe_read"))
    time.sleep(0.05)
    yield running, zygote, child
    os.close(writer)


@pytest.mark.parametrize("victim", ["zygote", "child"])
def test_a_start_whose_input_is_being_read_survives_the_zygote_and_not_its_reader(
    shim: str, program: Path, victim: str
) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            first, container = looking(made), looking(made)
            path = start(made, first).path
            await connect(made, path)
            with a_child_that_waits_for_input(made, container, program) as (running, zygote, child):
                os.kill(zygote if victim == "zygote" else child, signal.SIGKILL)
                time.sleep(0.1)
            done = ended(running)
            if victim == "zygote":
                assert done.path == path
            else:
                assert (done.status, done.stdout) == (1, "")
                assert COMMITTED in done.stderr
            assert start(made, container).path == path
            give_up(made, first, container)

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", ["zygote", "child"])
def test_a_start_that_waits_for_its_group_survives_the_zygote_and_the_child(
    shim: str, program: Path, victim: str
) -> None:
    async def scenario() -> None:
        async with pod(shim) as made:
            first, container = looking(made), looking(made)
            path = start(made, first).path
            await connect(made, path)
            zygote = zygote_of(program)
            before = children_of(zygote)
            with GroupLock(path):
                running = begin(made, container)
                wait_until(lambda: children_of(zygote) - before)
                (child,) = children_of(zygote) - before
                time.sleep(0.05)
                os.kill(zygote if victim == "zygote" else child, signal.SIGKILL)
                time.sleep(0.2)
                assert running.poll() is None
            assert ended(running).path == path
            give_up(made, first, container)

    asyncio.run(scenario())


# A container that never comes.


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shim that waits a second for a container, in the place of a minute."""
    before = (
        "import containerd_shimkit.shim.group as group, containerd_shimkit.shim.serve as serve\n"
        "group.ANNOUNCED_FOR = serve.ANNOUNCED_FOR = 1.0\n"
    )
    return str(write_program(tmp_path_factory.mktemp("impatient") / "containerd-shim-looking-v1", before))


async def goes_after_a_second(path: str) -> None:
    """Fail unless the shim at *path* lives for its second more, and leaves nothing soon after."""
    began = time.monotonic()
    await asyncio.sleep(0.8)
    assert is_alive(path)
    wait_until(lambda: not traces_of(path), timeout=2)
    assert time.monotonic() - began > 0.9


def test_a_shim_whose_container_never_comes_goes_away_by_itself(impatient: str) -> None:
    async def scenario() -> None:
        async with pod(impatient) as made:
            path = start(made, looking(made)).path
            await goes_after_a_second(path)

    asyncio.run(scenario())


def test_a_shim_waits_for_the_last_container_that_was_announced(impatient: str) -> None:
    async def scenario() -> None:
        async with pod(impatient) as made:
            path = start(made, looking(made)).path
            for _ in range(3):
                await asyncio.sleep(0.6)
                assert start(made, looking(made)).path == path
            await goes_after_a_second(path)

    asyncio.run(scenario())


def test_a_shim_whose_container_has_come_stays_though_others_never_do(impatient: str) -> None:
    async def scenario() -> None:
        async with pod(impatient) as made:
            container, never = looking(made), looking(made)
            path = start(made, container).path
            await connect(made, path)
            await container.create()
            assert start(made, never).path == path
            await asyncio.sleep(2.5)
            assert is_alive(path)
            await container.start()
            assert await container.wait() == 0
            await container.delete()
            await made.call("Shutdown", id=container.id)
            wait_until(lambda: not traces_of(path), timeout=2)

    asyncio.run(scenario())


# Many at once.

STARTS = 1000
SHIM_MEGABYTES = 8  # of its own, and to spare


def most_groups() -> int:
    """How many shims there is memory for at once, up to one for each start."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min(STARTS, available // 1024 // SHIM_MEGABYTES)


@pytest.mark.timeout(150)
def test_a_thousand_starts_at_once_all_get_a_living_shim_and_all_shims_end(program: Path, tmp_path: Path) -> None:
    """Each with a group of its own; where there is not the memory for a thousand shims, some share one."""

    async def scenario() -> None:
        async with pod(make_launcher(program)) as made:
            groups = most_groups()
            containers = [
                made.container([WASM], change=in_group(f"{made.namespace}-{number % groups}"))
                for number in range(STARTS)
            ]
            first = looking(made)
            await connect(made, start(made, first).path)
            gate = tmp_path / "gate"
            os.mkfifo(gate)
            with open(gate, "r+b", buffering=0) as opened:
                waiting = [begin_behind(gate, made, container) for container in containers]
                opened.write(b"\n" * STARTS)  # each takes one
                for each in waiting:
                    each.wait(60)
            found = [end_of(*each) for each in zip(waiting, containers, strict=True)]
            assert [each for each in found if each.status or each.stderr] == []
            paths = {each.path for each in found}
            assert len(paths) == groups
            assert [path for path in paths if not is_alive(path)] == []
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda container: give_up(made, container), containers))
            for path in paths:
                await shut_down(path)
            wait_until(lambda: not any(map(traces_of, paths)), timeout=30)
            give_up(made, first)

    asyncio.run(scenario())


def test_a_thousand_callers_at_once_are_all_answered(program: Path) -> None:
    """A thousand connections of one process, for ten groups: more than the zygote is ever met with by containerd."""

    async def scenario() -> None:
        async with pod(str(program)) as made:
            containers = [
                made.container([WASM], change=in_group(f"{made.namespace}-{number % 10}")) for number in range(10)
            ]
            first = looking(made)
            await connect(made, start(made, first).path)
            zygote = zygote_of(program)
            answers = ask_at_once(made, program, containers * (STARTS // 10))
            assert {answer[:1] for answer in answers} == {b"A"}
            replies = [decode_reply(answer[1:]) for answer in answers]
            printed = {reply.stdout.decode() for reply in replies if reply and reply.status == 0}
            assert None not in replies
            assert len(printed) == 10
            assert zygote_of(program) == zygote
            give_up(made, first, *containers)
            for each in printed:
                await shut_down(each.removeprefix("unix://"))

    asyncio.run(scenario())


def ask_at_once(pod: Pod, program: Path, containers: Sequence[Container]) -> list[bytes]:
    """What the zygote answers to a `start` for each, all of which have been sent before it looks at the first."""
    path, zygote = socket_path([sys.executable, "-I", str(program)]), zygote_of(program)
    os.kill(zygote, signal.SIGSTOP)
    connections = []
    try:
        with open("/dev/null", "rb") as null:
            for container in containers:
                flags = ["-namespace", pod.namespace, "-address", f"{pod.directory}/ctd.sock", "-id", container.id]
                connection = socket.socket(socket.AF_UNIX)
                connections.append(connection)
                connection.connect(path)
                bundle = os.open(container.bundle, os.O_RDONLY | os.O_DIRECTORY)
                request = encode_request([str(program), *flags, "start"], {})
                socket.send_fds(connection, [request], [bundle, null.fileno()])
                os.close(bundle)
    finally:
        os.kill(zygote, signal.SIGCONT)
    return [read_to_end(connection) for connection in connections]


def read_to_end(connection: socket.socket) -> bytes:
    with connection:
        connection.settimeout(40)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def in_group(group: str) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        spec["annotations"]["io.containerd.runc.v2.group"] = group

    return change


def begin_behind(gate: Path, pod: Pod, container: Container) -> subprocess.Popen[bytes]:
    """A `start` that waits until it gets a line from the FIFO *gate*; what it prints goes to files of the bundle."""
    flags = ["-namespace", pod.namespace, "-address", f"{pod.directory}/ctd.sock", "-publish-binary", "/bin/true"]
    with open(container.bundle / "out", "wb") as out, open(container.bundle / "err", "wb") as err:
        return subprocess.Popen(
            ["sh", "-c", f'read -r _ <{gate}; exec "$0" "$@"', pod.shim, *flags, "-id", container.id, "start"],
            cwd=container.bundle,
            env={"PATH": os.environ["PATH"], "TTRPC_ADDRESS": f"{pod.directory}/events"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


def end_of(ended: subprocess.Popen[bytes], container: Container) -> Ended:
    out, err = ((container.bundle / name).read_text(errors="replace") for name in ("out", "err"))
    return Ended(ended.returncode, out, err)


async def shut_down(path: str) -> None:
    """Ask the shim at *path* to end."""
    client = await Client.connect(f"unix://{path}")
    try:
        await client.call(SERVICE, "Shutdown", task_pb2.ShutdownRequest(id="none").SerializeToString(), timeout=20)
    finally:
        await client.close()
