"""The whole path: containerd, our shim, a container, a WebAssembly program; with containerd 1.6 and 2.x."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from containerd_shim_wasm_test_modules import COMPONENT_HELLO_WORLD, CUSTOM_ENTRYPOINT, HELLO_WORLD, UNREACHABLE
from harness.containerd import Containerd, CtrFailedError
from harness.images import BUSYBOX, BUSYBOX_COMMANDS, NativeImage
from wasi_demo_app.image import DEFAULT_NAME, WASM_PATH, write_image

RUNTIME = ("--runtime", "io.containerd.wasmtime.v1")
IMAGE = "docker.io/library/wasm:test"
GROUP = "io.containerd.runc.v2.group"


@pytest.fixture(scope="module")
def ctd(containerd: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Containerd:
    """The module's containerd, with the demo's image, and one of several programs and busybox."""
    tar = tmp_path_factory.mktemp("images") / "wasm.tar"
    programs = {
        "hello.wasm": HELLO_WORLD.bytes,
        "component.wasm": COMPONENT_HELLO_WORLD.bytes,
        "custom.wasm": CUSTOM_ENTRYPOINT.bytes,
        "trap.wasm": UNREACHABLE.bytes,
        "spin.wat": b'(module (func (export "_start") (loop (br 0))))',
        "not-a-program": b"print('hello')",
        "wasi-demo-app.wasm": Path(WASM_PATH).read_bytes(),
        "bin/busybox": Path(BUSYBOX).read_bytes(),
    }
    links = {f"bin/{name}": "busybox" for name in BUSYBOX_COMMANDS}
    NativeImage(IMAGE, programs, links, ["/hello.wasm"]).write(tar)
    containerd.import_image(tar)
    demo = tmp_path_factory.mktemp("images") / "demo.tar"
    write_image(demo)
    containerd.import_image(demo, "--all-platforms")
    return containerd


@pytest.fixture(autouse=True)
def nothing_left(leftovers: None) -> None:
    """Every test here leaves the machine as it was."""
    return


def run(
    ctd: Containerd, name: str, *args: str, options: tuple[str, ...] = (), image: str = IMAGE
) -> tuple[int, str, str]:
    done = ctd.ctr("run", "--rm", *RUNTIME, *options, image, name, *args, check=False)
    return done.returncode, done.stdout, done.stderr


def start(ctd: Containerd, name: str, *args: str, options: tuple[str, ...] = ()) -> int:
    ctd.ctr("run", "--detach", *RUNTIME, *options, IMAGE, name, *args)
    return ctd.tasks()[name].pid


def remove(ctd: Containerd, name: str) -> None:
    ctd.ctr("tasks", "kill", "--signal", "SIGKILL", name, check=False)
    ctd.ctr("tasks", "delete", "--force", name)
    ctd.ctr("containers", "delete", name)


@pytest.mark.parametrize(
    ("args", "status", "stdout"),
    [
        (("/wasi-demo-app.wasm", "echo", "hello"), 0, "hello\n"),
        (("/wasi-demo-app.wasm", "exit", "42"), 42, ""),
    ],
)
def test_the_demo_image_runs(ctd: Containerd, args: tuple[str, ...], status: int, stdout: str) -> None:
    # its platform is wasip1/wasm, which no host's default is
    options = ("--platform", "wasip1/wasm")
    ran = run(ctd, "demo", *args, options=options, image=DEFAULT_NAME)
    assert ran[:2] == (status, stdout), ran


@pytest.mark.parametrize(
    ("args", "status", "stdout", "stderr"),
    [
        (("/hello.wasm",), 0, "hello world\n", ""),
        (("hello.wasm",), 0, "hello world\n", ""),
        (("/component.wasm",), 0, "Hello, world!\n", ""),
        (("/custom.wasm#foo",), 0, "hello world\n", ""),
        (("/wasi-demo-app.wasm", "exit", "42"), 42, "", ""),
        (("/trap.wasm",), 137, "", "unreachable"),
        (("/bin/echo", "native"), 0, "native\n", ""),
        (("sh", "-c", "exit 3"), 3, "", ""),
    ],
)
def test_programs_of_every_kind(ctd: Containerd, args: tuple[str, ...], status: int, stdout: str, stderr: str) -> None:
    ran = run(ctd, "program", *args)
    assert ran[:2] == (status, stdout), ran
    assert stderr in ran[2]


def test_what_is_no_program_is_refused_with_its_reasons(ctd: Containerd) -> None:
    status, _, stderr = run(ctd, "nothing", "/not-a-program")
    assert status == 1
    assert r"/not-a-program: not ELF, no #!, not \0asm" in stderr


def test_wasm_on_a_volume_is_found(ctd: Containerd, tmp_path: Path) -> None:
    (tmp_path / "app.wasm").write_bytes(HELLO_WORLD.bytes)
    volume = ("--mount", f"type=bind,src={tmp_path},dst=/volume,options=rbind:ro")
    assert run(ctd, "volume", "/volume/app.wasm", options=volume)[:2] == (0, "hello world\n")


def test_a_guest_writes_into_a_volume_but_not_into_a_read_only_one(ctd: Containerd, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for mode, status in (("rw", 0), ("ro", 1)):
        volume = ("--mount", f"type=bind,src={tmp_path},dst=/volume,options=rbind:{mode}")
        ran = run(ctd, "writer", "/wasi-demo-app.wasm", "write", f"/volume/{mode}", "some", "words", options=volume)
        assert ran[0] == status, ran
    assert [path.name for path in tmp_path.iterdir()] == ["rw"]
    assert (tmp_path / "rw").read_text() == "some words"


@pytest.mark.parametrize(
    "options",
    [
        ("--read-only",),
        ("--net-host",),
        ("--memory-limit", "67108864"),
        ("--cap-drop", "CAP_CHOWN"),
        ("--cwd", "/made/by/the/shim"),
        ("--env", "A=B"),
        ("--allow-new-privs",),
        ("--null-io",),
    ],
    ids=lambda options: options[0],
)
def test_options_of_ctr_work_for_wasm_and_native_alike(ctd: Containerd, options: tuple[str, ...]) -> None:
    for program in (("/hello.wasm",), ("/bin/true",)):
        ran = run(ctd, "options", *program, options=options)
        assert ran[0] == 0, ran


@pytest.mark.parametrize("options", [("--seccomp",), ("--seccomp", "--allow-new-privs")])
def test_the_profile_of_ctr_holds_and_lets_ordinary_programs_run(ctd: Containerd, options: tuple[str, ...]) -> None:
    assert run(ctd, "wasm", "/hello.wasm", options=options)[:2] == (0, "hello world\n")
    status, stdout, stderr = run(ctd, "native", "/bin/grep", "Seccomp:", "/proc/self/status", options=options)
    assert (status, stdout.split()) == (0, ["Seccomp:", "2"]), stderr
    status, _, stderr = run(ctd, "refused", "/bin/unshare", "-U", "/bin/true", options=options)
    assert status != 0
    assert "Operation not permitted" in stderr


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", 137)])
def test_a_detached_guest_is_listed_measured_killed_and_removed(ctd: Containerd, number: str, status: int) -> None:
    pid = start(ctd, "spinner", "/spin.wat")
    assert ctd.tasks()["spinner"].status == "RUNNING"
    metrics = ctd.ctr("tasks", "metrics", "spinner").stdout
    assert "memory.usage_in_bytes" in metrics or "memory" in metrics
    assert str(pid) in ctd.ctr("tasks", "ps", "spinner").stdout
    ctd.ctr("tasks", "kill", "--signal", number, "spinner")
    deadline = time.monotonic() + 10
    while ctd.tasks()["spinner"].status != "STOPPED":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = ctd.ctr("tasks", "delete", "spinner", check=False)
    assert done.returncode in (0, status)
    ctd.ctr("containers", "delete", "spinner")


@pytest.mark.parametrize("end_by", [signal.SIGTERM, signal.SIGKILL])
def test_tasks_outlive_a_restart_of_containerd(ctd: Containerd, end_by: signal.Signals) -> None:
    wasm, native = start(ctd, "wasm", "/spin.wat"), start(ctd, "native", "/bin/sleep", "1000")
    ctd.restart(end_by)
    tasks = ctd.tasks()
    assert {name: (task.pid, task.status) for name, task in tasks.items()} == {
        "wasm": (wasm, "RUNNING"),
        "native": (native, "RUNNING"),
    }
    for name in ("wasm", "native"):
        remove(ctd, name)
    assert ctd.tasks() == {}


def test_containers_of_a_group_share_a_shim_and_end_one_by_one(ctd: Containerd) -> None:
    group = ("--annotation", f"{GROUP}=pod")
    start(ctd, "first", "/bin/sleep", "1000", options=group)
    start(ctd, "second", "/spin.wat", options=group)
    addresses = {Path(ctd.bundle(name), "address").read_text() for name in ("first", "second")}
    assert len(addresses) == 1
    remove(ctd, "first")
    assert ctd.tasks()["second"].status == "RUNNING"
    start(ctd, "third", "/bin/sleep", "1000", options=group)
    remove(ctd, "second")
    assert ctd.tasks()["third"].status == "RUNNING"
    remove(ctd, "third")


def test_a_killed_shim_with_three_containers_leaves_nothing(ctd: Containerd) -> None:
    group = ("--annotation", f"{GROUP}=doomed")
    names = ("one", "two", "three")
    pids = [start(ctd, name, "/bin/sleep" if name == "two" else "/spin.wat", "1000", options=group) for name in names]
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids}
    assert len(parents) == 1, "one shim is the parent of all three"
    os.kill(parents.pop(), signal.SIGKILL)
    deadline = time.monotonic() + 15
    while any(task.status == "RUNNING" for task in ctd.tasks().values()):
        assert time.monotonic() < deadline, ctd.tasks()
        time.sleep(0.1)
    for name in names:
        ctd.ctr("tasks", "delete", "--force", name, check=False)
        ctd.ctr("containers", "delete", name)


@pytest.mark.timeout(300)
def test_two_hundred_runs_leave_nothing(ctd: Containerd) -> None:
    def once(number: int) -> tuple[int, str, str]:
        return run(ctd, f"run{number}", "/hello.wasm")

    if ctd.install.major > 1:
        pytest.skip("once is enough: what is counted does not depend on containerd's version")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(once, range(200)))
    assert [result for result in results if result[:2] != (0, "hello world\n")] == []


def test_a_missing_program_does_not_hurt_the_groups_other_tasks(ctd: Containerd) -> None:
    group = ("--annotation", f"{GROUP}=mixed")
    start(ctd, "good", "/bin/sleep", "1000", options=group)
    with pytest.raises(CtrFailedError, match=r"/missing\.wasm: no such file or directory"):
        ctd.ctr("run", "--rm", *RUNTIME, *group, IMAGE, "bad", "/missing.wasm")
    assert ctd.tasks()["good"].status == "RUNNING"
    remove(ctd, "good")


def on_terminal(ctd: Containerd, words: list[str], typed: bytes = b"") -> tuple[int, bytes]:
    """Run ctr on a terminal; its exit status, and what came out of the terminal."""
    master, slave = pty.openpty()
    command = [f"{ctd.install.directory}/ctr", "--address", ctd.address, "--namespace", ctd.namespace, *words]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=ctd.environment, start_new_session=True
    ) as running:
        os.close(slave)
        said = b""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(master, 65536)
            except OSError:  # ctr, which alone had it open, has ended
                break
            said += data
            if typed and b"ready" in said:
                os.write(master, typed)
                typed = b""
        os.close(master)
        return running.wait(10), said


def test_a_program_is_executed_in_a_running_container(ctd: Containerd) -> None:
    for program in (("/spin.wat",), ("/bin/sleep", "1000")):
        start(ctd, "running", *program)
        try:
            done = ctd.ctr("tasks", "exec", "--exec-id", "e1", "running", "sh", "-c", "echo said; exit 4", check=False)
            assert (done.returncode, done.stdout) == (4, "said\n")
            done = ctd.ctr("tasks", "exec", "--exec-id", "e2", "running", "/none", check=False)
            assert done.returncode == 1
            assert "/none: no such file or directory" in done.stderr
            ctd.ctr("tasks", "exec", "--detach", "--exec-id", "e3", "running", "sleep", "1000")
            assert len(ctd.ctr("tasks", "ps", "running").stdout.splitlines()) == 3
        finally:
            remove(ctd, "running")


def test_terminals_under_ctr(ctd: Containerd) -> None:
    script = "tty; echo ready; read line; echo got $line; exit 6"
    words = ["run", "--rm", "--tty", *RUNTIME, IMAGE, "terminal", "sh", "-c", script]
    status, said = on_terminal(ctd, words, b"typed\n")
    assert status == 6, said
    assert b"got typed" in said
    start(ctd, "running", "/bin/sleep", "1000")
    try:
        words = ["tasks", "exec", "--tty", "--exec-id", "e1", "running", "sh", "-c", script]
        status, said = on_terminal(ctd, words, b"typed\n")
        assert status == 6, said
        assert b"got typed" in said
    finally:
        remove(ctd, "running")
