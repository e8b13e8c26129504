"""CVE-2019-5736: no container can write to the host's interpreter, whoever it is in there, and whatever has ended."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.launcher.block import fill_command
from containerd_shimkit.launcher.build import BINARY, DIRECTORY, is_built_from
from containerd_shimkit.linux.capabilities import CAPABILITIES
from containerd_shimkit.zygote.naming import socket_path
from google.protobuf import any_pb2
from harness.images import BUSYBOX
from harness.interpreter import Interpreter, attack_files, build_attack
from harness.oci import PROGRAM, Bundle, lay_out
from harness.pod import Container, Pod, pod
from harness.zygotes import wait_until, zygote_at

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(os.uname().machine != "x86_64" or shutil.which("cc") is None, reason="needs cc, for x86_64"),
]

READ_ONLY = "Read-only file system"
ENTRY = "from containerd_shimkit.runtime.entry import main\nmain()\n"
UNSEALED = "from containerd_shimkit.runtime.main import main\nmain()\n"
UNABLE = """
import containerd_shimkit.linux.sealed_program as sealed_program
def unable(path):
    raise OSError(1, "not today", "a mount")
sealed_program.open_sealed = unable
"""
REFUSED = {
    "write": errno.ETXTBSY,  # for as long as it is executed: the kernel looks for that first
    "truncate": errno.EROFS,
    "access": errno.EROFS,
    **dict.fromkeys(("remount", "setattr", "clone", "bind"), errno.EINVAL),
}
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build_attack(tmp_path_factory.mktemp("attack"))


@pytest.fixture
def interpreter(tmp_path: Path) -> Iterator[Interpreter]:
    made = Interpreter.copied_to(tmp_path / "python")
    yield made
    assert not made.users()


@pytest.fixture
def bundle(tmp_path: Path, loader: bytes) -> Iterator[Bundle]:
    group = f"sealed-{secrets.token_hex(4)}"
    made = lay_out(tmp_path / "bundle", tmp_path / "root", cgroups_path=f"/{group}/c")
    for path, content in attack_files(loader).items():
        target = made.directory / "rootfs" / path.lstrip("/")
        if not target.is_symlink():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o755)
    made.change(powerful)
    yield made
    made.end()
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        if (hierarchy / group).is_dir():
            (hierarchy / group).rmdir()


def powerful(spec: dict[str, Any]) -> None:
    most = sorted(set(CAPABILITIES) - {"CAP_SYS_RESOURCE"})  # what a confined root may be without
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), most)
    spec["process"].update(noNewPrivileges=False)
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])


def in_host_pids(spec: dict[str, Any]) -> None:
    powerful(spec)
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]


def answers(text: str) -> dict[str, int]:
    """What the kernel has said to the loader."""
    return {name: int(number) for name, sep, number in (line.partition("=") for line in text.splitlines()) if sep}


def attack(bundle: Bundle, interpreter: Interpreter) -> list[str]:
    """Have a container attack, and a process that is executed in it, and both once more when all that has made them is
    gone; what they say."""
    bundle.change(lambda spec: spec["process"].update(args=["/trap"]))
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    more = bundle.directory / "more"
    with more.open("wb") as out:
        command = [bundle.program, "--root", str(bundle.root), "exec", "--detach", id, "/trap"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True, timeout=60)
    wait_until(lambda: "ready" in bundle.stdout and "ready" in more.read_text())
    wait_until(lambda: not interpreter.users())
    (bundle.directory / "rootfs" / "go").touch()
    wait_until(lambda: "over" in bundle.stdout and "over" in more.read_text())
    return [bundle.stdout, more.read_text()]


@pytest.mark.parametrize("change", [powerful, in_host_pids])
def test_the_command_line_is_sealed_before_it_forks(
    bundle: Bundle, interpreter: Interpreter, tmp_path: Path, change: Change
) -> None:
    bundle.change(change)
    bundle.program = str(interpreter.script(tmp_path / "oci", ENTRY))
    for said in attack(bundle, interpreter):
        assert answers(said) == REFUSED
        assert said.count(READ_ONLY) == 2, said
    assert interpreter.is_whole


def test_a_command_line_that_stays_shows_its_own_name(bundle: Bundle, interpreter: Interpreter, tmp_path: Path) -> None:
    bundle.program = str(interpreter.script(tmp_path / "oci", ENTRY))
    bundle.change(lambda spec: spec["process"].update(args=["cat"]))
    command = [bundle.program, "--root", str(bundle.root), "run", bundle.new_id()]
    with subprocess.Popen(command, cwd=bundle.directory, stdin=subprocess.PIPE) as running:
        wait_until(lambda: len(bundle.call("list", "-q").stdout.splitlines()) == 1)
        assert Path(f"/proc/{running.pid}/comm").read_text() == "containerd-shim\n"
        assert os.statvfs(f"/proc/{running.pid}/exe").f_flag & os.ST_RDONLY
        wait_until(lambda: bundle.state(bundle.ids[-1])["status"] == "running")
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(20) == 0


def test_without_that_an_interpreter_is_lost(bundle: Bundle, interpreter: Interpreter, tmp_path: Path) -> None:
    """That what these tests try is an attack."""
    bundle.program = str(interpreter.script(tmp_path / "oci", UNSEALED))
    said, _ = attack(bundle, interpreter)
    bundle.program = PROGRAM  # there is nothing left of the other one
    assert answers(said)["truncate"] == errno.ETXTBSY
    assert not interpreter.is_whole
    assert "is not sealed: it was started as an ordinary program" in bundle.stderr


def script_of(interpreter: Interpreter, directory: Path) -> Path:
    text = (Path(__file__).parent / "bare_shim.py").read_text()
    return interpreter.script(directory / "containerd-shim-bare-v1", text)


def as_script(interpreter: Interpreter, directory: Path) -> tuple[Path, list[str]]:
    path = script_of(interpreter, directory)
    return path, [str(interpreter.path), "-I", str(path)]


def as_launcher(interpreter: Interpreter, directory: Path) -> tuple[Path, list[str]]:
    binary = Path(DIRECTORY) / BINARY
    if not is_built_from(str(binary)):
        pytest.skip("the launcher is not built: install the package anew, with a C compiler")
    (directory / "program").mkdir()
    _, command = as_script(interpreter, directory / "program")
    path = directory / "containerd-shim-bare-v1"
    path.write_bytes(fill_command(binary.read_bytes(), command))
    path.chmod(0o755)
    return path, command


Make = Callable[[Interpreter, Path], tuple[Path, list[str]]]


@pytest.mark.parametrize("change", [powerful, in_host_pids])
@pytest.mark.parametrize("has_zygote", [True, False])
@pytest.mark.parametrize("make", [as_script, as_launcher])
def test_a_shim_is_sealed_whoever_has_made_it(
    interpreter: Interpreter, loader: bytes, tmp_path: Path, make: Make, has_zygote: bool, change: Change
) -> None:
    program, command = make(interpreter, tmp_path)
    socket = Path(socket_path(command))
    lock = Path(f"{socket}.lock")
    if not has_zygote:
        lock.mkdir(parents=True)

    async def scenario(pod: Pod) -> None:
        container = pod.container(["/trap"], attack_files(loader), change=change)
        await container.create()
        await container.start()
        zygote = zygote_at(socket)
        assert (zygote is not None) == has_zygote
        assert "is not sealed" not in (container.bundle / "log").read_text()
        shim = await pod.shim_pid()
        exec_said = await attack_by_exec(container)
        await until(lambda: "ready" in container.stdout)
        if change is in_host_pids:
            said = await run_in(container, f"(: > /proc/{shim}/exe) 2>&1; (: > /proc/{zygote or shim}/exe) 2>&1")
            assert said.count(READ_ONLY) == 2, said
        assert pod.client is not None
        await pod.client.close()
        pod.client = None
        for each in interpreter.users():
            os.kill(each, signal.SIGKILL)
        await until(lambda: not interpreter.users())
        (container.rootfs / "go").touch()
        await until(lambda: "over" in container.stdout and "over" in exec_said.read_text())
        for said in (container.stdout, exec_said.read_text()):
            assert answers(said) == REFUSED
            assert said.count(READ_ONLY) == 2, said
        assert interpreter.is_whole
        assert pod.action("delete", container, "-bundle", str(container.bundle)).returncode == 0

    try:
        play(str(program), scenario)
    finally:
        end_zygote(interpreter, socket)


@pytest.mark.parametrize("has_zygote", [True, False])
def test_a_shim_that_is_not_sealed_says_so_and_why(interpreter: Interpreter, tmp_path: Path, has_zygote: bool) -> None:
    text = (Path(__file__).parent / "bare_shim.py").read_text()
    program = interpreter.script(tmp_path / "containerd-shim-bare-v1", f"{UNABLE}\n{text}")
    socket = Path(socket_path([str(interpreter.path), "-I", str(program)]))
    lock = Path(f"{socket}.lock")
    if not has_zygote:
        lock.mkdir(parents=True)

    async def scenario(pod: Pod) -> None:
        container = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        await container.create()
        assert (zygote_at(socket) is not None) == has_zygote
        log = (container.bundle / "log").read_text()
        assert "level=warning" in log
        assert "containers may get at this shim's interpreter, which is not sealed: not today: a mount" in log

    try:
        play(str(program), scenario)
    finally:
        end_zygote(interpreter, socket)


def test_a_container_that_waits_for_its_start_is_sealed(
    interpreter: Interpreter, loader: bytes, tmp_path: Path
) -> None:
    """In a pod that shares a pid namespace, the first container sees the second's init before it becomes a program."""
    program, command = as_script(interpreter, tmp_path)
    socket = Path(socket_path(command))

    async def scenario(pod: Pod) -> None:
        files = attack_files(loader)
        first = pod.container(["/bin/sleep", "1000"], files, change=powerful)
        pid = await first.create()
        await first.start()

        def join(spec: dict[str, Any]) -> None:
            powerful(spec)
            for each in spec["linux"]["namespaces"]:
                if each["type"] == "pid":
                    each["path"] = f"/proc/{pid}/ns/pid"

        second = pod.container(["/bin/sleep", "1000"], files, change=join)
        init = await second.create()
        inside = Path(f"/proc/{init}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1]
        said = await run_in(first, f"(: > /proc/{inside}/exe) 2>&1; (echo x >> /proc/{inside}/exe) 2>&1")
        assert [READ_ONLY in said, "Text file busy" in said] == [True, True], said
        assert interpreter.is_whole

    try:
        play(str(program), scenario)
    finally:
        end_zygote(interpreter, socket)


def end_zygote(interpreter: Interpreter, socket: Path) -> None:
    """End the zygote at *socket*, if there is one, and see that nobody executes the interpreter any more."""
    if (pid := zygote_at(socket)) is not None:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not interpreter.users())
    socket.unlink(missing_ok=True)
    lock = Path(f"{socket}.lock")
    if lock.is_dir():
        lock.rmdir()
    lock.unlink(missing_ok=True)


def play(program: str, scenario: Callable[[Pod], Any]) -> None:
    async def whole() -> None:
        async with pod(program) as made:
            await scenario(made)

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about in 20 s")


async def add(container: Container, name: str, *args: str) -> Path:
    """Start *args* in the container, with all that it has itself; where its output goes."""
    said = container.bundle / name
    said.touch()
    process = json.loads((container.bundle / "config.json").read_text())["process"]
    url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
    spec = any_pb2.Any(type_url=url, value=json.dumps({**process, "args": list(args)}).encode())
    await container.call("Exec", exec_id=name, spec=spec, stdout=str(said), stderr=str(said))
    await container.call("Start", exec_id=name)
    return said


async def attack_by_exec(container: Container) -> Path:
    said = await add(container, "attack", "/trap")
    await until(lambda: "ready" in said.read_text())
    return said


async def run_in(container: Container, script: str) -> str:
    said = await add(container, "look", "/bin/sh", "-c", script)
    await container.call("Wait", exec_id="look")
    return said.read_text()
