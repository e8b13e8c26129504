"""What ctr can ask of a task that runs, what containerd is told of it, and where its output goes: wasm and native."""

from __future__ import annotations

import hashlib
import os
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD, MEMORY_HOG
from harness.containerd import Containerd, CtrFailedError
from harness.images import BUSYBOX, BUSYBOX_COMMANDS, NativeImage

RUNTIME = ("--runtime", "io.containerd.wasmtime.v1")
IMAGE = "docker.io/library/tasks:test"
LIMIT = ("--memory-limit", str(64 << 20))
SPIN = ("/spin.wat",)
COUNT = ("/bin/sh", "-c", "while :; do :; done")
HOGS = {"wasm": ("/hog.wasm",), "native": ("/bin/sh", "-c", "x=0123456789; while :; do x=$x$x; done")}
BOTH = pytest.mark.parametrize("args", [SPIN, COUNT], ids=["wasm", "native"])
LAST = 12_700_000  # of a sequence of some 100 MB
CONTAINERS = 50


@pytest.fixture(scope="module")
def ctd(containerd: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Containerd:
    """The module's containerd, with an image of several programs."""
    tar = tmp_path_factory.mktemp("images") / "tasks.tar"
    programs = {
        "hello.wasm": HELLO_WORLD.bytes,
        "hog.wasm": MEMORY_HOG.bytes,
        "spin.wat": b'(module (func (export "_start") (loop (br 0))))',
        "bin/busybox": Path(BUSYBOX).read_bytes(),
    }
    links = {f"bin/{name}": "busybox" for name in {*BUSYBOX_COMMANDS, "seq", "sleep", "sh"}}
    NativeImage(IMAGE, programs, links, ["/hello.wasm"]).write(tar)
    containerd.import_image(tar)
    return containerd


@pytest.fixture(autouse=True)
def nothing_left(leftovers: None) -> None:
    """Every test here leaves the machine as it was."""
    return


def start(ctd: Containerd, name: str, *args: str, options: tuple[str, ...] = ()) -> int:
    ctd.ctr("run", "--detach", *RUNTIME, *options, IMAGE, name, *args)
    return ctd.tasks()[name].pid


def remove(ctd: Containerd, name: str) -> None:
    ctd.ctr("tasks", "kill", "--signal", "SIGKILL", name, check=False)
    ctd.ctr("tasks", "delete", "--force", name)
    ctd.ctr("containers", "delete", name)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it does not come"
        time.sleep(0.02)


def cpu_time(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def counts(pid: int) -> bool:
    before = cpu_time(pid)
    time.sleep(0.2)
    return cpu_time(pid) > before


@contextmanager
def events(ctd: Containerd) -> Iterator[Callable[[], list[str]]]:
    """What `ctr events` says meanwhile: the topics, in their order."""
    process = subprocess.Popen(
        ctd.ctr_command("events"), env=ctd.ctr_environment(), stdout=subprocess.PIPE, text=True, bufsize=1
    )
    said: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        said.extend(process.stdout)

    def topics() -> list[str]:
        return re.findall(r" /tasks/([a-z-]+) ", "".join(said))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    time.sleep(0.5)  # nothing tells when it listens
    try:
        yield topics
    finally:
        process.terminate()
        process.wait(10)
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


@BOTH
def test_ctr_pauses_and_resumes_and_measures_meanwhile(ctd: Containerd, args: tuple[str, ...]) -> None:
    with events(ctd) as topics:
        pid = start(ctd, "paused", *args)
        assert counts(pid)
        ctd.ctr("tasks", "pause", "paused")
        assert ctd.tasks()["paused"].status == "PAUSED"
        assert not counts(pid)
        assert "memory" in ctd.ctr("tasks", "metrics", "paused").stdout
        with pytest.raises(CtrFailedError, match="paused"):
            ctd.ctr("tasks", "exec", "--exec-id", "e1", "paused", "/bin/true")
        ctd.ctr("tasks", "resume", "paused")
        assert ctd.tasks()["paused"].status == "RUNNING"
        assert counts(pid)
        ctd.ctr("tasks", "pause", "paused")
        remove(ctd, "paused")
        until(lambda: "delete" in topics())
        assert topics() == ["create", "start", "paused", "resumed", "paused", "exit", "delete"]


@BOTH
def test_a_paused_task_outlives_a_restart_of_containerd(ctd: Containerd, args: tuple[str, ...]) -> None:
    pid = start(ctd, "kept", *args)
    ctd.ctr("tasks", "pause", "kept")
    ctd.restart()
    assert ctd.tasks()["kept"].status == "PAUSED"
    assert not counts(pid)
    ctd.ctr("tasks", "resume", "kept")
    assert counts(pid)
    remove(ctd, "kept")


@pytest.mark.parametrize("program", HOGS)
def test_containerd_hears_of_a_kill_for_memory_before_the_exit(ctd: Containerd, program: str) -> None:
    with events(ctd) as topics:
        ran = ctd.ctr("run", "--rm", *RUNTIME, *LIMIT, IMAGE, "hog", *HOGS[program], check=False)
        assert ran.returncode == 137, ran
        until(lambda: "delete" in topics())
        assert topics() == ["create", "start", "oom", "exit", "delete"]


@pytest.mark.parametrize("args", [("/hello.wasm",), ("/bin/echo", "hello world")], ids=["wasm", "native"])
def test_output_goes_to_the_logging_program_of_a_uri(ctd: Containerd, tmp_path: Path, args: tuple[str, ...]) -> None:
    logger = tmp_path / "logger"
    logger.write_text('#!/bin/sh\necho "$CONTAINER_NAMESPACE/$CONTAINER_ID $1=$2" >$2\nexec 5>&-\ncat <&3 >>$2\n')
    logger.chmod(0o755)
    log = tmp_path / "log"
    start(ctd, "logged", *args, options=("--log-uri", f"binary://{logger}?file={log}"))
    until(lambda: ctd.tasks()["logged"].status == "STOPPED")
    remove(ctd, "logged")
    assert log.read_text() == f"{ctd.namespace}/logged file={log}\nhello world\n"


def test_a_logging_program_that_fails_fails_the_run_and_nothing_is_left(ctd: Containerd, tmp_path: Path) -> None:
    logger = tmp_path / "logger"
    logger.write_text("#!/bin/sh\nexit 3\n")
    logger.chmod(0o755)
    with pytest.raises(CtrFailedError, match="ended with status 3 before it was ready"):
        ctd.ctr("run", "--detach", *RUNTIME, "--log-uri", f"binary://{logger}", IMAGE, "logged", "/hello.wasm")
    ctd.ctr("containers", "delete", "logged")


# --------------------------------------------------------------------------------------- output over a restart


class Output:
    """Reads a container's stdout FIFO as a client does, who may go away and come back; counts and hashes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.taken = 0
        self.digest = hashlib.sha256()
        self._descriptor = -1

    def attach(self) -> int:
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        return self._descriptor

    def detach(self) -> None:
        os.close(self._descriptor)

    def read(self) -> bool:
        """Take what there is; False at the end, which nothing tells when the writer went before this reader came."""
        try:
            while data := os.read(self._descriptor, 1 << 16):
                self.digest.update(data)
                self.taken += len(data)
        except BlockingIOError:
            return True
        return False


def take(outputs: list[Output], enough: Callable[[Output], bool] = lambda _: False) -> None:
    """Read all of *outputs* until each has ended, or has *enough*; then go away."""
    with selectors.DefaultSelector() as selector:
        for each in outputs:
            selector.register(each.attach(), selectors.EVENT_READ, each)
        give_up = time.monotonic() + 50
        while selector.get_map():
            assert time.monotonic() < give_up, [each.taken for each in outputs]
            for key, _ in selector.select(1):
                output: Output = key.data
                if not output.read() or enough(output):
                    selector.unregister(key.fd)
                    output.detach()


def sequence(last: int) -> tuple[int, bytes]:
    """How long the output of `seq 1 LAST` is, and its digest."""
    digest, length = hashlib.sha256(), 0
    for first in range(1, last + 1, 100_000):
        part = "".join(f"{i}\n" for i in range(first, min(first + 100_000, last + 1))).encode()
        digest.update(part)
        length += len(part)
    return length, digest.digest()


def counting(ctd: Containerd, directory: Path, name: str, last: int) -> Output:
    """A container that counts to *last* once `go` is in the directory, and its output, of which nobody has a byte."""
    volume = f"type=bind,src={directory},dst=/go,options=rbind:ro"
    wait = f"while [ ! -e /go/go ]; do sleep 0.05; done; exec seq 1 {last}"
    fifos = directory / "fifos"
    fifos.mkdir(exist_ok=True)
    options = ("--mount", volume, "--fifo-dir", str(fifos))
    ctd.ctr("run", "--detach", *RUNTIME, *options, IMAGE, name, "/bin/sh", "-c", wait, timeout=60)
    (path,) = fifos.glob(f"*/{name}-stdout")
    return Output(str(path))


def test_no_byte_of_100_megabytes_is_lost_over_a_restart_of_containerd(ctd: Containerd, tmp_path: Path) -> None:
    output = counting(ctd, tmp_path, "much", LAST)
    length, digest = sequence(LAST)
    assert length > 100_000_000
    (tmp_path / "go").touch()
    take([output], lambda each: each.taken > length // 3)
    ctd.stop()
    time.sleep(0.5)
    take([output], lambda each: each.taken > length // 2)
    ctd.start()
    take([output])
    assert (output.taken, output.digest.digest()) == (length, digest)
    until(lambda: ctd.tasks()["much"].status == "STOPPED")
    remove(ctd, "much")


def test_no_line_of_many_containers_is_lost_over_a_restart_of_containerd(ctd: Containerd, tmp_path: Path) -> None:
    names = [f"many{number}" for number in range(CONTAINERS)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda name: counting(ctd, tmp_path, name, 30_000), names))
    length, digest = sequence(30_000)
    (tmp_path / "go").touch()
    take(outputs, lambda each: each.taken > length // 3)
    ctd.stop()
    time.sleep(0.5)
    ctd.start()
    take(outputs)
    assert {(each.taken, each.digest.digest()) for each in outputs} == {(length, digest)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: remove(ctd, name), names))
