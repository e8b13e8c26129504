"""What guests and programs of a shim's containers can get at that is not theirs. See docs/security.md."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import ARGS_ENV_STDIN, HELLO_WORLD, SLEEPER
from containerd_shimkit import InvalidArgumentError, NotFoundError
from google.protobuf import any_pb2
from harness.images import BUSYBOX
from harness.pod import Container, Pod, pod
from test_security import fill_with_modules

pytestmark = pytest.mark.root

WASM = "/app/program.wasm"
_TOOLS = ("sh", "cat", "ls", "sleep", "grep", "readlink", "test", "rm")
Scenario = Callable[[Pod], Awaitable[None]]
Play = Callable[..., None]

# A start whose program has no zygote, and serves by itself.
_SLOW_SHIM = """#!{python}
import sys
from containerd_shimkit.shim import bootstrap
from {module} import main

bootstrap._ask_zygote = lambda *_: None
main()
"""

# Ends with the number of descriptors, of 200, that WASI has for this guest.
_COUNTING = b"""(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $fd i32) (local $count i32)
    (loop $next
      (if (i32.eqz (call $stat (local.get $fd) (i32.const 0)))
        (then (local.set $count (i32.add (local.get $count) (i32.const 1)))))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 200))))
    (call $exit (local.get $count))))"""


@pytest.fixture
def play(shim_directory: str, tmp_path: Path) -> Play:
    """Run a scenario in a pod of its own; on request in one whose shim was started without a zygote."""
    if os.geteuid():
        pytest.skip("containers need root")

    def run(scenario: Scenario, *, slowly: bool = False) -> None:
        shim = os.path.join(shim_directory, "containerd-shim-wasmtime-v1")
        if slowly:
            program = tmp_path / "containerd-shim-slow-v1"
            program.write_text(_SLOW_SHIM.format(python=sys.executable, module="containerd_shim_wasmtime.__main__"))
            program.chmod(0o755)
            shim = str(program)

        async def whole() -> None:
            async with pod(shim) as made:
                await scenario(made)

        asyncio.run(whole())

    return run


def native(pod: Pod, *args: str, **more: Any) -> Container:
    """A container of busybox; it sleeps unless told otherwise."""
    files = {f"/bin/{name}": Path(BUSYBOX).read_bytes() for name in _TOOLS}
    return pod.container(list(args) or ["/bin/sleep", "1000"], files, **more)


async def execute(container: Container, *args: str, name: str, **fields: object) -> tuple[int, str]:
    """Run *args* in the container as its process *name*; the exit status and what it said."""
    said = container.bundle / name
    said.write_text("")
    document = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": True, **fields}
    url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
    spec = any_pb2.Any(type_url=url, value=json.dumps(document).encode())
    await container.call("Exec", exec_id=name, spec=spec, stdout=str(said), stderr=str(said))
    await container.call("Start", exec_id=name)
    status = (await container.call("Wait", exec_id=name)).exit_status
    await container.call("Delete", exec_id=name)
    return status, said.read_text()


def test_a_guest_and_an_exec_list_no_descriptor_of_the_hosts(play: Play) -> None:
    """CVE-2016-9962 and CVE-2024-21626, from inside: what each has, as it counts itself."""

    async def scenario(pod: Pod) -> None:
        guest = pod.container([WASM], {WASM: _COUNTING})
        assert await guest.run() == 4, "three streams and the root"
        program = native(pod, "/bin/ls", "/proc/self/fd")
        assert await program.run() == 0
        assert program.stdout.split() == ["0", "1", "2", "3"], "3 is the directory that ls lists"
        home = native(pod)
        await home.create()
        await home.start()
        assert await execute(home, "ls", "/proc/self/fd", name="fds") == (0, "0\n1\n2\n3\n")
        status, said = await execute(home, "grep", "-E", "^(CapInh|CapAmb|Groups)", "/proc/self/status", name="caps")
        assert (status, said.split()) == (0, ["Groups:", "CapInh:", "0" * 16, "CapAmb:", "0" * 16])

    play(scenario)


@pytest.mark.parametrize("slowly", [False, True])
def test_the_environment_of_containerd_is_seen_by_nobody(
    play: Play, monkeypatch: pytest.MonkeyPatch, slowly: bool
) -> None:
    """By the guest, by a neighbour in its pid namespace, on the host: with a zygote, and without."""
    monkeypatch.setenv("OF_CONTAINERD", "hushed")

    async def scenario(pod: Pod) -> None:
        home = native(pod)
        home_pid = await home.create()
        await home.start()

        def share(spec: dict[str, Any]) -> None:
            kinds = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]
            spec["linux"]["namespaces"] = [*kinds, {"type": "pid", "path": f"/proc/{home_pid}/ns/pid"}]

        guest = pod.container([WASM], {WASM: SLEEPER.bytes}, change=share)
        pid = await guest.create()
        for is_waiting in (True, False):
            for each in (home_pid, pid, await pod.shim_pid()):
                assert b"OF_CONTAINERD" not in Path(f"/proc/{each}/environ").read_bytes(), each
            assert Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0") == b""
            inside = Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split()[1]
            for file in ("environ", "maps", "mem", "auxv"):
                status, said = await execute(home, "cat", f"/proc/{inside}/{file}", name="look")
                assert (status, "ermission denied" in said) == (1, True), (file, said)
            for link in ("exe", "cwd", "root", "ns/mnt"):
                assert await execute(home, "readlink", f"/proc/{inside}/{link}", name="look") == (1, ""), link
            if is_waiting:
                await guest.start()
        telling = pod.container([WASM, "x"], {WASM: ARGS_ENV_STDIN.bytes})
        assert await telling.run() in range(256)
        assert "OF_CONTAINERD" not in telling.stdout + telling.stderr

    play(scenario, slowly=slowly)


def test_an_exec_in_an_image_full_of_our_module_names_is_what_it_is_elsewhere(play: Play) -> None:
    """CVE-2019-14271 and its like: one that runs, one that fails after its root is the container's, a guest's."""

    async def scenario(pod: Pod) -> None:
        home = native(pod)
        fill_with_modules(home.rootfs)
        (home.rootfs / "bin" / "script").write_text("#!/nowhere\n")
        (home.rootfs / "bin" / "script").chmod(0o755)
        await home.create()
        await home.start()
        assert await execute(home, "sh", "-c", "echo fine", name="fine") == (0, "fine\n")
        with pytest.raises(InvalidArgumentError, match="interpreter is missing"):
            await execute(home, "script", name="failing")
        assert not (home.rootfs / "pwned").exists()
        guest = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        fill_with_modules(guest.rootfs)
        assert await guest.run() == 0
        assert not (guest.rootfs / "pwned").exists()

    play(scenario)


def test_no_socket_of_a_shim_is_anybodys_but_roots(play: Play) -> None:
    """CVE-2020-15257: an abstract socket belongs to a network, which a container may share; a path's has a mode."""

    async def scenario(pod: Pod) -> None:
        home = native(pod)
        address = pod.start(home).strip()
        await home.create()
        path = address.removeprefix("unix://")
        assert path.startswith("/run/")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        own = {os.readlink(each.path) for each in os.scandir(f"/proc/{await pod.shim_pid()}/fd")}
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            assert f"socket:[{fields[6]}]" not in own or not "".join(fields[7:]).startswith("@"), line

    play(scenario)


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b", "", "a\n"])
def test_ids_that_are_paths_are_refused_by_the_shim(play: Play, name: str) -> None:
    async def scenario(pod: Pod) -> None:
        home = native(pod)
        await home.create()
        await home.start()
        with pytest.raises(InvalidArgumentError):
            await pod.call("Create", id=name, bundle=str(home.bundle))
        spec = any_pb2.Any(value=b"{}")
        with pytest.raises((InvalidArgumentError, NotFoundError)):
            await home.call("Exec", exec_id=name, spec=spec)
        assert {each.pid for each in (await home.call("Pids")).processes} == {(await home.call("State")).pid}

    play(scenario)
