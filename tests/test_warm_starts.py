"""The compile cache under whole shims: compiled once a node, whatever happens to a shim, the disk or an entry."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from containerd_shim_wasm_test_modules import COMPONENT_HELLO_WORLD, HELLO_WORLD, SPINNER
from containerd_shimkit import ShimError
from harness.images import BUSYBOX
from harness.pod import Container, Pod, end, pod

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")]

WASM = "/app/program.wasm"
Scenario = Callable[[list[Pod]], Awaitable[None]]
Play = Callable[[int, Scenario], None]


@pytest.fixture
def play(shim_directory: str, tmp_path: Path) -> Play:
    """Run a scenario with some pods, each with a shim of its own, that share a cache."""

    @asynccontextmanager
    async def pods(count: int) -> AsyncIterator[list[Pod]]:
        async with AsyncExitStack() as stack:
            shim = os.path.join(shim_directory, "containerd-shim-wasmtime-v1")
            made = [await stack.enter_async_context(pod(shim)) for _ in range(count)]
            for each in made:
                each.cache = tmp_path / "modules"
            yield made
            for each in made:
                await end(each)

    def run(count: int, scenario: Scenario) -> None:
        async def whole() -> None:
            async with pods(count) as made:
                await scenario(made)

        asyncio.run(whole())

    return run


def hello(pod: Pod, program: bytes = HELLO_WORLD.bytes) -> Container:
    return pod.container([WASM], {WASM: program})


def log_of(*containers: Container) -> str:
    return "".join((container.bundle / "log").read_text() for container in containers)


def compiled(*containers: Container) -> int:
    return log_of(*containers).count("compiled a program")


def slow_program(functions: int) -> bytes:
    """Text that takes wasmtime about a second per thousand *functions*."""
    body = "(local $x i64)" + "(local.set $x (i64.mul (local.get $x) (i64.const 7)))" * 400
    return ("(module " + f"(func {body})" * functions + '(func (export "_start")))').encode()


@pytest.mark.parametrize("program", [HELLO_WORLD.bytes, COMPONENT_HELLO_WORLD.bytes, HELLO_WORLD.source.read_bytes()])
def test_the_second_container_does_not_compile_nor_does_another_shim(play: Play, program: bytes) -> None:
    async def scenario(pods: list[Pod]) -> None:
        containers = [hello(pods[number], program) for number in (0, 0, 1)]
        for container in containers:
            assert await container.run() == 0
            assert container.stdout.lower().startswith("hello")
        assert [compiled(container) for container in containers] == [1, 0, 0]

    play(2, scenario)


def test_what_an_operator_has_warmed_is_not_compiled_by_a_shim(play: Play, tmp_path: Path) -> None:
    async def scenario(pods: list[Pod]) -> None:
        programs = {"module.wasm": HELLO_WORLD.bytes, "component.wasm": COMPONENT_HELLO_WORLD.bytes}
        for name, program in programs.items():
            (tmp_path / name).write_bytes(program)
        command = [sys.executable, "-c", "from containerd_shim_wasm.cache_command import cache; cache()"]
        options = ["warm", "--engine", "wasmtime", "--directory", str(pods[0].cache)]
        subprocess.run([*command, *options, *(str(tmp_path / name) for name in programs)], check=True)
        containers = [hello(pods[0], program) for program in programs.values()]
        assert [await container.run() for container in containers] == [0, 0]
        assert compiled(*containers) == 0

    play(1, scenario)


def test_two_shims_at_once_compile_once(play: Play) -> None:
    async def scenario(pods: list[Pod]) -> None:
        containers = [hello(pods[number % 2], slow_program(300)) for number in range(6)]
        assert await asyncio.gather(*(container.run() for container in containers)) == [0] * 6
        assert compiled(*containers) == 1

    play(2, scenario)


def test_a_big_program_is_hashed_once_a_file_and_compiled_once(play: Play, tmp_path: Path) -> None:
    program = b'(module (func (export "_start")))' + b" " * 300_000
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "program.wasm").write_bytes(program)
    os.utime(volume / "program.wasm", (1, 1))

    def mount(spec: dict[str, list[dict[str, object]]]) -> None:
        spec["mounts"].append({"destination": "/app", "source": str(volume), "type": "bind", "options": ["bind"]})

    async def scenario(pods: list[Pod]) -> None:
        first = pods[0].container([WASM], {}, change=mount)
        assert await first.run() == 0
        await asyncio.sleep(2.2)  # until a change of the file would be sure to show
        later = [pods[0].container([WASM], {}, change=mount) for _ in range(3)]
        assert [await container.run() for container in later] == [0, 0, 0]
        (volume / "program.wasm").write_bytes(program.replace(b"_start", b"_begin"))
        changed = pods[0].container([WASM], {}, change=mount)
        assert await changed.run() == 137
        assert "'_start' is not there" in changed.stderr
        assert [compiled(container) for container in (first, *later, changed)] == [1, 0, 0, 0, 1]

    play(1, scenario)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "foreign"])
def test_a_bad_entry_is_never_loaded_but_rebuilt(play: Play, damage: str) -> None:
    async def scenario(pods: list[Pod]) -> None:
        first, second, third = hello(pods[0]), hello(pods[0]), hello(pods[1])
        assert await first.run() == 0
        (code,) = pods[0].cache.glob("*.code")
        time.sleep(0.02)
        if damage == "flipped":
            with open(code, "r+b") as file:
                file.seek(code.stat().st_size // 2)
                file.write(b"\xcc" * 64)
        elif damage == "truncated":
            os.truncate(code, 4096)
        else:
            os.chown(code, 1000, 1000)
        assert [await second.run(), await third.run()] == [0, 0]
        assert [compiled(each) for each in (second, third)] == [1, 0]
        assert "compiling anew: " in log_of(second)

    play(2, scenario)


def test_a_cache_that_somebody_else_made_is_not_used_and_the_container_runs(play: Play, tmp_path: Path) -> None:
    async def scenario(pods: list[Pod]) -> None:
        pods[0].cache.mkdir(mode=0o700)
        os.chown(pods[0].cache, 1000, 1000)
        containers = [hello(pods[0]) for _ in range(2)]
        assert [await container.run() for container in containers] == [0, 0]
        assert log_of(*containers).count("belongs to user 1000") == 2
        assert list(pods[0].cache.iterdir()) == []

    play(1, scenario)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "modules"
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,mode=700", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_for_the_cache_stops_no_container(play: Play, small_disk: Path) -> None:
    async def scenario(pods: list[Pod]) -> None:
        containers = [hello(pods[0]) for _ in range(2)]
        (small_disk / "filler").write_bytes(bytes(28_000))
        assert [await container.run() for container in containers] == [0, 0]
        assert log_of(*containers).count("No space left on device") == 2
        assert [path.name for path in small_disk.iterdir()] == ["filler"]

    play(1, scenario)


def test_a_shim_killed_while_it_compiles_holds_nobody_up_and_leaves_nothing(play: Play) -> None:
    async def scenario(pods: list[Pod]) -> None:
        program = slow_program(1000)
        await hello(pods[0]).run()
        doomed, next_one = hello(pods[0], program), hello(pods[1], program)
        await asyncio.get_running_loop().run_in_executor(None, pods[0].start, doomed)
        creating = asyncio.ensure_future(doomed.create())
        await asyncio.sleep(0.4)
        assert not creating.done(), "the program is too quick to compile for this test"
        assert len(list(pods[0].cache.glob("*.lock"))) == 1
        os.kill(await pods[0].shim_pid(), signal.SIGKILL)
        with pytest.raises(ShimError):
            await creating
        assert pods[0].action("delete", doomed, "-bundle", str(doomed.bundle)).returncode == 0
        pods[0].client = None
        assert len(list(pods[0].cache.glob("*.lock"))) == 1, "nobody was there to remove it"
        assert await next_one.run() == 0
        assert {path.suffix for path in pods[1].cache.iterdir()} == {".code", ".record"}

    play(2, scenario)


@pytest.mark.parametrize("delay", [0.01, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05])
def test_a_shim_killed_at_any_moment_leaves_a_cache_that_works(play: Play, delay: float) -> None:
    async def scenario(pods: list[Pod]) -> None:
        native = pods[0].container(["/bin/true"], {"/bin/true": Path(BUSYBOX).read_bytes()})
        await native.run()  # the shim is there, and has compiled nothing
        doomed, next_one, third = hello(pods[0]), hello(pods[1]), hello(pods[1])
        last = hello(pods[1], COMPONENT_HELLO_WORLD.bytes)
        shim = await pods[0].shim_pid()
        creating = asyncio.ensure_future(doomed.create())
        await asyncio.sleep(delay)
        os.kill(shim, signal.SIGKILL)
        await asyncio.gather(creating, return_exceptions=True)
        assert pods[0].action("delete", doomed, "-bundle", str(doomed.bundle)).returncode == 0
        pods[0].client = None
        assert [await next_one.run(), await third.run()] == [0, 0]
        assert "compiling anew" not in log_of(next_one, third)
        assert compiled(third) == 0
        assert await last.run() == 0  # who stores sweeps
        assert sorted(path.suffix for path in pods[1].cache.iterdir()) == [".code", ".code", ".record", ".record"]

    play(2, scenario)


def test_an_entry_that_goes_while_its_guest_runs_harms_nobody(play: Play) -> None:
    async def scenario(pods: list[Pod]) -> None:
        small = pods[0].options(compile_cache_bytes=25_000)
        running = pods[0].container([WASM], {WASM: SPINNER.bytes})
        await running.create(options=small)
        await running.start()
        (code,) = pods[0].cache.glob("*.code")
        other = hello(pods[0])
        assert await other.run(options=small) == 0
        assert not code.exists(), "there was room for one of the two"
        assert (await running.call("State")).status == 2
        await running.call("Kill", signal=signal.SIGKILL)
        assert await running.wait() == 137
        assert log_of(running, other).count("level=warning") == 0

    play(1, scenario)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"compile_timeout": 0.2}, ShimError, r"took longer than 0\.2 s .* raise the runtime option compile_timeout"),
        ({"compile_memory_bytes": 150 << 20}, ShimError, "raise the runtime option compile_memory_bytes|raise it"),
        ({"compile_memory_bytes": 1000}, ShimError, r"has \d+ bytes, more than may be compiled \(1000\)"),
    ],
)
def test_a_compile_past_its_limits_fails_that_create_only_and_says_so(
    play: Play, settings: dict[str, float], kind: type[ShimError], words: str
) -> None:
    async def scenario(pods: list[Pod]) -> None:
        bad, good = hello(pods[0], slow_program(1000)), hello(pods[0])
        await pods[0].ensure_started(bad)
        failing = asyncio.ensure_future(bad.create(options=pods[0].options(**settings)))
        assert await good.run() == 0
        with pytest.raises(kind, match=words):
            await failing
        assert {path.suffix for path in pods[0].cache.iterdir()} == {".code", ".record"}
        assert len(list(pods[0].cache.iterdir())) == 2

    play(1, scenario)
