"""`containerd-shimkit-oci`: containers by the command line, as suites and other shims use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.linux.cgroups import cgroup_from
from harness.containerd import Containerd
from harness.oci import PROGRAM, Bundle, wait_for

pytestmark = pytest.mark.root


def test_a_container_goes_through_its_states(bundle: Bundle, tmp_path: Path) -> None:
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", "echo began; exec sleep 1000"]))
    bundle.change(lambda spec: spec.update(annotations={"a": "b"}))
    id = bundle.create("--pid-file", str(tmp_path / "pid"))  # noqa: A001
    state = bundle.state(id)
    assert (state["status"], state["id"], state["bundle"]) == ("created", id, str(bundle.directory))
    assert state["rootfs"] == str(bundle.directory / "rootfs")
    assert state["annotations"] == {"a": "b"}
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    assert os.readlink(f"/proc/{state['pid']}/ns/net") != os.readlink("/proc/self/ns/net")
    assert bundle.stdout == "", "nothing runs before start"
    bundle.call("start", id)
    assert bundle.state(id)["status"] == "running"
    wait_for(lambda: bundle.stdout == "began\n")
    assert json.loads(bundle.call("ps", "--format", "json", id).stdout) == [state["pid"]]
    assert "sleep 1000" in bundle.call("ps", id).stdout
    refused = bundle.call("delete", id, check=False)
    assert refused.returncode == 1
    assert f"container '{id}' cannot be deleted: it is running" in refused.stderr
    bundle.call("kill", id, "KILL")
    wait_for(lambda: bundle.state(id)["status"] == "stopped")
    assert bundle.state(id)["pid"] == 0
    bundle.call("delete", id)
    gone = bundle.call("state", id, check=False)
    assert (gone.returncode, gone.stderr) == (1, f"ERROR: there is no container '{id}' in {bundle.root}\n")
    bundle.ids.clear()


def test_run_gives_output_input_and_exit_status(bundle: Bundle) -> None:
    done = bundle.run("cat; echo err >&2; exit 42", input="typed")
    assert (done.returncode, done.stdout, done.stderr) == (42, "typed", "err\n")
    assert bundle.call("list", "-q").stdout == "", "it is deleted at its end"
    assert bundle.run("kill -9 $$").returncode == 0, "a pid namespace's init does not kill itself"


def test_run_can_keep_and_detach(bundle: Bundle) -> None:
    assert bundle.run("exit 3", "--keep").returncode == 3
    assert bundle.state(bundle.ids[-1])["status"] == "stopped"
    detached = bundle.new_id()
    bundle.change(lambda spec: spec["process"].update(args=["sleep", "1000"]))
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [PROGRAM, "--root", str(bundle.root), "run", "--detach", detached]
    bundle.change(lambda spec: spec["linux"].update(cgroupsPath=spec["linux"]["cgroupsPath"] + "2"))
    assert subprocess.run(command, cwd=bundle.directory, timeout=60, check=False, **streams).returncode == 0
    assert bundle.state(detached)["status"] == "running"
    listed = json.loads(bundle.call("list", "--format", "json").stdout)
    assert {each["id"]: each["status"] for each in listed} == dict(zip(bundle.ids, ("stopped", "running"), strict=True))
    table = bundle.call("list").stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert len(table) == 3


def test_signals_to_run_reach_the_container(bundle: Bundle) -> None:
    script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", script]))
    command = [PROGRAM, "--root", str(bundle.root), "run", bundle.new_id()]
    with subprocess.Popen(command, cwd=bundle.directory, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "got\n"
        assert process.wait(20) == 7


def test_a_descriptor_is_handed_on_when_asked_for_and_no_other(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("preserved")
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", "cat <&3; ls /proc/self/fd"]))
    opened = f'exec "$@" 3<{tmp_path}/file 4<{tmp_path}/file'  # in that process: here they are others'
    command = [PROGRAM, "--root", str(bundle.root), "run", "--preserve-fds", "1", bundle.new_id()]
    done = subprocess.run(
        ["sh", "-c", opened, "sh", *command], cwd=bundle.directory, capture_output=True, text=True, check=False
    )
    assert done.stdout == "preserved0\n1\n2\n3\n4\n", "4 is the directory that ls lists"
    missing = bundle.call("run", "--preserve-fds", "500", bundle.new_id(), check=False)
    assert "--preserve-fds asks for descriptor" in missing.stderr


def test_what_cannot_start_says_why_and_leaves_nothing(bundle: Bundle) -> None:
    bundle.change(lambda spec: spec["process"].update(args=["/nowhere"]))
    failed = bundle.call("create", bundle.new_id(), check=False)
    assert failed.returncode == 1
    assert "process.args[0] '/nowhere' is no program of this container" in failed.stderr
    assert os.listdir(bundle.root) == []
    (bundle.directory / "rootfs" / "bin" / "script").write_text("#!/nowhere\n")
    (bundle.directory / "rootfs" / "bin" / "script").chmod(0o755)
    bundle.change(lambda spec: spec["process"].update(args=["script"]))
    id = bundle.create()  # noqa: A001
    refused = bundle.call("start", id, check=False)
    assert refused.returncode == 1
    assert "its ELF or #! interpreter is missing" in refused.stderr
    wait_for(lambda: bundle.state(id)["status"] == "stopped")
    again = bundle.call("start", id, check=False)
    assert "is stopped; only a created one can be started" in again.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("create", "../x"), "cannot be a container's name"),
        (("create", ".x"), "cannot be a container's name"),
        (("state", "nobody"), "there is no container 'nobody'"),
        (("start", "nobody"), "there is no container 'nobody'"),
        (("kill", "nobody"), "there is no container 'nobody'"),
        (("delete", "nobody"), "there is no container 'nobody'"),
        (("create", "--bundle", "/nowhere", "x"), "/nowhere/config.json cannot be read"),
        (("create", "--no-pivot", "x"), "--no-pivot is not supported"),
        (("create", "--preserve-fds", "-1", "x"), "it must be 0 to 1000"),
    ],
)
def test_a_mistake_is_named(bundle: Bundle, args: tuple[str, ...], words: str) -> None:
    done = bundle.call(*args, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert os.listdir(bundle.root) == [] if bundle.root.exists() else True


def test_deleting_by_force_ends_what_runs_and_minds_nothing_missing(bundle: Bundle) -> None:
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    bundle.call("delete", "--force", id)
    bundle.call("delete", "--force", id)
    created = bundle.create()
    bundle.call("delete", created)


@pytest.mark.parametrize("how", [("kill", "KILL"), ("delete", "--force")])
def test_a_frozen_container_can_be_killed(bundle: Bundle, how: tuple[str, str]) -> None:
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    record = json.loads((bundle.root / id / "shim-state.json").read_text())
    cgroup_from(record["cgroup_paths"]).freeze()
    word, option = how
    bundle.call(*((word, id, option) if word == "kill" else (word, option, id)))
    if word == "kill":
        wait_for(lambda: bundle.state(id)["status"] == "stopped")
    else:
        bundle.ids.clear()


def test_an_id_is_taken_once_whoever_comes_first(bundle: Bundle) -> None:
    bundle.change(lambda spec: spec["linux"].pop("cgroupsPath"))
    bundle.ids.append("same")
    command = [PROGRAM, "--root", str(bundle.root), "create", "same"]
    options: dict[str, Any] = {"cwd": bundle.directory, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}

    def create(_: int) -> tuple[int, str]:
        with open(bundle.directory / f"err-{_}", "w+") as err:
            done = subprocess.run(command, stderr=err, timeout=60, check=False, **options)
            err.seek(0)
            return done.returncode, err.read()

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(create, range(4)))
    assert [code for code, _ in outcomes] == [0, 1, 1, 1]
    assert all("container 'same' exists already" in text for _, text in outcomes[1:])
    assert bundle.state("same")["status"] == "created"


@pytest.mark.parametrize("after", [0.05, 0.08, 0.1, 0.12, 0.15])
def test_a_create_that_is_killed_can_be_deleted(bundle: Bundle, after: float) -> None:
    id = bundle.new_id()  # noqa: A001
    command = [PROGRAM, "--root", str(bundle.root), "create", id]
    options: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with subprocess.Popen(command, cwd=bundle.directory, **options) as process:
        time.sleep(after)
        process.kill()
    bundle.call("delete", "--force", id)


def test_messages_go_to_the_log_as_those_who_drive_it_read_them(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    done = bundle.call("--log", str(log), "--log-format", "json", "start", "nobody", check=False)
    assert done.returncode == 1
    (line,) = [json.loads(each) for each in log.read_text().splitlines()]
    assert (line["level"], line["msg"]) == ("error", f"there is no container 'nobody' in {bundle.root}")
    assert line["time"].endswith("Z")
    text = tmp_path / "log.txt"
    bundle.call("--log", str(text), "start", "nobody", check=False)
    assert 'level=error msg="there is no container' in text.read_text()


def test_the_configuration_counts_as_it_was_when_the_container_was_made(bundle: Bundle, tmp_path: Path) -> None:
    hook = [{"path": "/bin/sh", "args": ["sh", "-c", f": > {tmp_path}/stopped"]}]
    bundle.change(lambda spec: spec.update(hooks={"poststop": hook}))
    id = bundle.create()  # noqa: A001
    bundle.config.write_text("{}")
    bundle.call("start", id)
    bundle.call("delete", "--force", id)
    assert (tmp_path / "stopped").exists()


def test_a_root_that_others_may_write_to_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    command = [PROGRAM, "--root", str(tmp_path / "open"), "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not a directory that this user alone may write to" in done.stderr


def test_spec_writes_what_runs_and_never_over_another(bundle: Bundle) -> None:
    bundle.config.unlink()
    bundle.call("spec")
    written = json.loads(bundle.config.read_text())
    assert written["process"]["terminal"] is True
    bundle.change(lambda spec: spec["process"].update(terminal=False, args=["id", "-u"]))
    assert bundle.call("run", bundle.new_id()).stdout == "0\n"
    assert "File exists" in bundle.call("spec", check=False).stderr


def test_features_are_those_of_the_shim(bundle: Bundle) -> None:
    document = json.loads(bundle.call("features").stdout)
    assert document["ociVersionMax"] == "1.2.0"
    assert "createRuntime" in document["hooks"]


@pytest.mark.containerd
def test_it_serves_containerds_own_shim_as_its_runtime(
    containerd: Containerd, busybox_tar: Path, tmp_path: Path, leftovers: None
) -> None:
    """BinaryName: containerd-shim-runc-v2 with this program in runc's place."""
    (image,) = containerd.import_image(busybox_tar)
    binary = ("--runc-binary", PROGRAM, "--runc-root", str(tmp_path / "root"))
    done = containerd.ctr("run", "--rm", *binary, image, "one", "sh", "-c", "echo out; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, "out\n")
    containerd.ctr("run", "--detach", *binary, image, "two", "sleep", "1000")
    assert containerd.tasks()["two"].status == "RUNNING"
    assert str(containerd.tasks()["two"].pid) in containerd.ctr("tasks", "ps", "two").stdout
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", "two")
    wait_for(lambda: containerd.tasks()["two"].status == "STOPPED")
    containerd.ctr("tasks", "delete", "two", check=False)
    containerd.ctr("containers", "delete", "two")
    failed = containerd.ctr("run", "--rm", *binary, image, "three", "/nowhere", check=False)
    assert "'/nowhere' is no program of this container" in failed.stderr


@pytest.mark.parametrize(
    ("users", "uid", "home"),
    [
        (None, 0, "/"),
        ("root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n", 1000, "/home/me"),
        ("root:x:0:0::/root:/bin/sh\n", 1000, "/"),
        ("\n:::\nbroken\nme:x:1000:1000:::\n", 1000, "/"),
    ],
)
def test_a_program_without_a_home_gets_that_of_its_user(bundle: Bundle, users: str | None, uid: int, home: str) -> None:
    if users is not None:
        (bundle.directory / "rootfs" / "etc").mkdir()
        (bundle.directory / "rootfs" / "etc" / "passwd").write_text(users)
    bundle.change(lambda spec: spec["process"]["user"].update(uid=uid))
    assert bundle.run('echo "$HOME"').stdout == f"{home}\n"
    bundle.change(lambda spec: spec["process"]["env"].append("HOME=/own"))
    assert bundle.run('echo "$HOME"').stdout == "/own\n"


def test_users_of_the_host_are_not_looked_at(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("root:x:0:0::/of-the-host:/bin/sh\n")
    (bundle.directory / "rootfs" / "etc").mkdir()
    (bundle.directory / "rootfs" / "etc" / "passwd").symlink_to(tmp_path / "users")
    assert bundle.run('echo "$HOME"').stdout == "/\n"


def test_an_existing_mount_namespace_is_joined_and_never_the_hosts(bundle: Bundle) -> None:
    def join(spec: dict[str, Any], pid: int | str) -> None:
        kinds = [each for each in spec["linux"]["namespaces"] if each["type"] != "mount"]
        spec["linux"]["namespaces"] = [*kinds, {"type": "mount", "path": f"/proc/{pid}/ns/mnt"}]

    bundle.change(lambda spec: join(spec, "self"))
    refused = bundle.call("create", bundle.new_id(), check=False)
    assert refused.returncode == 1
    assert "this mount namespace is the shim's own" in refused.stderr
    with subprocess.Popen(["unshare", "--mount", "sleep", "1000"]) as holder:
        try:
            own = os.readlink("/proc/self/ns/mnt")
            wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/mnt") != own)
            theirs = os.readlink(f"/proc/{holder.pid}/ns/mnt")
            bundle.change(lambda spec: join(spec, holder.pid))
            assert bundle.run("readlink /proc/self/ns/mnt; ls /bin/busybox").stdout.split() == [theirs, "/bin/busybox"]
        finally:
            holder.kill()


def test_a_container_among_the_hosts_mounts_has_its_own_root_and_leaves_no_mount(bundle: Bundle) -> None:
    def without_mounts_of_its_own(spec: dict[str, Any]) -> None:
        linux = spec["linux"]
        linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] != "mount"]
        linux.update(maskedPaths=[], readonlyPaths=[])

    bundle.change(without_mounts_of_its_own)
    done = bundle.run("readlink /proc/self/ns/mnt; ls /bin/busybox; ls /etc 2>&1; readlink /proc/self/root")
    own = os.readlink("/proc/self/ns/mnt")
    assert done.stdout.splitlines()[:2] == [own, "/bin/busybox"]
    assert "ls: /etc: No such file or directory" in done.stdout
    assert str(bundle.directory) not in Path("/proc/self/mountinfo").read_text()
    bundle.change(lambda spec: spec["linux"].update(maskedPaths=["/proc/kcore"]))
    refused = bundle.call("run", bundle.new_id(), check=False)
    assert "linux.maskedPaths is set, but linux.namespaces has no `mount`" in refused.stderr


def test_what_the_host_has_mounted_in_such_a_root_is_not_touched(bundle: Bundle) -> None:
    place = bundle.directory / "rootfs" / "mnt"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    try:
        linux = {"namespaces": [{"type": "pid"}], "maskedPaths": [], "readonlyPaths": []}
        bundle.change(lambda spec: spec["linux"].update(linux))
        refused = bundle.call("run", bundle.new_id(), check=False)
        assert "something is mounted on" in refused.stderr
        assert os.path.ismount(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_terminal_goes_to_the_console_socket(bundle: Bundle, tmp_path: Path) -> None:
    bundle.change(
        lambda spec: spec["process"].update(args=["sh", "-c", "tty -s; echo began; read line"], terminal=True)
    )
    refused = bundle.call("create", "--bundle", str(bundle.directory), "none", check=False)
    assert refused.returncode == 1
    assert "nobody who stays takes it" in refused.stderr
    path = str(tmp_path / "console")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        id = bundle.create("--console-socket", path)  # noqa: A001
        line, _ = listener.accept()
    name, descriptors, _flags, _address = socket.recv_fds(line, 100, 1)
    line.close()
    assert (name, len(descriptors)) == (b"/dev/pts/0", 1)
    bundle.call("start", id)
    with os.fdopen(descriptors[0], "r+b", buffering=0) as master:
        said = b""
        while not said.endswith(b"began\r\n"):
            said += master.read(100) or b""
        master.write(b"typed\n")
    wait_for(lambda: bundle.state(id)["status"] == "stopped")
    bundle.call("delete", id)
