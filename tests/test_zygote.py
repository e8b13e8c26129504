"""Shims made by a zygote, whole: whose children they are, what they inherit, and what its death or change does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD
from harness.images import BUSYBOX
from harness.pod import Container, Pod, end, pod
from harness.processes import read_process
from harness.zygotes import end_zygotes, is_of_this_installation, our_zygotes, wait_until

pytestmark = pytest.mark.root

WASM = "/app/program.wasm"
SLEEP = ["/bin/sleep", "1000"]
Scenario = Callable[[Pod], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shim's program of this module's own, whose zygotes no other test uses."""
    return write_program(tmp_path_factory.mktemp("bin") / "containerd-shim-looking-v1")


def write_program(path: Path, word: str = "old") -> Path:
    text = (Path(__file__).parent / "looking_shim.py").read_text().replace('WORD = "old"', f'WORD = "{word}"')
    temporary = path.with_suffix(".new")
    temporary.write_text(f"#!{sys.executable}\n{text}")
    temporary.chmod(0o755)
    temporary.replace(path)
    return path


@pytest.fixture
def play(shim: Path) -> Play:
    """Run a scenario in a pod of its own, and fail when it leaves anything behind."""
    if os.geteuid():
        pytest.skip("containers need root")

    def run(scenario: Scenario) -> None:
        async def whole() -> None:
            async with pod(str(shim)) as made:
                await scenario(made)

        asyncio.run(whole())

    return run


def looking(pod: Pod, **settings: Any) -> Container:
    return pod.container([WASM], {WASM: HELLO_WORLD.bytes}, **settings)


def sleeping(pod: Pod) -> Container:
    return pod.container(SLEEP, {"/bin/sleep": Path(BUSYBOX).read_bytes()})


def start(pod: Pod, container: Container, wrapper: Sequence[str] = (), **settings: Any) -> str:
    """`start` as containerd runs it, in whatever circumstances; the address."""
    command = [*wrapper, pod.shim, "-namespace", pod.namespace, "-address", f"{pod.directory}/ctd.sock"]
    given: dict[str, Any] = {"cwd": container.bundle, "env": {"TTRPC_ADDRESS": f"{pod.directory}/events"}, **settings}
    done: subprocess.CompletedProcess[bytes] = subprocess.run(
        [*command, "-id", container.id, "start"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
        **given,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def give_up(pod: Pod, *containers: Container) -> None:
    """`delete` for containers that were announced and never created: the shim waits for them no longer."""
    for container in containers:
        assert pod.action("delete", container, "-bundle", str(container.bundle)).returncode == 0


async def connect(pod: Pod, address: str) -> None:
    from containerd_shimkit.ttrpc.aio.client import Client

    pod.client = await Client.connect(address)


def parent_of(pid: int) -> int:
    entry = read_process(pid)
    assert entry is not None
    return entry.parent


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def dead_group_sockets(before: set[str]) -> list[str]:
    """The groups' sockets that are new and that nobody listens at."""
    from containerd_shimkit.shim.group import is_alive

    new = set(os.listdir("/run/containerd/s")) - before
    paths = [f"/run/containerd/s/{name}" for name in new if not name.endswith(".lock")]
    return [path for path in paths if not is_alive(path)]


def test_a_shim_is_the_zygotes_child_and_shows_whose_it_is(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        first, second = looking(pod), looking(pod)
        address = pod.start(first)
        await connect(pod, address)
        pid = await pod.shim_pid()
        assert parent_of(pid) in our_zygotes()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
        assert words[0].endswith("containerd-shim-looking-v1")
        assert (words[words.index("-namespace") + 1], words[words.index("-id") + 1]) == (pod.namespace, first.id)
        assert pod.start(second) == address, "one group, one shim"
        assert await pod.shim_pid() == pid
        children = Path(f"/proc/{parent_of(pid)}/task/{parent_of(pid)}/children").read_text().split()
        ours = [each for each in children if pod.namespace in Path(f"/proc/{each}/cmdline").read_text()]
        assert ours == [str(pid)]
        give_up(pod, first, second)

    play(scenario)


def disturb() -> None:
    os.umask(0o077)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])


def test_nothing_of_an_earlier_caller_reaches_a_later_shim(shim: Path) -> None:
    async def one(variable: str, *, by: Callable[[], None] | None) -> tuple[dict[str, Any], int]:
        async with pod(str(shim)) as made:
            container = looking(made)
            environment = {variable: "1", "TTRPC_ADDRESS": f"{made.directory}/events"}
            opened = os.open("/dev/zero", os.O_RDONLY)
            os.set_inheritable(opened, True)
            address = start(made, container, env=environment, preexec_fn=by, pass_fds=[opened])
            os.close(opened)
            await connect(made, address)
            pid = await made.shim_pid()
            zygote = parent_of(pid)
            status = status_of(pid)
            assert (status["Umask"], int(status["SigBlk"], 16)) == ("0022", 0)
            ignored = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)  # what Python ignores
            assert int(status["SigIgn"], 16) == ignored
            assert os.readlink(f"/proc/{pid}/cwd") == str(container.bundle)
            assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == own_score() + 1
            assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
            targets = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
            files = [each for each in targets if each.startswith("/") and each != "/dev/null"]
            assert files in ([], [str(container.bundle / "log")]), targets
            assert await container.run() == 0
            seen: dict[str, Any] = json.loads(container.stdout)
            return seen, zygote

    end_zygotes(our_zygotes())
    first, zygote = asyncio.run(one("OTEL_X", by=disturb))
    second, same_zygote = asyncio.run(one("OTEL_Y", by=None))
    assert zygote == same_zygote
    assert first["environment"]["OTEL_X"] == second["environment"]["OTEL_Y"] == "1"
    assert "OTEL_X" not in second["environment"]
    assert not {"OTEL_X", "OTEL_Y"} & set(Path(f"/proc/{zygote}/environ").read_text().split("="))
    assert not set(first["random"]) & set(second["random"]), "each guest draws its own lots"


def own_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


def test_twenty_first_starts_at_once_make_one_zygote(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        end_zygotes(our_zygotes())
        containers = [looking(pod) for _ in range(20)]
        loop = asyncio.get_running_loop()
        addresses = await asyncio.gather(*(loop.run_in_executor(None, pod.start, each) for each in containers))
        assert len(set(addresses)) == 1
        await connect(pod, addresses[0])
        zygotes = our_zygotes()
        assert list(zygotes) == [parent_of(await pod.shim_pid())]
        everywhere = [entry for entry in zygote_processes() if entry not in zygotes]
        assert everywhere == []
        give_up(pod, *containers)

    play(scenario)


def zygote_processes() -> list[int]:
    """Every process that calls itself a zygote of this module's shim, whether it listens or not."""
    from harness.processes import read_processes

    return [
        pid
        for pid, entry in read_processes().items()
        if entry.name == "shim-zygote" and b"looking-v1 zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.parametrize(
    ("wrapper", "settings"),
    [((), {"preexec_fn": lambda: os.nice(1)}), (("unshare", "--net"), {})],
    ids=["nice", "network"],
)
def test_another_context_has_a_zygote_of_its_own(shim: Path, wrapper: Sequence[str], settings: dict[str, Any]) -> None:
    async def shim_of(wrapper: Sequence[str], settings: dict[str, Any]) -> tuple[int, int, str]:
        async with pod(str(shim)) as made:
            container = looking(made)
            await connect(made, start(made, container, wrapper, **settings))
            pid = await made.shim_pid()
            give_up(made, container)
            return parent_of(pid), os.getpriority(os.PRIO_PROCESS, pid), os.readlink(f"/proc/{pid}/ns/net")

    here, nice, network = asyncio.run(shim_of((), {}))
    there, other_nice, other_network = asyncio.run(shim_of(wrapper, settings))
    assert {here, there} <= set(our_zygotes())
    assert here != there
    assert (nice, network) != (other_nice, other_network), "the shim is in its caller's context"


def test_a_task_outlives_the_zygote_and_the_next_start_makes_another(shim: Path) -> None:
    async def scenario() -> None:
        async with pod(str(shim)) as one, pod(str(shim)) as other:
            task = sleeping(one)
            await task.create()
            await task.start()
            zygote = parent_of(await one.shim_pid())
            os.kill(zygote, signal.SIGKILL)
            await task.call("Kill", signal=signal.SIGKILL)
            assert await task.wait() == 137
            container = looking(other)
            await connect(other, other.start(container))
            again = parent_of(await other.shim_pid())
            assert again != zygote
            assert again in our_zygotes()
            give_up(other, container)
            for each in (one, other):
                await end(each)

    asyncio.run(scenario())


def test_starts_succeed_while_zygotes_are_killed_again_and_again(shim: Path) -> None:
    before = set(os.listdir("/run/containerd/s"))

    def start_and_delete(pod: Pod) -> str:
        container = looking(pod)
        address = pod.start(container)
        give_up(pod, container)
        return address

    async def scenario() -> None:
        done = asyncio.Event()

        async def kill() -> int:
            kills = 0
            while not done.is_set():
                for pid in our_zygotes():
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
                await asyncio.sleep(0.15)
            return kills

        async with pod(str(shim)) as made:
            killing = asyncio.ensure_future(kill())
            loop = asyncio.get_running_loop()
            addresses: list[str] = []
            try:
                for _ in range(10):
                    three = (loop.run_in_executor(None, start_and_delete, made) for _ in range(3))
                    addresses += await asyncio.gather(*three)
            finally:
                done.set()
            assert await killing >= 3
            assert len(set(addresses)) == 1
            await connect(made, addresses[0])  # to whichever shim is there, so that it is asked to end

    asyncio.run(scenario())
    wait_until(lambda: not dead_group_sockets(before))


def test_a_zygote_that_hangs_is_replaced_and_ends_when_it_wakes(shim: Path) -> None:
    async def scenario() -> None:
        async with pod(str(shim)) as one, pod(str(shim)) as other:
            first, second = looking(one), looking(other)
            await connect(one, one.start(first))
            hanging = parent_of(await one.shim_pid())
            os.kill(hanging, signal.SIGSTOP)
            try:
                await connect(other, other.start(second))
            finally:
                os.kill(hanging, signal.SIGCONT)
            assert parent_of(await other.shim_pid()) != hanging
            wait_until(lambda: not is_of_this_installation(hanging), timeout=5)
            assert parent_of(await other.shim_pid()) in our_zygotes(), "its end leaves its successor's socket there"
            for made, container in ((one, first), (other, second)):
                give_up(made, container)
                await end(made)

    asyncio.run(scenario())


def test_an_upgrade_is_followed_when_it_has_settled_and_no_start_fails_meanwhile(tmp_path: Path) -> None:
    program = write_program(tmp_path / "containerd-shim-looking-v1")

    async def word() -> str:
        async with pod(str(program)) as made:
            container = looking(made)
            assert await container.run() == 0
            return str(json.loads(container.stdout)["word"])

    assert asyncio.run(word()) == "old"
    write_program(program, "new")
    assert asyncio.run(word()) in ("old", "new")
    time.sleep(2.2)
    assert asyncio.run(word()) == "new"
