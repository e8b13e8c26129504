"""The launcher as containerd meets it, against scripted zygotes: well-behaved, hanging, dying, talking nonsense."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.launcher.block import MARKER, fill_command
from containerd_shimkit.zygote.messages import Reply, encode_reply

ACCEPTED, COMMITTED = b"A", b"C"
DONE = encode_reply(Reply(0, b"unix:///s/1"))
SLOW = (3, b"slow")
Make = Callable[..., Any]


def ends_of(running: Sequence[subprocess.Popen[bytes]]) -> list[tuple[int, bytes]]:
    """The exit statuses and outputs of all."""
    outputs = [each.communicate(timeout=50)[0] for each in running]
    return [(each.returncode, output) for each, output in zip(running, outputs, strict=True)]


def outcome(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes]:
    assert done.stderr == b"", done.stderr
    return done.returncode, done.stdout


def header(magic: bytes, *numbers: int) -> bytes:
    return struct.pack("<4s3I", magic, *numbers)


# What a zygote does, and what the launcher makes of it.


@pytest.mark.parametrize("committed", [b"", COMMITTED])
def test_the_reply_becomes_output_and_exit_status(launcher: Any, zygote: Make, committed: bytes) -> None:
    with zygote(ACCEPTED + committed + encode_reply(Reply(42, b"to stdout", b"to stderr"))):
        done = launcher.run("-id", "1", "start")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"to stdout", b"to stderr")
    assert launcher.slow_runs() == []


def test_a_zygote_gets_words_environment_directory_and_input(launcher: Any, zygote: Make, tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "EMPTY": "", "ODD": "a=b\n\udcff"}
    with zygote(ACCEPTED, DONE) as asked:
        done = launcher.run("-namespace", "default", "", "start", data=b"bootstrap", env=environment, cwd=str(tmp_path))
    assert outcome(done) == (0, b"unix:///s/1")
    (request,) = asked.requests
    assert request.words == (str(launcher.path), "-namespace", "default", "", "start")
    assert request.environment == environment
    assert (asked.directories, asked.inputs) == ([str(tmp_path)], [b"bootstrap"])


def test_a_reply_may_come_in_pieces(launcher: Any, zygote: Make) -> None:
    reply = COMMITTED + encode_reply(Reply(7, b"out", b"err"))
    with zygote(ACCEPTED, *(reply[i : i + 1] for i in range(len(reply))), pause=0.005):
        done = launcher.run("start")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out", b"err")


def test_the_largest_reply_comes_through_a_pipe_that_is_read_slowly(launcher: Any, zygote: Make) -> None:
    output = os.urandom(1 << 20)
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with zygote(ACCEPTED + encode_reply(Reply(0, output))):
        running = subprocess.Popen([launcher.path, "start"], stdin=subprocess.DEVNULL, stdout=theirs)
        os.close(theirs)
        got = b""
        while piece := os.read(ours, 10_000):
            got += piece
        assert running.wait(10) == 0
    os.close(ours)
    assert got == output


def test_a_reply_ends_the_launcher_though_the_connection_stays_open(launcher: Any, scripted: Make) -> None:
    done = threading.Event()

    def script(connection: socket.socket) -> None:
        made.take(connection)
        connection.sendall(ACCEPTED + DONE)
        done.wait(10)

    with (made := scripted(script)):
        assert outcome(launcher.run("start")) == (0, b"unix:///s/1")
        done.set()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([], id="closes at once"),
        pytest.param([b"N"], id="refuses"),
        pytest.param([b"C" + DONE], id="commits without accepting"),
        pytest.param([ACCEPTED], id="dies after accepting"),
        pytest.param([ACCEPTED, DONE[:4]], id="dies in the header"),
        pytest.param([ACCEPTED, DONE[:-1]], id="dies in the reply"),
        pytest.param([ACCEPTED, b"XKR1" + DONE[4:]], id="wrong magic"),
        pytest.param([ACCEPTED, header(b"SKR1", 256, 0, 0)], id="no exit status"),
        pytest.param([ACCEPTED, header(b"SKR1", 0, (1 << 20) + 1, 0)], id="too much stdout"),
        pytest.param([ACCEPTED, header(b"SKR1", 0, 1, 1 << 20)], id="too much together"),
        pytest.param([ACCEPTED, header(b"SKR1", 0, 1, 0xFFFFFFFF)], id="a sum that wraps"),
        pytest.param([ACCEPTED + DONE + b"x"], id="more than it says"),
    ],
)
def test_what_no_zygote_has_done_is_done_slowly(launcher: Any, zygote: Make, answer: list[bytes]) -> None:
    with zygote(*answer) as asked:
        assert outcome(launcher.run("start", data=b"input")) == SLOW
    assert asked.connections == 1
    assert len(launcher.slow_runs()) == 1


@pytest.mark.parametrize("rest", [b"", DONE[:9], b"XKR1", DONE[:-1]])
def test_what_died_with_its_input_is_an_error(launcher: Any, zygote: Make, rest: bytes) -> None:
    with zygote(ACCEPTED + COMMITTED, rest):
        done = launcher.run("start", data=b"input")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == (
        b"containerd-shim-test-v1: the process that carried this out was killed in the middle of it; try again\n"
    )
    assert launcher.slow_runs() == []


LARGE = {f"V{number}": "x" * 100_000 for number in range(9)}  # more than a socket holds


def before_it_has_all(*pieces: bytes) -> Callable[[socket.socket], None]:
    """Answer when the first byte has come, and close a connection on which there is more."""

    def script(connection: socket.socket) -> None:
        assert connection.recv(1)
        for piece in pieces:
            connection.sendall(piece)

    return script


@pytest.mark.parametrize("environment", [{}, LARGE], ids=["sent", "being sent"])
@pytest.mark.parametrize("committed", [b"", COMMITTED])
def test_an_answer_that_comes_before_the_request_is_read_counts(
    launcher: Any, scripted: Make, committed: bytes, environment: dict[str, str]
) -> None:
    with scripted(before_it_has_all(ACCEPTED + committed + DONE)):
        assert outcome(launcher.run("start", data=b"input", env=environment)) == (0, b"unix:///s/1")
    assert launcher.slow_runs() == []


@pytest.mark.parametrize("environment", [{}, LARGE], ids=["sent", "being sent"])
@pytest.mark.parametrize("rest", [b"", DONE[:-1]], ids=["nothing", "half"])
def test_a_connection_that_is_reset_after_input_was_read_is_an_error(
    launcher: Any, scripted: Make, rest: bytes, environment: dict[str, str]
) -> None:
    with scripted(before_it_has_all(ACCEPTED + COMMITTED, rest)):
        done = launcher.run("start", data=b"input", env=environment)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"was killed in the middle of it; try again" in done.stderr
    assert launcher.slow_runs() == []


@pytest.mark.parametrize("environment", [{}, LARGE], ids=["sent", "being sent"])
@pytest.mark.parametrize("answer", [b"", ACCEPTED, ACCEPTED + DONE[:-1]], ids=["nothing", "accepted", "half"])
def test_a_connection_that_is_reset_before_is_done_slowly(
    launcher: Any, scripted: Make, answer: bytes, environment: dict[str, str]
) -> None:
    with scripted(before_it_has_all(answer)):
        assert outcome(launcher.run("start", data=b"input", env=environment)) == SLOW
    assert len(launcher.slow_runs()) == 1


def test_a_zygote_that_hangs_is_left_after_a_second(launcher: Any) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(launcher.socket)
        listener.listen()
        began = time.monotonic()
        assert outcome(launcher.run("start")) == SLOW
    assert 0.9 < time.monotonic() - began < 3


def test_a_zygote_that_hangs_with_a_full_queue_is_left_after_a_second(launcher: Any) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(launcher.socket)
        listener.listen(0)
        first.connect(launcher.socket)
        began = time.monotonic()
        assert outcome(launcher.run("start")) == SLOW
    assert 0.9 < time.monotonic() - began < 3


def test_a_full_queue_is_waited_for(launcher: Any, scripted: Make) -> None:
    def script(connection: socket.socket) -> None:
        time.sleep(0.05)
        made.take(connection)
        connection.sendall(ACCEPTED + DONE)

    with (made := scripted(script, backlog=0)):
        running = [launcher.start("start") for _ in range(6)]
        assert ends_of(running) == [(0, b"unix:///s/1")] * 6
    assert launcher.slow_runs() == []


def test_a_large_request_to_a_zygote_that_does_not_read_is_left(launcher: Any) -> None:
    environment = {f"V{number}": "x" * 100_000 for number in range(9)}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(launcher.socket)
        listener.listen()
        began = time.monotonic()
        assert outcome(launcher.run("start", env=environment)) == SLOW
    assert 0.9 < time.monotonic() - began < 4


def test_a_large_request_arrives_whole(launcher: Any, zygote: Make) -> None:
    environment = {f"V{number}": "x" * 100_000 for number in range(9)}
    with zygote(ACCEPTED + DONE) as asked:
        assert outcome(launcher.run("start", env=environment)) == (0, b"unix:///s/1")
    assert asked.requests[0].environment == environment


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (64, {}),
        (1, {f"V{number}": "" for number in range(4097)}),
        (1, {f"V{number}": "x" * 120_000 for number in range(9)}),
    ],
    ids=["words", "variables", "bytes"],
)
def test_what_is_beyond_a_zygotes_bounds_is_done_slowly(
    launcher: Any, zygote: Make, words: int, environment: dict[str, str]
) -> None:
    with zygote(ACCEPTED + DONE) as asked:
        assert outcome(launcher.run(*["w"] * words, env=environment)) == SLOW
    assert asked.connections == 0


def test_stopping_and_continuing_the_launcher_changes_nothing(launcher: Any, scripted: Make) -> None:
    started = queue.Queue[int]()  # it may ask before this thread has its pid

    def script(connection: socket.socket) -> None:
        made.take(connection)
        pid = started.get(timeout=10)
        for _ in range(4):
            stop_and_continue(pid)
        connection.sendall(ACCEPTED)
        for _ in range(4):
            stop_and_continue(pid)
        connection.sendall(DONE)

    with (made := scripted(script)):
        running = launcher.start("start")
        started.put(running.pid)
        assert running.communicate(timeout=20) == (b"unix:///s/1", b"")
    assert running.returncode == 0


def stop_and_continue(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.01)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.01)


def test_output_that_nobody_reads_is_a_failure_and_no_signal(launcher: Any, zygote: Make) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with zygote(ACCEPTED + DONE):
        running = subprocess.Popen([launcher.path, "start"], stdin=subprocess.DEVNULL, stdout=theirs)
        assert running.wait(10) == 1
    os.close(theirs)


def test_closed_standard_streams_are_not_taken_by_others(launcher: Any, zygote: Make) -> None:
    shell = ["sh", "-c", 'exec "$0" start <&- >&- 2>&-', launcher.path]
    with zygote(ACCEPTED + encode_reply(Reply(5, b"lost", b"lost"))) as asked:
        assert subprocess.run(shell, check=False, timeout=20).returncode == 5
    assert asked.inputs == [b""]
    assert subprocess.run(shell, check=False, timeout=20).returncode == SLOW[0]
    (run,) = launcher.slow_runs()
    assert {run["open"][number] for number in "012"} == {"/dev/null"}


# The slow path.


def test_without_a_zygote_the_program_gets_everything_as_it_is(launcher: Any, tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "X": "1", "CONTAINERD_SHIMKIT_LAUNCHER": "/old"}
    done = launcher.run("read", "-id", "1", "", "start", data=b"bootstrap", env=environment, cwd=str(tmp_path))
    assert outcome(done) == SLOW
    (run,) = launcher.slow_runs()
    assert run["argv"] == [launcher.command[-1], "read", "-id", "1", "", "start"]
    assert run["env"] == {
        "PATH": "/bin",
        "X": "1",
        "CONTAINERD_SHIMKIT_LAUNCHER": str(launcher.path),
        "LC_CTYPE": "C.UTF-8",
    }
    assert (run["cwd"], run["stdin"], run["isolated"]) == (str(tmp_path), "bootstrap", 1)


def test_the_program_inherits_the_slot_and_nothing_else_of_ours(launcher: Any) -> None:
    assert outcome(launcher.run("start")) == SLOW
    (run,) = launcher.slow_runs()
    ours = {path for path in run["open"].values() if path.startswith(str(launcher.directory))}
    assert ours == {str(launcher.directory / "slow-path.0")}
    others = {number: path for number, path in run["open"].items() if int(number) > 2 and path not in ours}
    assert len(others) <= 1, others  # the one that lists them
    assert int(run["ignored"], 16) & 1 << signal.SIGPIPE - 1 == 1 << signal.SIGPIPE - 1  # by Python itself


@pytest.mark.parametrize("slot_mode", [0o600])
def test_the_directory_is_made_for_the_owner_alone(launcher: Any, slot_mode: int) -> None:
    launcher.directory.rmdir()
    assert outcome(launcher.run("start")) == SLOW
    assert stat.S_IMODE(launcher.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((launcher.directory / "slow-path.0").stat().st_mode) == slot_mode


def test_the_launcher_of_another_installation_has_nothing_to_do_with_this_ones_zygote(
    launcher: Any, built: tuple[bytes, Path], zygote: Make, tmp_path: Path
) -> None:
    script = tmp_path / "other" / "slow.py"
    script.parent.mkdir()
    script.write_text(Path(launcher.command[-1]).read_text())
    command = [*launcher.command[:-1], str(script)]
    path = script.with_name(launcher.path.name)
    path.write_bytes(fill_command(built[0], command))
    path.chmod(0o755)
    other = type(launcher)(path, launcher.directory, command)
    with zygote(ACCEPTED, DONE) as asked:
        for words in (["-v"], ["-id", "1", "delete"], ["-id", "1", "start"]):
            assert outcome(other.run(*words)) == SLOW
        assert asked.connections == 0
        assert outcome(launcher.run("-v")) == (0, b"unix:///s/1")
        assert asked.connections == 1
    assert len(other.slow_runs()) == 3


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o701])
def test_a_directory_that_others_can_reach_is_not_used(launcher: Any, zygote: Make, mode: int) -> None:
    with zygote(ACCEPTED + DONE) as asked:
        launcher.directory.chmod(mode)
        assert outcome(launcher.run("start")) == SLOW
        launcher.directory.chmod(0o700)
        assert list(launcher.directory.glob("slow-path.*")) == []
    assert asked.connections == 0


def test_a_directory_that_is_none_is_not_used(launcher: Any, tmp_path: Path) -> None:
    launcher.directory.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    launcher.directory.symlink_to(tmp_path / "elsewhere")
    assert outcome(launcher.run("start")) == SLOW
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_serve_stays_in_the_foreground_and_takes_no_slot(launcher: Any, zygote: Make) -> None:
    with zygote(ACCEPTED + DONE) as asked:
        assert outcome(launcher.run("-id", "1", "serve")) == SLOW
    assert asked.connections == 0
    (run,) = launcher.slow_runs()
    assert [path for path in run["open"].values() if "slow-path" in path] == []


def test_at_most_four_are_slow_at_once(launcher: Any) -> None:
    began = time.monotonic()
    running = [launcher.start("linger", "0.5") for _ in range(10)]
    most = 0
    while any(each.poll() is None for each in running):
        most = max(most, sum(is_python(each.pid) for each in running))
        time.sleep(0.01)
    assert ends_of(running) == [SLOW] * 10
    assert most == 4
    assert time.monotonic() - began > 1.4  # three rounds
    assert len(launcher.slow_runs()) == 10


def is_python(pid: int) -> bool:
    try:
        return not os.readlink(f"/proc/{pid}/exe").endswith("/containerd-shim-test-v1")
    except OSError:
        return False


def take_all_slots(directory: Path) -> list[int]:
    slots = [os.open(directory / f"slow-path.{number}", os.O_RDWR | os.O_CREAT, 0o600) for number in range(4)]
    for slot in slots:
        fcntl.flock(slot, fcntl.LOCK_EX)
    return slots


def test_who_waits_for_a_slot_finds_the_zygote_that_another_has_left(launcher: Any, zygote: Make) -> None:
    slots = take_all_slots(launcher.directory)
    running = launcher.start("start")
    time.sleep(0.3)
    assert running.poll() is None
    with zygote(ACCEPTED + DONE):
        assert running.communicate(timeout=10) == (b"unix:///s/1", b"")
    assert launcher.slow_runs() == []
    for slot in slots:
        os.close(slot)


def test_patience_ends_and_then_no_slot_is_needed(launcher: Any) -> None:
    slots = take_all_slots(launcher.directory)
    began = time.monotonic()
    assert outcome(launcher.run("start")) == SLOW
    assert 2.9 < time.monotonic() - began < 6  # conftest.PATIENCE_MS
    for slot in slots:
        os.close(slot)


# Its own block.


def test_a_launcher_for_nothing_says_so(built: tuple[bytes, Path], tmp_path: Path) -> None:
    path = tmp_path / "containerd-shim-x-v1"
    path.write_bytes(built[0])
    path.chmod(0o755)
    done = subprocess.run([path, "start"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"containerd-shim-x-v1: not installed: run containerd-shimkit install NAME\n"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param((17).to_bytes(4, "little"), id="too many words"),
        pytest.param(b"\xff\xff\xff\xff", id="far too many"),
        pytest.param((1).to_bytes(4, "little") + b"x" * 4060, id="no end"),
        pytest.param((1).to_bytes(4, "little") + b"bin/sh\0", id="no absolute path"),
        pytest.param((2).to_bytes(4, "little") + b"/" + b"x" * 4058 + b"\0", id="fewer words than it says"),
    ],
)
def test_a_damaged_block_is_noticed(built: tuple[bytes, Path], tmp_path: Path, damage: bytes) -> None:
    data = built[0]
    start = data.index(MARKER) + len(MARKER)
    path = tmp_path / "containerd-shim-x-v1"
    path.write_bytes(data[:start] + damage + data[start + len(damage) :])
    path.chmod(0o755)
    done = subprocess.run([path, "start"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is damaged: run containerd-shimkit install NAME" in done.stderr


def test_a_program_that_is_gone_is_named(launcher: Any, built: tuple[bytes, Path]) -> None:
    launcher.path.write_bytes(fill_command(built[0], ["/nonexistent/venv/bin/python", "-I", "/x"]))
    done = launcher.run("start")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"cannot execute /nonexistent/venv/bin/python\n" in done.stderr
    assert b"No such file or directory; run containerd-shimkit install NAME anew" in done.stderr


# The digest, in contexts other than that of the tests.

IN_ANOTHER_CONTEXT = """
import ctypes, os, resource, socket, subprocess, sys
exec(sys.argv[1])
from containerd_shimkit.zygote.naming import socket_path
launcher, directory, *command = sys.argv[2:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(socket_path(command, directory))
listener.listen()
running = subprocess.Popen([launcher, "start"], stdin=subprocess.DEVNULL)
listener.settimeout(5)
connection, _ = listener.accept()
connection.recv(1 << 16)
connection.sendall(b"A" + b"SKR1" + bytes(12))
sys.exit(running.wait(10))
"""


@pytest.mark.parametrize(
    ("change", "root"),
    [
        ("pass", False),
        ("os.nice(3)", False),
        ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", False),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (333, 334))", False),
        ("ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)", False),  # PR_SET_NO_NEW_PRIVS
        ("open('/proc/self/oom_score_adj', 'w').write('77')", False),
        ("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", False),
        ("os.setgroups(range(2000, 2900))", True),
        ("assert ctypes.CDLL(None).unshare(0x04000000 | 0x40000000) == 0", True),  # CLONE_NEWUTS, CLONE_NEWNET
    ],
)
def test_the_socket_is_the_one_that_python_computes(launcher: Any, change: str, root: bool) -> None:
    if root and os.geteuid():
        pytest.skip(f"needs root, this is uid {os.geteuid()}")
    script = [sys.executable, "-c", IN_ANOTHER_CONTEXT, change, launcher.path, launcher.directory, *launcher.command]
    done = subprocess.run(script, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert launcher.slow_runs() == []


STARTED = """
import json, signal, socket
path = sys.argv[sys.argv.index("-socket") + 1]
with open(sys.argv[0] + ".started", "a") as file:
    status = open("/proc/self/status").read()
    seen = {"pid": os.getpid(), "env": dict(os.environ), "session": os.getsid(0),
            "open": sorted(os.listdir("/proc/self/fd")),
            "signals": [line.split()[1] for line in status.splitlines() if line.startswith(("SigIgn", "SigBlk"))]}
    file.write(json.dumps(seen) + chr(10))
time.sleep(0.2)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path + ".new")
listener.listen(64)
os.rename(path + ".new", path)
os.write(2, b"a word of warning" + bytes(1) + b"ready")
os.dup2(1, 2)
listener.settimeout(3)
while True:
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        break
    connection.settimeout(None)
    connection.recv(1 << 16)
    connection.sendall(b"ASKR1" + (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + bytes(4) + b"out")
    connection.close()
"""


def started(launcher: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{launcher.command[-1]}.started").read_text().splitlines()]


def test_a_start_without_a_zygote_starts_one_that_takes_nothing_along(launcher: Any) -> None:
    Path(f"{launcher.command[-1]}.zygote").write_text(STARTED)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        done = launcher.run("start", env={"OTEL_X": "1"})
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert outcome(done) == (0, b"out")
    (seen,) = started(launcher)
    assert seen["env"].keys() <= {"LC_CTYPE"}, "which Python itself sets"
    assert seen["session"] == seen["pid"]
    assert set(seen["open"]) <= {"0", "1", "2", "3", "4"}, "its own files only"
    blocked, ignored = (int(each, 16) for each in seen["signals"])
    assert blocked == 0
    assert ignored & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0, "but for what Python ignores"
    assert launcher.slow_runs() == []
    assert outcome(launcher.run("start")) == (0, b"out"), "and it is there for the next one"
    assert len(started(launcher)) == 1


def test_twenty_first_starts_at_once_start_one_zygote(launcher: Any) -> None:
    Path(f"{launcher.command[-1]}.zygote").write_text(STARTED)
    running = [launcher.start("start") for _ in range(20)]
    assert [each.communicate()[0] for each in running] == [b"out"] * 20
    assert len(started(launcher)) == 1
    assert launcher.slow_runs() == []


def test_other_actions_start_no_zygote(launcher: Any) -> None:
    Path(f"{launcher.command[-1]}.zygote").write_text(STARTED)
    assert outcome(launcher.run("delete")) == SLOW
    assert not Path(f"{launcher.command[-1]}.started").exists()


def test_a_zygote_that_hangs_is_replaced_by_a_start(launcher: Any) -> None:
    Path(f"{launcher.command[-1]}.zygote").write_text(STARTED)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(launcher.socket)
        hanging.listen()
        assert outcome(launcher.run("start")) == (0, b"out")
    assert len(started(launcher)) == 1
