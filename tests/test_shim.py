"""The shim's program and what it serves, without containerd: whole containers, made and ended for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import (
    ARGS_ENV_STDIN,
    COMPONENT_EXIT,
    COMPONENT_HELLO_WORLD,
    EXIT_CODE,
    HAS_DEFAULT_DEVICES,
    HELLO_WORLD,
    MEMORY_HOG,
    MISSING_IMPORT,
    NO_START,
    OUTPUT_FLOODER,
    RANDOM,
    SIMPLE_COMPONENT,
    SLEEPER,
    SPINNER,
    UNREACHABLE,
)
from containerd_shimkit import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ShimError,
    UnavailableError,
)
from containerd_shimkit.linux.cgroups import cgroup_for
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.proto import runtime_options_pb2
from containerd_shimkit.ttrpc.aio.client import Client
from google.protobuf import any_pb2
from harness.images import BUSYBOX
from harness.pod import Play, Pod

pytestmark = pytest.mark.root

WASM = "/app/program.wasm"


def test_a_module_runs_and_its_events_come_in_order(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        pid = await container.create()
        assert pid > 1
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        assert container.stdout == "", "nothing runs before Start"
        assert await container.start() == pid
        assert await container.wait() == 0
        assert container.stdout == "hello world\n"
        deleted = await container.delete()
        assert (deleted.pid, deleted.exit_status, deleted.HasField("exited_at")) == (pid, 0, True)
        await asyncio.sleep(0.1)
        assert [topic for topic, _ in pod.events] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]

    play(scenario)


def test_arguments_environment_and_input_reach_the_guest(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["process"]["env"] = ["A=1", "B=two words"]

        typed = tmp_path / "stdin"
        typed.write_text("typed\n")
        container = pod.container([WASM, "x", "y z"], {WASM: ARGS_ENV_STDIN.bytes}, change=change)
        assert await container.run(stdin=str(typed)) == 0
        lines = container.stdout.splitlines()
        for expected in (WASM, "x", "y z", "A=1", "B=two words", "typed"):
            assert any(expected in line for line in lines), (expected, lines)

    play(scenario)


@pytest.mark.parametrize(
    ("program", "args", "status", "reason"),
    [
        (EXIT_CODE.bytes, [], 42, ""),
        (UNREACHABLE.bytes, [], 137, "unreachable"),
        (MISSING_IMPORT.bytes, [], 137, "unknown import"),
        (NO_START.bytes, [], 137, "'_start' is not there"),
        (b'(module (func (export "_start")) )', [], 0, ""),
    ],
)
def test_a_guests_end_is_its_status_and_its_failure_is_explained(
    play: Play, program: bytes, args: list[str], status: int, reason: str
) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM, *args], {WASM: program})
        assert await container.run() == status
        assert reason in container.stderr
        assert (not reason) or reason in (container.bundle / "log").read_text()

    play(scenario)


def test_an_export_is_called_by_its_name(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        text = b'(module (func (export "other")) (func (export "_start") unreachable))'
        assert await pod.container([f"{WASM}#other"], {WASM: text}).run() == 0

    play(scenario)


def test_a_native_program_gets_the_specs_environment_a_home_and_nothing_else(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["process"]["env"] = ["FOO=bar"]

        native = {"/bin/env": Path(BUSYBOX).read_bytes()}
        container = pod.container(["/bin/env"], native, change=change)
        assert await container.run() == 0
        assert container.stdout == "FOO=bar\nHOME=/\n"

    play(scenario)


def test_wasm_and_native_share_a_shim_and_one_ends_without_the_other(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        native = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        wasm = pod.container([WASM], {WASM: b'(module (func (export "_start") (loop (br 0))))'})
        for each in (native, wasm):
            await each.create()
            await each.start()
        assert pod.start(wasm) == pod.start(native), "one group, one shim"
        await wasm.call("Kill", signal=signal.SIGTERM)
        assert await wasm.wait() == 128 + signal.SIGTERM
        state = await native.call("State")
        assert state.status == 2
        with pytest.raises(NotFoundError):
            await wasm.call("Kill", signal=signal.SIGKILL)
        await native.call("Kill", signal=signal.SIGKILL)
        assert await native.wait() == 137

    play(scenario)


def test_stats_and_pids_of_a_running_container(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        pid = await container.create()
        await container.start()
        stats = (await container.call("Stats")).stats
        assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
        assert stats.value
        assert [process.pid for process in (await container.call("Pids")).processes] == [pid]

    play(scenario)


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(spec: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            spec = spec.setdefault(name, {})
        spec[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (_set("process.args", []), InvalidArgumentError, "process.args is empty"),
        (_set("process", None), InvalidArgumentError, "no `process`"),
        (_set("process.args", "text"), InvalidArgumentError, "process.args"),
        (_set("process.terminal", True), InvalidArgumentError, "process.terminal is true, but"),
        (_set("linux.seccomp", {"defaultAction": "ALLOW"}), InvalidArgumentError, "linux.seccomp.defaultAction"),
        (_set("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"}), InvalidArgumentError, "SCMP_ACT_NOTIFY"),
        (_set("root.path", "nowhere"), InvalidArgumentError, "nowhere"),
        (_set("process.args", ["/missing.wasm"]), InvalidArgumentError, "/missing.wasm: no such file or directory"),
        (
            _set("linux.cgroupsPath", "system.slice:cri-containerd:x"),
            FailedPreconditionError,
            "systemd is not this host's init",
        ),
        (_set("linux.cgroupsPath", "/"), InvalidArgumentError, "linux.cgroupsPath"),
        (_set("linux.resources.memory", {"limit": 1}), ShimError, "memory"),
        (_set("linux.sysctl", {"kernel.panic": "1"}), InvalidArgumentError, "kernel.panic"),
        (_set("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), InvalidArgumentError, "RLIMIT_X"),
        (_set("hostname", "x" * 65), InvalidArgumentError, "hostname"),
    ],
)
def test_a_bad_spec_is_refused_by_field_and_leaves_the_other_tasks_alone(
    play: Play, change: Callable[[dict[str, Any]], None], kind: type[ShimError], words: str
) -> None:
    async def scenario(pod: Pod) -> None:
        other = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        await other.create()
        bad = pod.container([WASM], {WASM: HELLO_WORLD.bytes}, change=change)
        with pytest.raises(kind) as caught:
            await bad.create()
        assert words in str(caught.value)
        with pytest.raises(NotFoundError):
            await bad.call("State")
        assert (await other.call("State")).status == 1

    play(scenario)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"print('hello')", r"not ELF, no #!, not \0asm"),
        (b"\0asm\x01\0\0\0\x01", "not valid WebAssembly"),
        (HELLO_WORLD.bytes[:40], "not valid WebAssembly"),
        (b"(module (func $x", "not valid WebAssembly"),
        (b"\x7fELF\x02\x01\x01\xc8" + bytes(100), "put the .wasm into the image"),
        (b"", r"not ELF, no #!, not \0asm"),
    ],
)
def test_a_file_that_is_no_program_is_refused_at_create(play: Play, content: bytes, words: str) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: content})
        with pytest.raises(InvalidArgumentError) as caught:
            await container.create()
        assert words in str(caught.value)
        assert os.listdir(container.bundle / "rootfs") != []

    play(scenario)


def test_a_link_out_of_the_root_stays_in_the_root(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        outside = tmp_path / "outside.wasm"
        outside.write_bytes(HELLO_WORLD.bytes)
        container = pod.container(["/link.wasm"])
        (container.rootfs / "link.wasm").symlink_to(outside)
        with pytest.raises(InvalidArgumentError, match="no such file"):
            await container.create()
        inside = pod.container(["/link.wasm"], {"/app/real.wasm": HELLO_WORLD.bytes})
        (inside.rootfs / "link.wasm").symlink_to("/../../app/real.wasm")
        assert await inside.run() == 0

    play(scenario)


def test_config_json_must_be_there_and_be_json(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        good = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        await good.create()
        broken = pod.container([WASM])
        (broken.bundle / "config.json").write_text("{")
        with pytest.raises(InvalidArgumentError, match=r"config.json"):
            await broken.create()
        (broken.bundle / "config.json").unlink()
        with pytest.raises(ShimError, match=r"config.json"):
            await broken.create()
        for text in (b"{", b"[]"):
            (broken.bundle / "config.json").write_bytes(text)
            done = pod.action("start", broken)
            assert done.returncode == 1
            assert b"config.json" in done.stderr

    play(scenario)


def test_rules_of_the_states(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        await container.create()
        with pytest.raises(AlreadyExistsError):
            await container.create()
        await container.start()
        with pytest.raises(FailedPreconditionError):
            await container.start()
        with pytest.raises(FailedPreconditionError):
            await container.delete()
        await pod.call("Shutdown", id=container.id)
        assert (await container.call("State")).status == 2, "a shim with a task stays"
        await container.call("Kill", signal=signal.SIGKILL)
        await container.wait()
        await container.delete()
        with pytest.raises(NotFoundError):
            await container.delete()

    play(scenario)


def test_a_created_task_can_be_killed_and_deleted_without_a_start(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        await container.create()
        await container.call("Kill", signal=signal.SIGKILL)
        assert await container.wait() == 137
        await container.delete()
        assert container.stdout == ""
        other = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        await other.create()
        await other.delete()

    play(scenario)


def test_a_client_that_leaves_in_the_middle_of_create_leaves_a_task_that_delete_finds(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        first = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        await first.run()
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        creating = asyncio.ensure_future(container.create())
        await asyncio.sleep(0.005)
        assert pod.client is not None
        await pod.client.close()
        with pytest.raises(ShimError):
            await creating
        await asyncio.sleep(0.5)
        done = pod.action("delete", container, "-bundle", str(container.bundle))
        assert done.returncode == 0
        pod.client = await Client.connect((first.bundle / "address").read_text())
        for _ in range(100):
            await asyncio.sleep(0.05)
            try:
                await container.call("State")
            except NotFoundError:
                return
        raise AssertionError("the shim still has the task that containerd has given up")

    play(scenario)


def test_delete_after_a_shim_was_killed_removes_every_trace(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        containers = [
            pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()}) for _ in range(3)
        ]
        pids = []
        for container in containers:
            mount = {"type": "bind", "source": str(container.rootfs), "options": ["rbind", "rw"]}
            pids.append(await container.create(rootfs=[mount]))
        await containers[0].start()
        os.kill(await pod.shim_pid(), signal.SIGKILL)
        await asyncio.sleep(0.1)
        for container, pid in zip(containers, pids, strict=True):
            done = pod.action("delete", container, "-bundle", str(container.bundle))
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(b"\x08"), "a DeleteResponse with a pid"
            again = pod.action("delete", container, "-bundle", str(container.bundle))
            assert again.returncode == 0
            assert not os.path.exists(f"/proc/{pid}") or "Z" in Path(f"/proc/{pid}/stat").read_text()
        pod.client = None

    play(scenario)


def test_delete_beside_a_living_shim_makes_it_forget_the_container(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        kept, given_up = (pod.container(SLEEP, _sleep_files()) for _ in range(2))
        for container in (kept, given_up):
            await container.create()
            await container.start()
        assert pod.action("delete", given_up, "-bundle", str(given_up.bundle)).returncode == 0
        for _ in range(100):
            await asyncio.sleep(0.05)
            try:
                await given_up.call("State")
            except NotFoundError:
                break
        else:
            raise AssertionError("the shim still has the task")
        assert (await kept.call("State")).status == 2

    play(scenario)


def test_delete_works_when_nothing_was_ever_made(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM])
        done = pod.action("delete", container, "-bundle", str(container.bundle))
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout

    play(scenario)


def test_a_shim_that_is_asked_to_end_by_a_signal_leaves_its_containers(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        pid = await container.create()
        await container.start()
        waiting = asyncio.ensure_future(container.wait())
        await asyncio.sleep(0.1)
        began = time.monotonic()
        os.kill(await pod.shim_pid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while pod.client is not None and not pod.client.closed and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < 3, "a Wait that is under way does not hold the shim up"
        with pytest.raises(ShimError):
            await waiting
        assert os.path.exists(f"/proc/{pid}")
        assert pod.action("delete", container, "-bundle", str(container.bundle)).returncode == 0
        pod.client = None

    play(scenario)


HOSTILE = {
    "/wasmtime.py": b"raise SystemExit(99)",
    "/encodings/__init__.py": b"raise SystemExit(99)",
    "/encodings/idna.py": b"raise SystemExit(99)",
    "/etc/nsswitch.conf": b"hosts: evil\npasswd: evil\n",
    "/lib/x86_64-linux-gnu/libnss_evil.so.2": b"\x7fELF",
    "/sitecustomize.py": b"raise SystemExit(99)",
    "/traceback.py": b"raise SystemExit(99)",
}


def test_an_image_full_of_our_module_names_changes_nothing(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        for program, status in ((HELLO_WORLD.bytes, 0), (UNREACHABLE.bytes, 137)):
            assert await pod.container([WASM], {WASM: program, **HOSTILE}).run() == status

    play(scenario)


def test_a_wasm_guest_sees_no_procfs_unless_asked(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: b'(module (func (export "_start") (loop (br 0))))'})
        pid = await container.create()
        await container.start()
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
        assert " - proc " not in mounts
        assert " - sysfs " in mounts
        await container.call("Kill", signal=signal.SIGINT)
        assert await container.wait() == 130

    play(scenario)


def _filtered(**change: object) -> Callable[[dict[str, Any]], None]:
    def change_spec(spec: dict[str, Any]) -> None:
        rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 36}]  # ENAMETOOLONG
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
        spec["process"].update(change)

    return change_spec


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_filter_is_on_the_program_whoever_it_runs_as(play: Play, no_new_privileges: bool, uid: int) -> None:
    async def scenario(pod: Pod) -> None:
        change = _filtered(noNewPrivileges=no_new_privileges, user={"uid": uid, "gid": uid})
        native = {f"/bin/{name}": Path(BUSYBOX).read_bytes() for name in ("mkdir", "grep")}
        for _ in range(2):
            refused = pod.container(["/bin/mkdir", "/dev/shm/x"], native, change=change)
            assert await refused.run() == 1
            assert "File name too long" in refused.stderr
        shown = pod.container(["/bin/grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status"], native, change=change)
        assert await shown.run() == 0
        assert shown.stdout.split() == ["NoNewPrivs:", str(int(no_new_privileges)), "Seccomp:", "2"]

    play(scenario)


# what a static program needs, and what the shim does between the filter and the program where new privileges may be had
_NEEDED = (
    *(
        "execve",
        "brk",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "getrandom",
        "mprotect",
    ),
    *("readlink", "readlinkat", "newfstatat", "fstat", "mmap", "munmap", "write", "exit_group", "getuid", "uname"),
)
_NEEDED_BEFORE = (
    *("read", "setgroups", "setresgid", "setresuid", "capget", "capset", "prctl", "chdir", "getcwd", "umask"),
    *("rt_sigaction", "close", "futex"),
)


@pytest.mark.parametrize(("no_new_privileges", "needed"), [(True, _NEEDED), (False, (*_NEEDED, *_NEEDED_BEFORE))])
def test_a_profile_need_not_allow_what_only_the_shim_does(
    play: Play, no_new_privileges: bool, needed: tuple[str, ...]
) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": list(needed), "action": "SCMP_ACT_ALLOW"}],
        }
        spec["process"]["noNewPrivileges"] = no_new_privileges

    async def scenario(pod: Pod) -> None:
        echo = {"/bin/echo": Path(BUSYBOX).read_bytes()}
        for _ in range(3):  # the third by a helper
            container = pod.container(["/bin/echo", "hello"], echo, change=change)
            assert await container.run() == 0, container.stderr
            assert container.stdout == "hello\n"

    play(scenario)


# as docs/task-api.md has them
_NEEDED_BY_GUESTS = (
    *(
        "openat",
        "fcntl",
        "getrandom",
        "clone3",
        "clone",
        "rseq",
        "mmap",
        "mprotect",
        "munmap",
        "madvise",
        "rt_sigaction",
    ),
    *(
        "rt_sigprocmask",
        "sigaltstack",
        "futex",
        "epoll_create1",
        "epoll_ctl",
        "epoll_wait",
        "eventfd2",
        "write",
        "close",
    ),
    "exit_group",
)


@pytest.mark.parametrize("program", [HELLO_WORLD.bytes, COMPONENT_HELLO_WORLD.bytes], ids=["module", "component"])
def test_a_guest_runs_under_a_profile_of_the_calls_that_any_guest_needs(play: Play, program: bytes) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": list(_NEEDED_BY_GUESTS), "action": "SCMP_ACT_ALLOW"}],
        }

    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: program}, change=change)
        assert await container.run() == 0, container.stderr
        assert "ello" in container.stdout

    play(scenario)


def test_a_profile_that_forbids_what_the_shim_needs_is_named(play: Play) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_KILL_PROCESS"}
        spec["process"]["noNewPrivileges"] = False

    async def scenario(pod: Pod) -> None:
        container = pod.container(["/bin/echo"], {"/bin/echo": Path(BUSYBOX).read_bytes()}, change=change)
        with pytest.raises(ShimError, match=r"status 159 .* linux\.seccomp forbids"):
            await container.create()

    play(scenario)


def test_a_filter_is_on_a_guest_too(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: SPINNER.bytes}, change=_filtered())
        pid = await container.create()
        await container.start()
        assert "\nSeccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
        await container.call("Kill", signal=signal.SIGKILL)
        assert await container.wait() == 137

    play(scenario)


def test_a_guest_has_no_descriptor_of_the_hosts(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        native = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        pid = await native.create()
        await native.start()
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0xA80425FB
        assert int(status["CapAmb"], 16) == 0
        assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0

    play(scenario)


def test_another_user_and_its_groups_reach_the_program_without_capabilities(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27}

        native = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()}, change=change)
        pid = await native.create()
        await native.start()
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
        assert (status["Uid"], status["Gid"], status["Groups"]) == (["1000"] * 4, ["1001"] * 4, ["7", "8"])
        assert status["Umask"] == ["0027"]
        assert int(status["CapEff"][0], 16) == int(status["CapPrm"][0], 16) == 0
        wasm = pod.container([WASM], {WASM: HELLO_WORLD.bytes}, change=change)
        for name in ("stdout", "stderr"):
            os.chmod(wasm.bundle / name, 0o666)
        assert await wasm.run() == 0

    play(scenario)


def test_a_hundred_guests_get_a_hundred_different_random_numbers(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        containers = [pod.container([WASM], {WASM: RANDOM.bytes}) for _ in range(100)]
        for first in range(0, 100, 5):
            await asyncio.gather(*(container.run() for container in containers[first : first + 5]))
        assert len({container.stdout for container in containers}) == 100
        assert {len(container.stdout) for container in containers} == {33}

    play(scenario)


def test_a_guest_gets_along_with_two_threads_however_many_cpus_there_are(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        limit = _set("linux.resources.pids", {"limit": 2})
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes}, change=limit)
        assert await container.run() == 0, container.stderr
        sleeper = pod.container([WASM], {WASM: SLEEPER.bytes}, change=limit)
        pid = await sleeper.create()
        await sleeper.start()
        while sleeper.stdout != "ready\n":
            await asyncio.sleep(0.02)
        assert len(os.listdir(f"/proc/{pid}/task")) == 2
        await sleeper.call("Kill", signal=signal.SIGTERM)
        assert await sleeper.wait() == 143

    play(scenario)


def test_components_run_and_tell_their_status(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        hello = pod.container([WASM], {WASM: COMPONENT_HELLO_WORLD.bytes})
        assert (await hello.run(), hello.stdout) == (0, "Hello, world!\n")
        assert await pod.container([WASM], {WASM: COMPONENT_EXIT.bytes}).run() == 1
        assert await pod.container([f"{WASM}#thunk"], {WASM: SIMPLE_COMPONENT.bytes}).run() == 0
        trap = pod.container([f"{WASM}#thunk-trap"], {WASM: SIMPLE_COMPONENT.bytes})
        assert await trap.run() == 137
        none = pod.container([WASM], {WASM: SIMPLE_COMPONENT.bytes})
        assert await none.run() == 137
        assert "does not export 'wasi:cli/run@0.2'; it exports: thunk, thunk-trap" in none.stderr

    play(scenario)


def test_a_guest_that_takes_too_much_memory_is_ended_alone(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        other = pod.container(["/bin/sleep", "1000"], {"/bin/sleep": Path(BUSYBOX).read_bytes()})
        await other.create()
        await other.start()
        limit = _set("linux.resources.memory", {"limit": 64 << 20})
        hog = pod.container([WASM], {WASM: MEMORY_HOG.bytes}, change=limit)
        assert await hog.run() == 137
        assert (await other.call("State")).status == 2

    play(scenario)


def test_a_flood_of_output_arrives_whole(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        fifo = tmp_path / "out"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        container = pod.container([WASM, "5000000"], {WASM: OUTPUT_FLOODER.bytes})
        await container.create(stdout=str(fifo))
        await container.start()
        ended = asyncio.ensure_future(container.wait())
        size = 0
        while not ended.done():
            size += len(_read_some(reader))
            await asyncio.sleep(0)
        while piece := _read_some(reader):
            size += len(piece)
        os.close(reader)
        assert (await ended, size) == (0, 5_000_000)
        await container.delete()

    play(scenario)


def _read_some(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def test_devices_of_a_container_are_there_for_wasm_too(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HAS_DEFAULT_DEVICES.bytes})
        assert await container.run() == 0, container.stderr

    play(scenario)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05])
def test_a_shim_killed_in_the_middle_of_create_leaves_what_delete_removes(play: Play, delay: float) -> None:
    async def scenario(pod: Pod) -> None:
        await pod.container([WASM], {WASM: HELLO_WORLD.bytes}).run()
        shim = await pod.shim_pid()
        container = pod.container([WASM], {WASM: ARGS_ENV_STDIN.bytes})
        mount = {"type": "bind", "source": str(container.rootfs), "options": ["rbind", "rw"]}
        creating = asyncio.ensure_future(container.create(rootfs=[mount]))
        await asyncio.sleep(delay)
        os.kill(shim, signal.SIGKILL)
        try:
            await creating
        except ShimError:
            pass
        done = pod.action("delete", container, "-bundle", str(container.bundle))
        assert done.returncode == 0, done.stderr
        pod.client = None

    play(scenario)


def test_starts_that_race_with_the_end_of_their_shim_all_get_a_living_one(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(8):
            last = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
            await last.run()
            comer = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
            starting = loop.run_in_executor(None, pod.start, comer)
            await asyncio.sleep(0.12)  # about when `start` looks for the shim
            await pod.call("Shutdown", id=last.id)
            address = await starting
            assert pod.client is not None
            await pod.client.close()
            pod.client = await Client.connect(address)
            assert await comer.run() == 0
            try:
                await pod.call("Shutdown", id=comer.id)
            except UnavailableError:
                pass  # it has heard the first one, and now that nobody is left it has gone already
            await pod.client.wait_closed()
            pod.client = None

    play(scenario)


def test_twenty_starts_at_once_make_one_shim(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        loop = asyncio.get_running_loop()
        containers = [pod.container([WASM], {WASM: HELLO_WORLD.bytes}) for _ in range(20)]
        addresses = await asyncio.gather(*(loop.run_in_executor(None, pod.start, each) for each in containers))
        assert len(set(addresses)) == 1
        pod.client = await Client.connect(addresses[0])
        assert await asyncio.gather(*(container.run() for container in containers)) == [0] * 20

    play(scenario)


SLEEP = ["/bin/sleep", "1000"]


def _sleep_files() -> dict[str, bytes]:
    return {"/bin/sleep": Path(BUSYBOX).read_bytes()}


def test_a_procfs_under_another_is_out_of_a_guests_reach_too(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["mounts"].append({"destination": "/proc", "type": "proc", "source": "proc", "options": []})

        container = pod.container([WASM], {WASM: SPINNER.bytes}, change=change)
        pid = await container.create()
        await container.start()
        assert " - proc " not in Path(f"/proc/{pid}/mountinfo").read_text()
        await container.call("Kill", signal=signal.SIGKILL)

    play(scenario)


def test_a_link_of_the_image_leads_no_mount_over_proc(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        for extra in ({"type": "tmpfs", "source": "tmpfs"}, {"type": "bind", "source": "/usr", "options": ["bind"]}):
            mounts = [*default_spec([])["mounts"], {"destination": "/elsewhere", **extra}]
            container = pod.container(SLEEP, _sleep_files(), change=_set("mounts", mounts))
            (container.rootfs / "elsewhere").symlink_to("/proc")
            with pytest.raises(ShimError, match="leads to /proc"):
                await container.create()

    play(scenario)


def test_a_procfs_is_not_mounted_through_a_link(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes, "/volume/p/x": b""})
        (container.rootfs / "proc").symlink_to("/volume/p")
        with pytest.raises(ShimError, match=r"FilesystemMount\(fstype='proc'.*symbolic links"):
            await container.create()

    play(scenario)


def test_the_default_devices_work_though_the_spec_denies_every_device(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        deny = _set("linux.resources.devices", [{"allow": False, "access": "rwm"}])
        shell = {"/bin/sh": Path(BUSYBOX).read_bytes()}
        script = "echo x > /dev/null && head -c 4 /dev/zero | wc -c && ! head -c 1 /dev/mem"
        command = ["/bin/sh", "-c", "mknod /m c 1 1; " + script.replace("/dev/mem", "/m")]
        container = pod.container(command, shell, change=deny)
        for name in ("head", "wc", "mknod"):
            (container.rootfs / "bin" / name).symlink_to("sh")
        assert await container.run() == 0, container.stderr
        assert container.stdout.split() == ["4"]
        assert "Operation not permitted" in container.stderr

    play(scenario)


def test_creates_that_fail_side_by_side_leave_nothing(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/where", "options": ["bind"]})

        async def fail() -> None:
            container = pod.container([WASM], {WASM: HELLO_WORLD.bytes}, change=change)
            with pytest.raises(InvalidArgumentError, match="/no/where"):
                await container.create()
            assert not (container.bundle / "shim-state.json").exists()

        await pod.container([WASM], {WASM: HELLO_WORLD.bytes}).run()
        for _ in range(5):
            await asyncio.gather(*(fail() for _ in range(20)))

    play(scenario)


def test_a_cgroup_with_strangers_in_it_is_refused_and_they_live_on(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        path = f"/{pod.namespace}/strangers"
        directory = Path(f"/sys/fs/cgroup/pids{path}")
        directory.mkdir(parents=True)
        stranger = await asyncio.create_subprocess_exec("/bin/sleep", "1000")
        try:
            (directory / "cgroup.procs").write_text(str(stranger.pid))
            container = pod.container(SLEEP, _sleep_files(), change=_set("linux.cgroupsPath", path))
            with pytest.raises(FailedPreconditionError, match=r"linux\.cgroupsPath"):
                await container.create()
            assert stranger.returncode is None
        finally:
            stranger.kill()
            await stranger.wait()
            directory.rmdir()
        shared = _set("linux.cgroupsPath", f"/{pod.namespace}/shared")
        first = pod.container(SLEEP, _sleep_files(), change=shared)
        second = pod.container(SLEEP, _sleep_files(), change=shared)
        await first.create()
        with pytest.raises(FailedPreconditionError, match="belongs to another container"):
            await second.create()
        inside = _set("linux.cgroupsPath", f"/{pod.namespace}/shared/inside")
        with pytest.raises(FailedPreconditionError, match="belongs to another container"):
            await pod.container(SLEEP, _sleep_files(), change=inside).create()
        assert (await first.call("State")).status == 1

    play(scenario)


def test_a_frozen_task_can_be_killed_and_removed(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        path = f"/{pod.namespace}/frozen"
        container = pod.container(SLEEP, _sleep_files(), change=_set("linux.cgroupsPath", path))
        await container.create()
        await container.start()
        cgroup_for(path).freeze()
        await container.call("Kill", signal=signal.SIGKILL)
        assert await container.wait() == 137
        await container.delete()

    play(scenario)


def test_runtime_options_are_heard_by_a_shim_that_serves_already(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        await pod.container([WASM], {WASM: HELLO_WORLD.bytes}).run()
        for body, procfs in ((b"procfs = true", True), (b"SystemdCgroup = false", False)):
            options = runtime_options_pb2.Options(config_body=body).SerializeToString()
            container = pod.container([WASM], {WASM: SPINNER.bytes})
            pid = await container.create(options=any_pb2.Any(type_url="runtimeoptions.v1.Options", value=options))
            await container.start()
            assert (" - proc " in Path(f"/proc/{pid}/mountinfo").read_text()) is procfs
            await container.call("Kill", signal=signal.SIGKILL)
            await container.wait()
        systemd = runtime_options_pb2.Options(config_body=b"SystemdCgroup = true").SerializeToString()
        container = pod.container([WASM], {WASM: SPINNER.bytes})
        with pytest.raises(FailedPreconditionError, match="systemd is not this host's init"):
            await container.create(options=any_pb2.Any(type_url="runtimeoptions.v1.Options", value=systemd))
        wrong = runtime_options_pb2.Options(config_body=b"procfs = 3").SerializeToString()
        container = pod.container([WASM], {WASM: SPINNER.bytes})
        with pytest.raises(InvalidArgumentError, match="the runtime option procfs is 3"):
            await container.create(options=any_pb2.Any(type_url="runtimeoptions.v1.Options", value=wrong))

    play(scenario)


def test_a_working_directory_of_roots_alone_is_entered_for_any_user(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["process"]["user"] = {"uid": 1000, "gid": 1000}
            spec["process"]["cwd"] = "/private"

        container = pod.container(SLEEP, _sleep_files(), change=change)
        (container.rootfs / "private").mkdir(mode=0o700)
        pid = await container.create()
        await container.start()
        assert os.readlink(f"/proc/{pid}/cwd") == "/private"

    play(scenario)


def test_the_hosts_settings_are_not_changed_through_a_namespace_path(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["namespaces"] = [
                {"type": "mount"},
                {"type": "network", "path": f"/proc/{os.getpid()}/ns/net"},
            ]
            spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}

        before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        with pytest.raises(ShimError, match="the network namespace that is joined is the host's own"):
            await pod.container(SLEEP, _sleep_files(), change=change).create()
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before

    play(scenario)


def test_a_container_without_a_pid_namespace_takes_its_children_along(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        only_mount = _set("linux.namespaces", [{"type": "mount"}])
        shell = {"/bin/sh": Path(BUSYBOX).read_bytes(), "/bin/sleep": Path(BUSYBOX).read_bytes()}
        script = "sleep 1000 & sleep 1000 & echo ready; wait"
        container = pod.container(["/bin/sh", "-c", script], shell, change=only_mount)
        await container.create()
        await container.start()
        while container.stdout != "ready\n":
            await asyncio.sleep(0.02)
        children = [process.pid for process in (await container.call("Pids")).processes]
        assert len(children) == 3
        await container.call("Kill", signal=signal.SIGKILL)
        assert await container.wait() == 137
        await container.delete()
        assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]

    play(scenario)


def test_a_shim_whose_socket_was_removed_ends_all_the_same(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        await container.run()
        address = (container.bundle / "address").read_text().removeprefix("unix://")
        os.unlink(address)
        os.unlink(f"{address}.lock")
        await pod.call("Shutdown", id=container.id)
        assert pod.client is not None
        await asyncio.wait_for(pod.client.wait_closed(), 5)
        pod.client = None

    play(scenario)


def test_a_compiler_does_not_outlive_a_killed_shim(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        await pod.container([WASM], {WASM: HELLO_WORLD.bytes}).run()
        body = "(local $x i64)" + "(local.set $x (i64.mul (local.get $x) (i64.const 7)))" * 400
        text = "(module " + "".join(f"(func {body})" for _ in range(3000)) + '(func (export "_start")))'
        container = pod.container([WASM], {WASM: text.encode()})
        await asyncio.get_running_loop().run_in_executor(None, pod.start, container)
        creating = asyncio.ensure_future(container.create())
        await asyncio.sleep(0.4)
        assert not creating.done(), "the program is too quick to compile for this test"
        os.kill(await pod.shim_pid(), signal.SIGKILL)
        with pytest.raises(ShimError):
            await creating
        assert pod.action("delete", container, "-bundle", str(container.bundle)).returncode == 0
        pod.client = None

    play(scenario)


def _process(*args: str, **fields: object) -> any_pb2.Any:
    document = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": True, **fields}
    url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
    return any_pb2.Any(type_url=url, value=json.dumps(document).encode())


@pytest.mark.parametrize("program", ["wasm", "native"])
def test_native_programs_are_executed_in_containers_of_both_kinds(play: Play, program: str) -> None:
    async def scenario(pod: Pod) -> None:
        files = {f"/bin/{name}": Path(BUSYBOX).read_bytes() for name in ("sh", "sleep", "cat")} | {WASM: SLEEPER.bytes}
        container = pod.container([WASM] if program == "wasm" else ["/bin/sleep", "1000"], files)
        pid = await container.create()
        await container.start()
        said = container.bundle / "said"
        said.touch()
        spec = _process("sh", "-c", "echo out; exit 5")
        await container.call("Exec", exec_id="e1", spec=spec, stdout=str(said), stderr=str(said))
        assert (await container.call("State", exec_id="e1")).status == 1
        exec_pid = (await container.call("Start", exec_id="e1")).pid
        assert exec_pid not in (0, pid)
        assert (await container.call("Wait", exec_id="e1")).exit_status == 5
        assert said.read_text() == "out\n"
        assert (await container.call("Delete", exec_id="e1")).exit_status == 5
        spec = _process("sh", "-c", "trap 'exit 7' TERM; echo ready >&2; while :; do sleep 0.02; done")
        await container.call("Exec", exec_id="trap", spec=spec, stderr=str(said))
        await container.call("Start", exec_id="trap")
        while "ready" not in said.read_text():
            await asyncio.sleep(0.01)
        await container.call("Kill", exec_id="trap", signal=signal.SIGTERM)
        assert (await container.call("Wait", exec_id="trap")).exit_status == 7, (
            "it has signals, even beside a wasm guest"
        )
        await container.call("Delete", exec_id="trap")
        await container.call("Exec", exec_id="e2", spec=_process("sleep", "1000"))
        await container.call("Start", exec_id="e2")
        processes = {each.pid: each.info.value for each in (await container.call("Pids")).processes}
        assert len(processes) == 2
        assert processes[pid] == b""
        await container.call("Kill", signal=signal.SIGKILL)
        assert await container.wait() == 137
        assert (await container.call("Wait", exec_id="e2")).exit_status == 137
        with pytest.raises(FailedPreconditionError):
            await container.call("Exec", exec_id="e3", spec=_process("sleep", "1000"))
        await container.delete()
        await asyncio.sleep(0.1)
        assert [topic.rpartition("/")[2] for topic, _ in pod.events] == [
            *("create", "start"),
            *("exec-added", "exec-started", "exit") * 3,
            *("exit", "delete"),
        ]

    play(scenario)


def test_a_terminal_is_asked_for_by_the_request_and_serves_a_shell(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        files = {f"/bin/{name}": Path(BUSYBOX).read_bytes() for name in ("sh", "stty", "sleep")}
        container = pod.container(["/bin/sh"], files)
        typed, said = str(tmp_path / "in"), str(tmp_path / "out")
        for path in (typed, said):
            os.mkfifo(path)
        reader = os.open(said, os.O_RDONLY | os.O_NONBLOCK)
        await container.create(terminal=True, stdin=typed, stdout=said, stderr="")
        assert (await container.call("State")).terminal
        await container.start()
        await container.call("ResizePty", width=111, height=22)
        writer = os.open(typed, os.O_WRONLY)
        os.write(writer, b"stty size; exit 9\n")
        assert await container.wait() == 9
        heard = os.read(reader, 65536)
        assert b"\r\n22 111\r\n" in heard
        assert os.read(reader, 100) == b"", "the end of the output"
        for each in (reader, writer):
            os.close(each)
        await container.delete()

    play(scenario)


def test_a_full_disk_fails_the_create_and_says_where(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        await pod.container([WASM], {WASM: HELLO_WORLD.bytes}).run()
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(container.bundle)], check=True)
        try:
            (container.bundle / "config.json").write_text(json.dumps(default_spec([WASM])))
            with pytest.raises(OSError, match="No space"):
                (container.bundle / "filler").write_bytes(bytes(100_000))
            with pytest.raises(ResourceExhaustedError, match=r"state cannot be written: .*shim-state"):
                await container.create(stdout="", stderr="")
        finally:
            subprocess.run(["umount", str(container.bundle)], check=True)

    play(scenario)


def test_a_fork_bomb_is_held_by_its_limit_and_ended_whole(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        files = {"/bin/sh": Path(BUSYBOX).read_bytes(), "/bin/sleep": Path(BUSYBOX).read_bytes()}
        limit = _set("linux.resources.pids", {"limit": 20})
        container = pod.container(["/bin/sh", "-c", "b() { b | b & }; b & exec sleep 1000"], files, change=limit)
        await container.create()
        await container.start()
        await asyncio.sleep(0.5)
        assert len((await container.call("Pids")).processes) <= 20
        await container.call("Kill", signal=signal.SIGKILL, all=True)
        assert await container.wait() == 137

    play(scenario)


def test_streams_that_cannot_be_opened_are_named(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        with pytest.raises(NotFoundError, match="stdout '/no/where'"):
            await container.create(stdout="/no/where")
        with pytest.raises(InvalidArgumentError, match="stderr"):
            await container.create(stderr=str(tmp_path))
        with pytest.raises(InvalidArgumentError, match="the logging program /no/where cannot be executed: No such"):
            await container.create(stdout="binary:///no/where", stderr="binary:///no/where")

    play(scenario)


def test_a_fifo_without_a_reader_keeps_the_output_for_whoever_comes(play: Play, tmp_path: Path) -> None:
    async def scenario(pod: Pod) -> None:
        fifo = tmp_path / "out"
        os.mkfifo(fifo)
        container = pod.container([WASM], {WASM: HELLO_WORLD.bytes})
        await container.create(stdout=str(fifo))
        await container.start()
        assert await container.wait() == 0
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        assert os.read(reader, 100) == b"hello world\n"
        assert os.read(reader, 100) == b"", "the end of the output follows the end of the process"
        os.close(reader)
        await container.delete()

    play(scenario)


def test_a_hundred_runs_in_one_shim_leave_nothing_in_it(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        async def run_four() -> None:
            four = [pod.container([WASM], {WASM: HELLO_WORLD.bytes}) for _ in range(4)]
            assert await asyncio.gather(*(container.run() for container in four)) == [0, 0, 0, 0]

        await run_four()  # from then on the helpers of a shim with many containers are there
        shim = await pod.shim_pid()
        before = len(os.listdir(f"/proc/{shim}/fd"))
        for _ in range(24):
            await run_four()
        assert len(os.listdir(f"/proc/{shim}/fd")) == before

    play(scenario)


def test_what_the_program_prints_of_itself(shim_directory: str) -> None:
    shim = os.path.join(shim_directory, "containerd-shim-wasmtime-v1")
    shown = subprocess.run([shim, "-v"], capture_output=True, text=True, check=True).stdout
    assert "io.containerd.wasmtime.v1" in shown
    assert "Engine: wasmtime" in shown
    info = subprocess.run([shim, "-info"], capture_output=True, check=True, input=b"").stdout
    assert b"io.containerd.wasmtime.v1" in info
    assert json.loads(info[info.index(b'{"ociVersionMin"') :])["linux"]["cgroup"]["v1"] is True
    for wrong in (
        ["-x", "start"],
        ["-namespace", "a/b", "-id", "c", "start"],
        ["-namespace", "n", "-id", "../c", "start"],
    ):
        done = subprocess.run([shim, *wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
