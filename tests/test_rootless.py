"""Containers of ordinary users: by `containerd-shimkit-oci`, and by the demo through a shim."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.oci.rootless import as_ordinary_user
from harness.images import BUSYBOX
from harness.oci import Bundle, lay_out
from harness.ordinary import Ordinary, ordinary_users

pytestmark = pytest.mark.root

UID, OTHER = 54_321, 54_322
NOBODY = 65_534  # who has a name, as newuidmap(1) wants it
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def users() -> Iterator[list[Ordinary]]:
    if not os.access(BUSYBOX, os.X_OK):
        pytest.skip(f"no {BUSYBOX}: scripts/test, run as root on Debian, installs busybox-static")
    with ordinary_users(UID, OTHER, NOBODY) as made:
        yield made


@pytest.fixture
def user(users: list[Ordinary]) -> Ordinary:
    return users[0]


@pytest.fixture
def bundle(user: Ordinary) -> Iterator[Bundle]:
    yield from bundle_of(user)


def bundle_of(user: Ordinary) -> Iterator[Bundle]:
    """A bundle of the user's; afterwards nothing of it may be left."""
    made = lay_out(user.home / "bundle", user.home / "root")
    made.program = user.script("oci", "containerd-shimkit-oci")
    spec = as_ordinary_user(json.loads(made.config.read_text()), user.uid, user.uid)
    made.config.write_text(json.dumps(spec))
    made.directory.chmod(0o700)
    user.give(made.directory)
    try:
        yield made
        made.end()
        user.assert_nothing_runs()
        groups = {os.path.basename(path) for path, _, _ in os.walk("/sys/fs/cgroup")}
        assert groups.isdisjoint(made.ids), "no group is made"
    finally:
        for path in (made.directory, made.root):
            shutil.rmtree(path, ignore_errors=True)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come about in 20 s"
        time.sleep(0.02)


def refused(bundle: Bundle, change: Change) -> str:
    """What is said of a container that cannot be made; nothing of it is there."""
    bundle.change(change)
    done = bundle.call("run", bundle.new_id(), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert bundle.call("list", "-q").stdout == ""
    return done.stderr


def test_a_container_goes_through_its_states(bundle: Bundle, user: Ordinary) -> None:
    script = "sleep 1001 & echo $(id -u) $(id -g); trap 'exit 5' TERM; while :; do sleep 0.1; done"
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", script]))
    id = bundle.create()  # noqa: A001
    state = bundle.state(id)
    assert state["status"] == "created"
    pid = state["pid"]
    assert os.stat(f"/proc/{pid}").st_uid in (0, user.uid)
    closed = user.call("readlink", f"/proc/{pid}/exe", check=False)
    assert closed.returncode == 1, "an init that is no program yet is closed to its own user too"
    assert json.loads(bundle.call("ps", "--format", "json", id).stdout) == [pid]
    bundle.call("start", id)
    wait_for(lambda: bundle.stdout == "0 0\n")
    for name in ("pid", "user", "mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(user.uid), "1"]
    wait_for(lambda: len(json.loads(bundle.call("ps", "--format", "json", id).stdout)) >= 2)
    bundle.call("kill", "--all", id, "TERM")
    wait_for(lambda: bundle.state(id)["status"] == "stopped")
    bundle.call("delete", id)
    bundle.ids.clear()
    assert list(bundle.root.iterdir()) == []


def test_deleting_by_force_ends_every_process(bundle: Bundle, user: Ordinary) -> None:
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", "setsid sleep 1002 & exec sleep 1003"]))
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    wait_for(lambda: list(user.processes().values()).count("sleep") >= 2)
    bundle.call("delete", "--force", id)
    user.assert_nothing_runs()


def test_what_is_in_it_is_its_users_and_nothing_of_the_hosts(bundle: Bundle, user: Ordinary) -> None:
    done = bundle.run(
        "touch /new; ls -ln /dev/null | cut -c1-10; echo x >/dev/null && echo writable; ls /proc/self/fd; "
        "grep -c . /proc/net/dev; cat /proc/self/setgroups; grep -E 'Groups|NoNewPrivs' /proc/self/status; "
        "echo 0 >/proc/sys/kernel/printk"
    )
    assert done.returncode == 1, "the last one is not allowed"
    lines = done.stdout.split("\n")
    assert lines[:7] == ["crw-rw-rw-", "writable", "0", "1", "2", "3", "3"], "lo alone, and no descriptor but ls's own"
    assert lines[7] == "deny"
    assert "NoNewPrivs:\t1" in lines
    found = (bundle.directory / "rootfs/new").stat()
    assert (found.st_uid, found.st_gid) == (user.uid, user.uid)


def test_the_template_runs_with_a_terminal_by_console_socket(bundle: Bundle, user: Ordinary) -> None:
    bundle.config.unlink()
    bundle.call("spec", "--rootless")
    size = {"height": 17, "width": 71}
    args = ["sh", "-c", "tty; stty size; id -u; ls /sys/class >/dev/null && echo sysfs"]
    bundle.change(lambda spec: spec["process"].update(args=args, consoleSize=size))
    path = str(user.home / "console")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chown(path, user.uid, user.uid)
        listener.listen()
        id = bundle.create("--console-socket", path)  # noqa: A001
        connection, _ = listener.accept()
        with connection:
            _said, descriptors, _flags, _address = socket.recv_fds(connection, 4096, 1)
    os.unlink(path)
    bundle.call("start", id)
    with open(descriptors[0], "rb", buffering=0) as terminal:
        said = b""
        try:
            while piece := terminal.read(4096):
                said += piece
        except OSError:  # EIO: every process has closed the other end
            pass
    assert said.decode().split() == ["/dev/pts/0", "17", "71", "0", "sysfs"]


def test_hooks_run_as_the_user(bundle: Bundle, user: Ordinary) -> None:
    log = user.home / "hooks"
    names = ("prestart", "createRuntime", "poststart", "poststop")
    hook = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} $(id -u) >>{log}"]}] for kind in names}
    bundle.change(lambda spec: spec.update(hooks=hook))
    assert bundle.run("exit 3").returncode == 3
    assert log.read_text().split("\n")[:4] == [f"{kind} {user.uid}" for kind in names]


def test_a_filter_of_system_calls_is_put_on_and_kept(bundle: Bundle, user: Ordinary) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    bundle.change(lambda spec: spec["linux"].update(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    for _ in range(2):
        done = bundle.run("busybox mkdir /x")
        assert done.returncode == 1
        assert done.stderr == "mkdir: can't create directory '/x': Operation not supported\n"
    kept = user.runtime_directory / "containerd-shimkit/filters"
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"memory": {"limit": 1 << 26}}, "linux.resources.memory.limit is '67108864'"),
        ({"pids": {"limit": 5}}, "linux.resources.pids.limit is '5'"),
        ({"cpu": {"shares": 100}}, "linux.resources.cpu.shares is '100'"),
        ({"unified": {"memory.high": "1"}}, "linux.resources.unified['memory.high'] is '1'"),
    ],
)
def test_limits_are_refused_by_name(bundle: Bundle, resources: dict[str, Any], field: str) -> None:
    said = refused(bundle, lambda spec: spec["linux"].update(resources=resources))
    assert f"{field}, but the container of user {UID} has no cgroup" in said
    assert "leave that out, run it as root, or have root delegate a cgroup" in said


def test_what_limits_nothing_is_no_limit(bundle: Bundle) -> None:
    rules = [{"allow": False, "access": "rwm"}]
    resources = {"devices": rules, "memory": {"limit": -1}, "pids": {"limit": -1}}
    bundle.change(lambda spec: spec["linux"].update(resources=resources))
    assert bundle.run("exit 4").returncode == 4


def without(*kinds: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        linux = spec["linux"]
        linux["namespaces"] = [each for each in linux["namespaces"] if each["type"] not in kinds]
        if "user" in kinds:
            del linux["uidMappings"], linux["gidMappings"]

    return change


def mapped(*ranges: tuple[int, int, int]) -> Change:
    def change(spec: dict[str, Any]) -> None:
        for kind in ("uidMappings", "gidMappings"):
            spec["linux"][kind] = [{"containerID": a, "hostID": b, "size": c} for a, b, c in ranges]

    return change


def pid_of_hosts(spec: dict[str, Any]) -> None:
    without("pid")(spec)
    spec["linux"]["namespaces"].append({"type": "pid", "path": "/proc/1/ns/pid"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("user"), f"linux.namespaces has no `user`, but user {UID} is not root"),
        (without("pid"), "linux.namespaces has no new `pid`, and the container can have no cgroup"),
        (pid_of_hosts, "pid is to be joined at '/proc/1/ns/pid', which only root can; leave the path out"),
        (lambda spec: spec["linux"].update(cgroupsPath="/x"), "linux.cgroupsPath is '/x', but user 54321 may make no"),
        (lambda spec: spec["linux"].update(cgroupsPath="a.slice:b:c"), "for the systemd cgroup driver, but user 54321"),
        (
            lambda spec: spec["process"]["user"].update(additionalGids=[7]),
            "process.user.additionalGids needs the id 7, which linux.gidMappings does not map",
        ),
        (lambda spec: spec["process"].update(oomScoreAdj=-500), "leave process.oomScoreAdj out"),
        (
            lambda spec: spec["process"].update(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 << 31}]),
            "raising a hard limit needs CAP_SYS_RESOURCE: ask for less",
        ),
        (without("network"), "in a user namespace it needs a new network namespace: add one, or bind the host's /sys"),
    ],
)
def test_what_an_ordinary_user_cannot_have_is_refused_with_the_cure(bundle: Bundle, change: Change, said: str) -> None:
    assert said in refused(bundle, change)


@pytest.mark.parametrize(
    "ranges", [((0, 0, 1),), ((0, OTHER, 1),), ((0, UID, 2),), ((0, UID, 1), (1, 100_000, 10))], ids=str
)
def test_other_peoples_ids_are_refused(bundle: Bundle, ranges: tuple[tuple[int, int, int], ...]) -> None:
    said = refused(bundle, mapped(*ranges))
    assert "linux.gidMappings" in said
    assert "newgidmap" in said
    assert "own id" in said


def test_ids_of_etc_subuid_are_mapped_by_newuidmap(users: list[Ordinary], tmp_path: Path) -> None:
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        pytest.skip("no newuidmap: on Debian it is in the package uidmap")
    nobody = users[2]
    ranges = tmp_path / "subids"
    ranges.write_text(f"{NOBODY}:300000:100\n")
    for bundle in bundle_of(nobody):
        bundle.change(mapped((0, NOBODY, 1), (1, 300_000, 100)))
        bundle.change(lambda spec: spec["process"].update(user={"uid": 7, "gid": 8, "additionalGids": [9]}))
        (bundle.directory / "rootfs").chmod(0o755)
        bundle.directory.chmod(0o755)
        (bundle.directory / "rootfs" / "shared").mkdir(mode=0o777)
        (bundle.directory / "rootfs" / "shared").chmod(0o777)
        mounts = " && ".join(f"mount --bind {ranges} /etc/{name}" for name in ("subuid", "subgid"))
        bundle.program = inside(nobody, bundle, mounts)
        done = bundle.run("id; touch /shared/file")
        assert (done.returncode, done.stdout) == (0, "uid=7 gid=8 groups=9\n"), done.stderr
        found = (bundle.directory / "rootfs/shared/file").stat()
        assert (found.st_uid, found.st_gid) == (300_006, 300_007)


def test_another_user_cannot_touch_it(bundle: Bundle, users: list[Ordinary]) -> None:
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    other, pid = users[1], str(bundle.state(id)["pid"])
    for words in (("state", id), ("kill", id, "KILL"), ("delete", "--force", id), ("list",)):
        done = other.call("containerd-shimkit-oci", "--root", str(bundle.root), *words, check=False)
        assert done.returncode == 1
        assert "is not a directory that this user alone may write to" in done.stderr
    assert other.call("kill", pid, check=False).returncode == 1
    assert other.call("nsenter", "--target", pid, "--user", "true", check=False).returncode == 1
    assert bundle.state(id)["status"] == "running"


def test_containers_are_kept_in_the_users_runtime_directory(bundle: Bundle, user: Ordinary) -> None:
    bundle.change(lambda spec: spec["process"].update(args=["true"]))
    user.call("containerd-shimkit-oci", "run", "own", cwd=bundle.directory)
    kept = user.runtime_directory / "containerd-shimkit-oci"
    assert (kept.stat().st_uid, kept.stat().st_mode & 0o777) == (user.uid, 0o700)
    words = user.words("env", "-u", "XDG_RUNTIME_DIR", "containerd-shimkit-oci", "list")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "ERROR: XDG_RUNTIME_DIR is not set: say by --root where containers are to be kept\n"


def inside(user: Ordinary, bundle: Bundle, commands: str) -> str:
    """The path of a program that does what the bundle's does, in mounts of its own where *commands* were run first."""
    path = user.home.parent / "inside"
    path.write_text(f'#!/bin/sh\nexec unshare --mount sh -c \'{commands} && exec {bundle.program} "$@"\' sh "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_host_whose_proc_is_partly_hidden_is_told_of(bundle: Bundle, user: Ordinary) -> None:
    # another one that can be seen whole, of somebody else's root file system, would do as well
    alone = "findmnt --raw --noheadings --types proc --output TARGET | grep -vx /proc | xargs -r umount --lazy"
    bundle.program = inside(user, bundle, f"mount --bind /dev/null /proc/version && {{ {alone}; }}")
    bundle.change(lambda spec: spec["process"].update(args=["true"]))
    said = refused(bundle, lambda spec: None)
    assert "fstype='proc'" in said
    assert "systempaths=unconfined" in said


def test_the_setting_that_denies_user_namespaces_is_named(bundle: Bundle, user: Ordinary) -> None:
    words = "sh -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec containerd-shimkit-oci \"$@\"' sh"
    bundle.program = user.script("denied", f"unshare --user --map-root-user {words}")
    said = refused(bundle, mapped((0, 0, 1)))
    assert "the host's setting user.max_user_namespaces is 0: root can set it to a number above 0" in said


def test_the_root_of_a_user_namespace_runs_containers_in_it(bundle: Bundle, user: Ordinary) -> None:
    bundle.change(without("user"))
    bundle.program = user.script("inside", "unshare --user --map-root-user containerd-shimkit-oci")
    done = bundle.run("id -u; cut -c1-30 /proc/self/uid_map; ls -d /proc/[0-9]* | grep -c .; echo x >/dev/null; exit 6")
    assert done.returncode == 6, done.stderr
    assert done.stdout.split()[:3] == ["0", "0", str(user.uid)]


def test_the_demo_runs_as_an_ordinary_user(user: Ordinary) -> None:
    done = user.call("wasi-demo-app", "echo", "hello", "world")
    assert (done.stdout, done.stderr) == ("hello world\n", "exiting\n")
    assert user.call("wasi-demo-app", "exit", "42", check=False).returncode == 42
    names = [path.name for path in (user.home / ".cache/containerd-shimkit/modules").iterdir()]
    assert any(name.endswith(".code") for name in names), "what was compiled is kept for this user"
    assert not list(user.runtime_directory.glob("shim-*"))
    user.assert_nothing_runs()


def test_the_demo_can_be_interrupted(user: Ordinary) -> None:
    with subprocess.Popen(user.words("wasi-demo-app", "sleep", "100"), stdout=subprocess.PIPE) as demo:
        wait_for(lambda: "shim-init" in user.processes().values())
        time.sleep(0.3)
        os.kill(demo.pid, signal.SIGINT)
        assert demo.wait(30) == 130
    assert not list(user.runtime_directory.glob("shim-*"))
    user.assert_nothing_runs()


NATIVE = """
import asyncio, os, shutil
from containerd_shimkit.local import find_shim, local_bundle, run_task
from containerd_shimkit.oci.defaults import default_spec

async def main():
    spec = default_spec(["/busybox", "sh", "-c", "/busybox id -u; /busybox ip link | /busybox grep -c mtu; exit 7"])
    spec["linux"].update(LIMITS)
    with local_bundle(spec, id="native") as bundle:
        shutil.copy("BUSYBOX", bundle.rootfs + "/busybox")
        ended = await run_task(find_shim("wasmtime"), bundle, lambda stream, data: os.write(stream, data))
    raise SystemExit(ended.status)

asyncio.run(main())
"""


def native(user: Ordinary, limits: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    text = NATIVE.replace("LIMITS", repr(limits)).replace("BUSYBOX", BUSYBOX)
    return user.call("python", "-c", text, check=False)


def test_a_native_container_runs_through_the_shim_as_well(user: Ordinary) -> None:
    done = native(user, {})
    assert (done.returncode, done.stdout) == (7, "0\n1\n"), done.stderr


def test_a_shim_of_an_ordinary_user_refuses_limits(user: Ordinary) -> None:
    done = native(user, {"resources": {"memory": {"limit": 1 << 26}}})
    assert done.returncode == 1
    assert "linux.resources.memory.limit is '67108864', but the container of user 54321 has no cgroup" in done.stderr
    user.assert_nothing_runs()


def test_the_command_line_executes_in_it_and_says_what_it_cannot_do(bundle: Bundle) -> None:
    id = bundle.create()  # noqa: A001
    early = bundle.call("exec", id, "id", check=False)
    assert early.returncode != 0
    assert "it has not been started, or is another user's" in early.stderr
    bundle.call("start", id)
    done = bundle.call("exec", id, "sh", "-c", "id -u; cat; exit 9", input="typed", check=False)
    assert (done.returncode, done.stdout) == (9, "0\ntyped")
    bundle.call("exec", "--detach", id, "sh", "-c", "exec sleep 1008 >/dev/null 2>&1")
    assert len(json.loads(bundle.call("ps", "--format", "json", id).stdout)) == 2
    for words, cannot in (
        (("pause", id), "cannot be paused: it has no cgroup"),
        (("events", "--stats", id), "cannot tell what it uses: it has no cgroup"),
        (("update", "--memory", "100000000", id), "linux.resources.memory.limit is '100000000', but"),
        (("exec", "--user", "7", id, "id"), "process.user.uid needs the id 7, which linux.uidMappings does not map"),
    ):
        done = bundle.call(*words, check=False)
        assert done.returncode != 0
        assert cannot in done.stderr
    bundle.call("kill", id, "KILL")
    wait_for(lambda: bundle.state(id)["status"] == "stopped")


EXECUTING = """
import asyncio, json, os, sys
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.errors import ShimError
from containerd_shimkit.instance import Encoded, InstanceConfig

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

async def run(container, name, *args, **fields):
    process = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"], **fields}
    config = InstanceConfig("", "tests", stdout="said", stderr="said")
    await container.exec(name, Encoded("", json.dumps(process).encode()), config)
    try:
        pid = await container.start_exec(name)
    except ShimError as error:
        print(error)
        return
    ended = await asyncio.wait_for(container.wait_exec(name), 20)
    await container.delete_exec(name)
    print(ended.status, open("said").read().split())
    open("said", "w").close()

async def main():
    open("said", "w").close()
    container = ContainerInstance("executing", InstanceConfig(sys.argv[1], "tests"))
    await container.create()
    try:
        await run(container, "early", "true")
        await container.start()
        await run(container, "ids", "sh", "-c", "id -u; ls /proc/self/fd; readlink /proc/1/exe; exit 4")
        await run(container, "gone", "nonesuch")
        await run(container, "sleeping", "sh", "-c", "kill -9 $$")
        process = {"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"]}
        await container.exec("long", Encoded("", json.dumps(process).encode()), InstanceConfig("", "tests"))
        pid = await container.start_exec("long")
        own = container.container.pid
        same = [os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{own}/ns/{kind}") for kind in KINDS]
        print(all(same), sorted(each.pid for each in await container.pids()) == sorted((own, pid)))
    finally:
        await container.delete()

asyncio.run(main())
"""


def test_a_process_is_executed_in_it_by_its_user(bundle: Bundle, user: Ordinary) -> None:
    bundle.change(lambda spec: spec["process"].update(args=["sleep", "1004"]))
    done = user.call("python", "-c", EXECUTING, str(bundle.directory))
    early, ids, gone, killed, joined = done.stdout.splitlines()
    assert early == f"container 'executing' is closed to user {UID}: it has not been started, or is another user's"
    assert ids == "4 ['0', '0', '1', '2', '3', '/bin/busybox']"
    assert "process.args[0] 'nonesuch' is no program of this container" in gone
    assert killed == "137 []"
    assert joined == "True True"
