"""Filters that ask a listener (SCMP_ACT_NOTIFY): real containers, and a program that decides on their calls."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import AbortedError, DeadlineExceededError, FailedPreconditionError, InternalError, ShimError
from containerd_shimkit.container import listener as module
from containerd_shimkit.container.apply import apply
from containerd_shimkit.container.channel import Line
from containerd_shimkit.container.executor import Executor, Inside, Preparation
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.container.listener import hand_over, process_state
from containerd_shimkit.container.operations import InstallSeccomp
from containerd_shimkit.container.site import Site
from containerd_shimkit.container.steps import step_of
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.pidfd import ProcessIdentity, identify
from containerd_shimkit.linux.process import set_no_new_privs
from containerd_shimkit.linux.seccomp import LIBRARY, compile_filter, filter_flags, install_filter
from containerd_shimkit.oci.hooks import state_of
from containerd_shimkit.oci.seccomp import seccomp_of
from containerd_shimkit.oci.spec import Linux, Process, Spec
from containerd_shimkit.shim.reaper import Reaper

from . import deciding
from .bench import Bench, Change, Play, in_user_namespace, open_descriptors, same

pytestmark = pytest.mark.root

try:
    ctypes.CDLL(LIBRARY)
except OSError:
    pytest.skip("there is no libseccomp here", allow_module_level=True)

# of the way to the program: all that the process does after the listener has been handed over may be decided on
ON_THE_WAY = ["execve", "close", "capset", "setresuid", "chdir", "umask"]


@dataclass
class Decider:
    """The program that decides, and what it has been told."""

    path: str
    log: Path

    def profile(self, *names: str, **more: Any) -> dict[str, Any]:
        rule = {"names": ["mkdir", "mkdirat", *names], "action": "SCMP_ACT_NOTIFY"}
        listener = {"listenerPath": self.path, "listenerMetadata": "me & more"}
        return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], **listener, **more}

    def change(self, *names: str, no_new_privileges: bool, **more: Any) -> Change:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["seccomp"] = self.profile(*names, **more)
            spec["process"]["noNewPrivileges"] = no_new_privileges
            spec["annotations"] = {"a": "b"}

        return change

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def states(self) -> list[dict[str, Any]]:
        """What came with each listener; each was one descriptor."""
        found = [each for each in self.said if "state" in each]
        assert {each["descriptors"] for each in found} <= {1}
        return [each["state"] for each in found]

    @property
    def calls(self) -> list[int]:
        return [each["call"] for each in self.said if "call" in each]


@pytest.fixture
def decider(tmp_path: Path) -> Iterator[Decider]:
    path, log = str(tmp_path / "socket"), tmp_path / "log"
    log.touch()
    process = subprocess.Popen([sys.executable, deciding.__file__, path, str(log)])
    try:
        until = time.monotonic() + 10
        while not os.path.exists(path) and time.monotonic() < until:
            time.sleep(0.01)
        yield Decider(path, log)
    finally:
        process.kill()
        process.wait()


def out(bench: Bench) -> str:
    """A file for a container's output."""
    path = bench.directory / "out"
    path.touch()
    return str(path)


@pytest.mark.parametrize("change", [same, in_user_namespace])
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_listener_decides_on_the_calls_of_a_container(
    play: Play, decider: Decider, no_new_privileges: bool, change: Change
) -> None:
    async def scenario(bench: Bench) -> None:
        def both(spec: dict[str, Any]) -> None:
            change(spec)
            decider.change(*ON_THE_WAY, no_new_privileges=no_new_privileges)(spec)

        path = out(bench)
        shell = "busybox mkdir /new; echo $?; grep Seccomp: /proc/self/status; ls /proc/self/fd"
        container = await bench.container("/bin/sh", "-c", shell, change=both, stdout=path, stderr=path)
        assert len(decider.states) == (0 if no_new_privileges else 1)
        assert await container.start() == container.container.pid
        assert (await asyncio.wait_for(asyncio.shield(container.container.exited), 20)).status == 0
        assert decider.states == [
            {
                "ociVersion": "1.2.0",
                "fds": ["seccompFd"],
                "pid": container.container.pid,
                "metadata": "me & more",
                "state": {
                    "ociVersion": "1.2.0",
                    "id": container.container.id,
                    "status": "created" if no_new_privileges else "creating",
                    "pid": container.container.pid,
                    "bundle": str(bench.directory / container.container.id),
                    "annotations": {"a": "b"},
                },
            }
        ]
        assert Path(path).read_text() == (
            "mkdir: can't create directory '/new': Protocol error\n1\nSeccomp:\t2\n0\n1\n2\n3\n"
        ), "3 is the directory that ls lists"
        assert set(decider.calls) & set(deciding.MKDIR)
        assert len(decider.calls) > 3, "it has decided on the way to the program too"

    play(scenario)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_each_further_process_has_a_listener_of_its_own(play: Play, decider: Decider, no_new_privileges: bool) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(change=decider.change(*ON_THE_WAY, no_new_privileges=True))
        shell = "echo $$; exec busybox mkdir /new"
        status, said = await bench.run(container, "/bin/sh", "-c", shell, noNewPrivileges=no_new_privileges)
        assert (status, "Protocol error" in said) == (1, True)
        first, second = decider.states
        assert (second["state"]["status"], second["state"]["pid"]) == ("running", first["pid"])
        assert second["pid"] not in (0, first["pid"])

    play(scenario)


class InProcess:
    """An executor that is its program, as one of a wasm guest is: it tells the error of a mkdir by its status."""

    def prepare(self, inside: Inside) -> Preparation:
        del inside
        return Preparation(in_process=True)

    def run(self, line: Line) -> int:
        line.send({"kind": "running"})
        if any("seccomp" in each for each in open_descriptors()):
            return 100  # it could decide on its own calls
        try:
            os.mkdir("/new")
        except OSError as error:
            return error.errno or 101
        return 102


class InProcessInstance(ContainerInstance):
    def make_exec_executor(self, process: Process) -> Executor:
        del process
        return InProcess()


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_process_that_executes_nothing_keeps_no_listener(
    play: Play, decider: Decider, no_new_privileges: bool
) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(change=decider.change(no_new_privileges=True), kind=InProcessInstance)
        ran = await bench.run(container, "x", noNewPrivileges=no_new_privileges)
        assert ran == (errno.EPROTO, "")

    play(scenario)


@pytest.mark.parametrize(
    "flags", [["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"], ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]]
)
def test_flags_go_together_with_a_listener(play: Play, decider: Decider, flags: list[str]) -> None:
    async def scenario(bench: Bench) -> None:
        change = decider.change(no_new_privileges=True, flags=flags)
        container = await bench.running("/bin/busybox", "mkdir", "/new", change=change)
        assert (await asyncio.wait_for(asyncio.shield(container.container.exited), 20)).status == 1
        assert decider.calls

    play(scenario)


def test_a_profile_that_notifies_of_nothing_needs_nobody(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(tmp_path / "nobody"),
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        }
        await bench.running(change=lambda spec: spec["linux"].update(seccomp=profile))

    play(scenario)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_container_whose_listener_nobody_takes_fails_and_leaves_nothing(
    play: Play, tmp_path: Path, no_new_privileges: bool
) -> None:
    nobody = Decider(str(tmp_path / "nobody"), tmp_path / "log")
    words = f"listenerPath '{nobody.path}': the seccomp listener cannot be handed over: No such file"

    async def scenario(bench: Bench) -> None:
        making = bench.container(change=nobody.change(no_new_privileges=no_new_privileges))
        if not no_new_privileges:
            with pytest.raises(FailedPreconditionError, match=words):
                await making
            return
        container = await making
        with pytest.raises(FailedPreconditionError, match=words):
            await container.start()
        assert (await asyncio.wait_for(asyncio.shield(container.container.exited), 10)).status == 137

    play(scenario)


def test_a_process_whose_listener_nobody_takes_any_more_fails_alone(play: Play, decider: Decider) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(change=decider.change(no_new_privileges=True))
        os.unlink(decider.path)
        name = await bench.add(container, "/bin/true")
        with pytest.raises(FailedPreconditionError, match="listenerPath"):
            await container.start_exec(name)
        await container.delete_exec(name)
        assert len(container.container.pids()) == 1

    play(scenario)


def test_a_listener_that_does_not_accept_is_given_up(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.3)
    busy = Decider(str(tmp_path / "busy"), tmp_path / "log")

    async def scenario(bench: Bench) -> None:
        container = await bench.container(change=busy.change(no_new_privileges=True))
        with pytest.raises(DeadlineExceededError, match=f"listenerPath '{busy.path}' took longer than 0.3 s"):
            await container.start()

    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(busy.path)
        listening.listen(0)
        waiting.connect(busy.path)
        play(scenario)


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("profile", "identity", "words"),
    [
        (None, identify, "its profile has none"),
        ("decider", identify, r"cannot be taken: .*pidfd_getfd: Bad file descriptor"),
        ("decider", lambda pid: ProcessIdentity(pid, 1, "another"), "was killed while"),
    ],
)
def test_a_process_that_cannot_have_a_listener_is_not_believed(
    child: int, profile: str | None, identity: Callable[[int], ProcessIdentity], words: str
) -> None:
    seccomp = None if profile is None else Decider("/nobody", Path("/")).profile()

    async def ask() -> ShimError:
        with pytest.raises(AbortedError, match=words) as raised:
            spec = Spec("1.2.0", linux=Linux(seccomp=seccomp))
            await hand_over({"kind": "listener", "descriptor": 999}, spec, identity(child), {}, Reaper.current())
        Reaper.current().stop()
        return raised.value

    asyncio.run(ask())


def test_below_another_listener_there_can_be_none(in_child: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        set_no_new_privs()
        profile = Decider("/nobody", Path("/")).profile()
        program = compile_filter(seccomp_of(profile))
        install_filter(program, filter_flags((), notifies=True))
        with pytest.raises(InternalError, match=r"InstallSeccomp.*; this service runs below another listener already"):
            apply(step_of(InstallSeccomp((), program, notifies=True)), Site("", CgroupV1({})))

    in_child(work)


def test_a_process_that_is_killed_while_it_waits_is_told_of(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener does not accept, and somebody kills the init meanwhile: it is not waited for for ever."""
    monkeypatch.setattr(module, "_TIMEOUT", 0.5)
    busy = Decider(str(tmp_path / "busy"), tmp_path / "log")

    async def scenario(bench: Bench) -> None:
        container = await bench.container(change=busy.change(no_new_privileges=True))
        starting = asyncio.ensure_future(container.start())
        await asyncio.sleep(0.2)
        os.kill(container.container.pid, signal.SIGKILL)
        with pytest.raises(DeadlineExceededError):
            await starting
        assert (await asyncio.wait_for(asyncio.shield(container.container.exited), 10)).status == 137

    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(busy.path)
        listening.listen(0)
        waiting.connect(busy.path)
        play(scenario)


def test_without_metadata_there_is_none_in_the_state() -> None:
    state = state_of("x", "creating", 7, "/bundle", {})
    assert json.loads(process_state(7, "", state)) == {
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": 7,
        "state": {"ociVersion": "1.2.0", "id": "x", "status": "creating", "pid": 7, "bundle": "/bundle"},
    }
