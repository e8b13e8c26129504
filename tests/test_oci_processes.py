"""`containerd-shimkit-oci`: what is done with a container that runs: exec, pause, update, events, and terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.linux.cgroups import cgroup_from
from harness.oci import PROGRAM, Bundle, wait_for

pytestmark = pytest.mark.root


def started(bundle: Bundle) -> str:
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    return id


def group_file(bundle: Bundle, id: str, controller: str, file: str) -> str:  # noqa: A002
    paths = json.loads((bundle.root / id / "shim-state.json").read_text())["cgroup_paths"]
    return (Path(paths[controller]) / file).read_text().strip()


def test_a_program_is_executed_in_the_container_as_its_init_would(bundle: Bundle) -> None:
    bundle.change(lambda spec: spec["process"]["env"].append("OWN=1"))
    id = started(bundle)  # noqa: A001
    pid = bundle.state(id)["pid"]
    script = "cat; echo $OWN; for each in /proc/self/ns/*; do readlink $each; done; exit 5"
    done = bundle.call("exec", id, "sh", "-c", script, input="typed ", check=False)
    assert done.returncode == 5, done.stderr
    first, *namespaces = done.stdout.split()
    assert first == "typed"
    assert namespaces[0] == "1"
    there = {os.readlink(f"/proc/{pid}/ns/{name}") for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts", "user")}
    assert there <= set(namespaces)


def test_flags_change_what_is_executed(bundle: Bundle) -> None:
    id = started(bundle)  # noqa: A001
    flags = ["--user", "7:8", "--additional-gids", "9", "--env", "X=a b", "--cwd", "/bin", "--no-new-privs"]
    done = bundle.call("exec", *flags, id, "sh", "-c", 'id; echo "$X"; pwd; grep NoNewPrivs /proc/self/status')
    assert done.stdout.splitlines() == ["uid=7 gid=8 groups=0,9", "a b", "/bin", "NoNewPrivs:\t1"]
    done = bundle.call("exec", "--cap", "CAP_NET_ADMIN", id, "grep", "CapEff", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) & 1 << 12


def test_a_process_comes_from_a_file(bundle: Bundle, tmp_path: Path) -> None:
    id = started(bundle)  # noqa: A001
    process = {
        "args": ["sh", "-c", "pwd; id -u; echo $A"],
        "cwd": "/bin",
        "env": ["PATH=/bin", "A=1"],
        "user": {"uid": 3},
    }
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert bundle.call("exec", "--process", str(tmp_path / "process.json"), id).stdout == "/bin\n3\n1\n"


def test_a_detached_program_goes_on_and_its_pid_is_written(bundle: Bundle, tmp_path: Path) -> None:
    id = started(bundle)  # noqa: A001
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    command = [PROGRAM, "--root", str(bundle.root), "exec", "--detach", "--pid-file", str(tmp_path / "pid"), id]
    subprocess.run([*command, "sleep", "999"], check=True, timeout=60, **streams)
    pid = int((tmp_path / "pid").read_text())
    assert sorted(json.loads(bundle.call("ps", "-f", "json", id).stdout)) == sorted([bundle.state(id)["pid"], pid])
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00999\x00"
    bundle.call("delete", "--force", id)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("exec", "ID"), "there is nothing to execute"),
        (("exec", "ID", "/nowhere"), "'/nowhere' is no program of this container"),
        (("exec", "--user", "me", "ID", "id"), "--user is 'me'; it must be a number"),
        (("exec", "--user", "1:2:3", "ID", "id"), "--user is '1:2:3'"),
        (("exec", "--user", "4294967295", "ID", "id"), "--user is '4294967295'"),
        (("exec", "--additional-gids", "4294967295", "ID", "id"), "--additional-gids is 4294967295"),
        (("exec", "--cap", "NET", "ID", "id"), "--cap is 'NET', which is no capability"),
        (("exec", "--process", "/nowhere", "ID"), "--process /nowhere: No such file"),
        (("exec", "--cwd", "bin", "ID", "id"), "process.cwd of the exec is 'bin'"),
        (("exec", "--console-socket", "/x", "ID", "id"), "but the process has no terminal"),
        (("exec", "--tty", "--detach", "ID", "id"), "nobody who stays takes it"),
        (("exec", "--tty", "ID", "id"), "the standard input of this command is no terminal"),
        (("exec", "nobody", "id"), "there is no container 'nobody'"),
        (("resume", "ID"), "is running; only a paused one can be resumed"),
        (("update", "ID"), "there is nothing to change"),
        (("update", "--memory", "much", "ID"), "--memory is 'much', which is not a number"),
        (("update", "--cpu-share", "1K", "ID"), "--cpu-share is '1K', which is not a number"),
        (("update", "--cpuset-cpus", "4096", "ID"), "linux.resources.cpu.cpus is '4096'"),
        (("update", "--resources", "/nowhere", "ID"), "No such file"),
    ],
)
def test_a_mistake_is_named_and_harms_nothing(bundle: Bundle, args: tuple[str, ...], words: str) -> None:
    id = started(bundle)  # noqa: A001
    done = bundle.call(*(id if word == "ID" else word for word in args), check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert bundle.state(id)["status"] == "running"
    assert len(json.loads(bundle.call("ps", "-f", "json", id).stdout)) == 1


def test_nothing_is_executed_in_what_has_ended(bundle: Bundle) -> None:
    id = started(bundle)  # noqa: A001
    bundle.call("kill", id, "KILL")
    wait_for(lambda: bundle.state(id)["status"] == "stopped")
    for command in (("exec", id, "id"), ("pause", id), ("update", "--memory", "64M", id), ("events", "--stats", id)):
        done = bundle.call(*command, check=False)
        assert done.returncode == 1
        assert "stopped" in done.stderr, command


def test_a_paused_container_stands_still_until_it_is_resumed(bundle: Bundle) -> None:
    script = "while :; do echo x; sleep 0.05; done"
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", script]))
    id = started(bundle)  # noqa: A001
    wait_for(lambda: bundle.stdout)
    bundle.call("pause", id)
    assert bundle.state(id)["status"] == "paused"
    before = bundle.stdout
    time.sleep(0.3)
    assert bundle.stdout == before
    refused = bundle.call("exec", id, "id", check=False)
    assert "is paused" in refused.stderr
    assert "only a running one can be paused" in bundle.call("pause", id, check=False).stderr
    bundle.call("resume", id)
    assert bundle.state(id)["status"] == "running"
    wait_for(lambda: bundle.stdout != before)


def test_limits_are_changed_by_flags_and_by_a_file(bundle: Bundle) -> None:
    id = started(bundle)  # noqa: A001
    if cgroup_from(json.loads((bundle.root / id / "shim-state.json").read_text())["cgroup_paths"]).version == 2:
        pytest.skip("the files below are those of version 1; tests/test_unified_cgroups.py has the others")
    bundle.call("update", "--memory", "64M", "--pids-limit", "30", "--cpu-share", "300", "--cpuset-cpus", "0", id)
    assert group_file(bundle, id, "memory", "memory.limit_in_bytes") == str(64 << 20)
    assert group_file(bundle, id, "pids", "pids.max") == "30"
    assert group_file(bundle, id, "cpu", "cpu.shares") == "300"
    assert group_file(bundle, id, "cpuset", "cpuset.cpus") == "0"
    bundle.call("update", "--resources", "-", id, input='{"memory": {"limit": 33554432}}')
    assert group_file(bundle, id, "memory", "memory.limit_in_bytes") == str(32 << 20)
    assert group_file(bundle, id, "pids", "pids.max") == "30"


def test_figures_are_printed_once_or_again_and_again(bundle: Bundle) -> None:
    bundle.change(lambda spec: spec["linux"]["resources"].update(pids={"limit": 20}))
    id = started(bundle)  # noqa: A001
    found = json.loads(bundle.call("events", "--stats", id).stdout)
    assert (found["type"], found["id"]) == ("stats", id)
    data = found["data"]
    assert data["pids"] == {"current": 1, "limit": 20}
    assert data["cpu"]["usage"]["total"] > 0
    assert 0 < data["memory"]["usage"]["usage"] < 64 << 20
    command = [PROGRAM, "--root", str(bundle.root), "events", "--interval", "0.1s", id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert {line["type"] for line in lines} == {"stats"}
        bundle.call("delete", "--force", id)
        assert process.wait(20) in (0, 1), "it ends with the container"


def test_a_kill_for_want_of_memory_is_an_event(bundle: Bundle) -> None:
    bundle.change(lambda spec: spec["linux"]["resources"].update(memory={"limit": 16 << 20, "swap": 16 << 20}))
    script = "cat /dev/zero | tail -c 200000000 | wc -c"
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", "sleep 1000"]))
    (bundle.directory / "rootfs" / "bin" / "tail").symlink_to("busybox")
    (bundle.directory / "rootfs" / "bin" / "wc").symlink_to("busybox")
    id = started(bundle)  # noqa: A001
    command = [PROGRAM, "--root", str(bundle.root), "events", "--interval", "1000", id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["type"] == "stats", "now it watches"
        bundle.call("exec", id, "sh", "-c", script, check=False)
        assert json.loads(process.stdout.readline()) == {"type": "oom", "id": id}
        process.kill()


@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_terminal_is_this_commands_own(bundle: Bundle, command: str) -> None:
    script = ["sh", "-c", "tty; stty size; read -r line; echo got $line; exit 4"]
    bundle.change(lambda spec: spec["process"].update(args=script, terminal=command == "run"))
    if command == "run":
        words = ["run", bundle.new_id()]
    else:
        bundle.change(lambda spec: spec["process"].update(args=["sleep", "1000"]))
        words = ["exec", "--tty", started(bundle), *script]
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        os.chdir(bundle.directory)
        os.execv(PROGRAM, [PROGRAM, "--root", str(bundle.root), *words])
    try:
        output = _read_until(master, b"/dev/pts/0")
        os.write(master, b"hello\n")
        output += _read_until(master, b"got hello")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(master)
    assert os.waitstatus_to_exitcode(status) == 4
    assert b"/dev/pts/0" in output
    assert b"33 77" in output


def _read_until(master: int, words: bytes) -> bytes:
    found, until = b"", time.monotonic() + 20
    while words not in found:
        assert time.monotonic() < until, found
        found += os.read(master, 1000)
    return found
