"""Further processes in containers that live: made for real."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ShimError,
    UnimplementedError,
)
from containerd_shimkit.container import exec_child
from containerd_shimkit.container.channel import Channel
from containerd_shimkit.container.executor import Inside, Preparation
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.instance import Encoded, InstanceConfig
from containerd_shimkit.oci.spec import Process

from .bench import Bench, Play, in_user_namespace

pytestmark = pytest.mark.root

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
LONG = ("/bin/sleep", "1000")


def test_a_further_process_runs_and_its_end_is_told(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        assert await bench.run(container, "/bin/sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\nerr\n")
        assert await bench.run(container, "/bin/sh", "-c", "kill -9 $$") == (137, "")

    play(scenario)


def test_it_is_in_every_namespace_and_the_cgroup_of_the_init_and_a_child_of_the_shim(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["namespaces"].append({"type": "cgroup"})

        container = await bench.running(change=change)
        init = container.container.pid
        name = await bench.add(container, *LONG)
        pid = await container.start_exec(name)
        for kind in KINDS:
            assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{init}/ns/{kind}"), kind
        assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{init}/cgroup").read_text()
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["PPid"] == str(os.getpid())
        assert status["NSpid"].split()[0] == str(pid)
        assert len(status["NSpid"].split()) == 2
        assert os.getsid(pid) == pid
        assert [(each.pid, each.exec_id) for each in await container.pids()] == [(init, ""), (pid, name)]

    play(scenario)


def test_nothing_of_the_host_is_open_in_it_and_its_root_is_the_containers(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        name = await bench.add(container, *LONG, cwd="/bin")
        pid = await container.start_exec(name)
        descriptors = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
        assert descriptors == ["0", "1", "2"]
        root = os.stat(f"{container.config.bundle}/rootfs")
        assert os.path.samestat(os.stat(f"/proc/{pid}/root"), root)
        assert os.readlink(f"/proc/{pid}/cwd").endswith("/bin")
        assert (await bench.run(container, "/bin/ls", "/"))[1].split()[0] == "bin"
        keys = (await bench.run(container, "/bin/cat", "/proc/self/sessionid"))[0]
        assert keys in (0, 1)  # a kernel without auditing has none

    play(scenario)


def test_the_root_is_the_namespaces_even_when_the_init_has_gone_into_another(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        steps = (
            "b=/bin/busybox; $b mkdir -p /jail/bin; $b cp $b /jail/bin/; exec $b chroot /jail /bin/busybox sleep 1000"
        )
        container = await bench.running("/bin/sh", "-c", steps)
        for _ in range(100):
            if os.readlink(f"/proc/{container.container.pid}/root").endswith("/jail"):
                break
            await asyncio.sleep(0.02)
        status, said = await bench.run(container, "/bin/ls", "/")
        assert (status, "jail" in said) == (0, True)

    play(scenario)


def test_user_groups_capabilities_limits_and_umask_are_those_of_the_process(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        sets = {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")}
        status, said = await bench.run(
            container,
            "/bin/sh",
            "-c",
            "id; umask; ulimit -n; cat /proc/self/status /proc/self/oom_score_adj",
            user={"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o77},
            capabilities=sets,
            rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
            oomScoreAdj=345,
        )
        assert status == 0, said
        assert "uid=1000 gid=1001 groups=1001,5,7" in said.replace("groups=5,7", "groups=1001,5,7")
        assert "\n0077\n77\n" in said
        for line in ("CapEff:\t0000000000000020", "CapBnd:\t0000000000000020", "CapAmb:\t0000000000000020"):
            assert line in said
        assert "NoNewPrivs:\t1" in said
        assert said.endswith("345\n")

    play(scenario)


def test_it_runs_on_the_cpus_that_it_names(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        cpu = str(max(os.sched_getaffinity(0)))
        affinity = {"initial": "0", "final": cpu}
        ran = await bench.run(
            container, "/bin/grep", "Cpus_allowed_list", "/proc/self/status", execCPUAffinity=affinity
        )
        assert ran == (0, f"Cpus_allowed_list:\t{cpu}\n")
        name = await bench.add(container, "/bin/true", execCPUAffinity={"initial": "1000"})
        with pytest.raises(InvalidArgumentError, match="SetAffinity"):
            await container.start_exec(name)

    play(scenario)


@pytest.mark.parametrize("uid", [0, 1000])
def test_in_a_user_namespace_it_is_the_user_of_that(play: Play, uid: int) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(change=in_user_namespace)
        status, said = await bench.run(
            container, "/bin/sh", "-c", "id -u; cat /proc/self/uid_map", user={"uid": uid, "gid": uid}
        )
        assert (status, said.split()) == (0, [str(uid), "0", "100000", "65536"])
        with pytest.raises(InvalidArgumentError, match="70000"):
            await bench.add(container, "/bin/true", user={"uid": 70000, "gid": 0})
        name = await bench.add(container, *LONG, user={"uid": uid, "gid": uid})
        pid = await container.start_exec(name)
        assert f"Uid:\t{100000 + uid}\t" in Path(f"/proc/{pid}/status").read_text()
        assert os.readlink(f"/proc/{pid}/ns/user") == os.readlink(f"/proc/{container.container.pid}/ns/user")

    play(scenario)


def test_what_it_leaves_open_is_the_containers_but_not_no_new_privileges(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        def change(spec: dict[str, Any]) -> None:
            for kind in ("bounding", "effective", "permitted"):
                spec["process"]["capabilities"][kind] = ["CAP_CHOWN"]
            spec["process"]["oomScoreAdj"] = 222

        container = await bench.running(change=change)
        shell = "ulimit -n; cat /proc/self/status /proc/self/oom_score_adj"
        status, said = await bench.run(container, "/bin/sh", "-c", shell, noNewPrivileges=False)
        assert status == 0
        assert said.startswith("1024\n")
        assert "CapEff:\t0000000000000001\n" in said
        assert "CapBnd:\t0000000000000001\n" in said
        assert "NoNewPrivs:\t0" in said
        assert said.endswith("222\n")

    play(scenario)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_the_containers_filter_of_system_calls_is_on_it(play: Play, no_new_privileges: bool) -> None:
    async def scenario(bench: Bench) -> None:
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                # what the way there must not need: the second fork comes before the filter
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}
            ],
        }
        container = await bench.running(change=lambda spec: spec["linux"].__setitem__("seccomp", profile))
        shell = "grep Seccomp: /proc/self/status; /bin/busybox mkdir /new"
        status, said = await bench.run(container, "/bin/sh", "-c", shell, noNewPrivileges=no_new_privileges)
        assert said.startswith("Seccomp:\t2\n")
        assert (status, "Protocol error" in said) == (1, True)

    play(scenario)


def test_the_program_is_found_by_the_path_of_its_environment(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(files={"/opt/mine/tool": "#!/bin/sh\necho $0 $A\n"})
        ran = await bench.run(container, "tool", env=["PATH=/bin:/opt/mine", "A=b"])
        assert ran == (0, "/opt/mine/tool b\n")

    play(scenario)


@pytest.mark.parametrize(
    ("args", "fields", "kind", "words"),
    [
        (["/bin/none"], {}, InvalidArgumentError, "/bin/none: no such file or directory"),
        (["none"], {}, InvalidArgumentError, "/bin/none: no such file or directory"),
        (["/bin"], {}, InvalidArgumentError, "/bin: a directory"),
        (["/plain"], {}, InvalidArgumentError, "/plain: not executable"),
        (["/script"], {}, InvalidArgumentError, "interpreter is missing"),
        (["/proc/self/exe"], {}, InvalidArgumentError, "/proc/self/exe: "),
        (["/bin/true"], {"cwd": "/none"}, InvalidArgumentError, "ChangeDirectory.*No such file"),
        (["/bin/true"], {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, InvalidArgumentError, "RLIMIT_X"),
    ],
)
def test_what_cannot_be_started_says_why_and_leaves_nothing(
    play: Play, args: list[str], fields: dict[str, Any], kind: type[ShimError], words: str
) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(files={"/plain": "x", "/script": "#!/no/where\n"})
        (Path(container.config.bundle) / "rootfs" / "plain").chmod(0o644)
        name = await bench.add(container, *args, **fields)
        with pytest.raises(kind, match=words):
            await container.start_exec(name)
        await container.delete_exec(name)
        assert [each.pid for each in await container.pids()] == [container.container.pid]
        assert await bench.run(container, "/bin/true") == (0, "")

    play(scenario)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"args": []}, InvalidArgumentError, "process.args of the exec is empty"),
        ({"cwd": "relative"}, InvalidArgumentError, "process.cwd of the exec is 'relative'"),
        ({"cwd": None}, InvalidArgumentError, "the process to be executed: cwd"),
        ({"user": {"uid": -1}}, InvalidArgumentError, "user.uid is -1"),
        ({"selinuxLabel": "a:b:c:d"}, UnimplementedError, "process.selinuxLabel is 'a:b:c:d', but SELinux is absent"),
    ],
)
def test_a_bad_description_is_refused_when_it_is_registered(
    play: Play, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], kind: type[ShimError], words: str
) -> None:
    monkeypatch.setattr("containerd_shimkit.container.labels.has_selinux", lambda: False)

    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        document = {"args": ["/bin/true"], "cwd": "/", **fields}
        with pytest.raises(kind, match=words):
            await container.exec("e", Encoded("", json.dumps(document).encode()), InstanceConfig("", ""))
        with pytest.raises(NotFoundError, match="no process 'e'"):
            await container.start_exec("e")
        with pytest.raises(InvalidArgumentError, match="not valid JSON"):
            await container.exec("e", Encoded("", b"{"), InstanceConfig("", ""))

    play(scenario)


def test_one_id_is_one_process(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        name = await bench.add(container, *LONG)
        bench.commands -= 1
        with pytest.raises(AlreadyExistsError, match=f"a process '{name}' already"):
            await bench.add(container, *LONG)
        with pytest.raises(FailedPreconditionError, match="has not been started"):
            await container.kill(signal.SIGTERM, name)
        await container.start_exec(name)
        await container.kill(signal.SIGTERM, name)
        assert (await container.wait_exec(name)).status == 143
        with pytest.raises(NotFoundError, match="has ended"):
            await container.kill(signal.SIGTERM, name)

    play(scenario)


@pytest.mark.parametrize("own_pid_namespace", [True, False])
def test_the_inits_end_is_the_last_and_nothing_is_started_after_it(play: Play, own_pid_namespace: bool) -> None:
    async def scenario(bench: Bench) -> None:
        def change(spec: dict[str, Any]) -> None:
            if not own_pid_namespace:
                kinds = spec["linux"]["namespaces"]
                spec["linux"]["namespaces"] = [each for each in kinds if each["type"] != "pid"]

        container = await bench.running(change=change)
        late = await bench.add(container, "/bin/true")
        names = [await bench.add(container, *LONG) for _ in range(3)]
        for name in names:
            await container.start_exec(name)
        order: list[str] = []

        async def follow(name: str) -> None:
            ended = await (container.wait_exec(name) if name else container.wait_timeout(10))
            assert ended is not None
            assert ended.status == 137
            order.append(name)

        following = [asyncio.create_task(follow(name)) for name in ("", *names)]
        await asyncio.sleep(0)
        await container.kill(signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*following), 10)
        assert order[-1] == ""
        with pytest.raises(FailedPreconditionError, match="has ended"):
            await container.start_exec(late)
        with pytest.raises(FailedPreconditionError, match="no process can be added"):
            await bench.add(container, "/bin/true")

    play(scenario)


def test_an_init_that_dies_at_any_moment_of_a_start_leaves_nothing(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        for delay in (0.0, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02):
            container = await bench.running()
            name = await bench.add(container, *LONG)
            starting = asyncio.create_task(container.start_exec(name))
            await asyncio.sleep(delay)
            await container.kill(signal.SIGKILL)
            with suppress(FailedPreconditionError):
                await asyncio.wait_for(starting, 10)
                assert (await container.wait_exec(name)).status == 137
            assert await container.wait_timeout(10) is not None

    play(scenario)


def test_a_first_process_that_is_killed_takes_the_second_with_it(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = exec_child._fork

    def dying(task: exec_child.ExecTask) -> int:
        pid = fork(task)
        if pid:
            os.kill(os.getpid(), signal.SIGKILL)
        return pid

    monkeypatch.setattr(exec_child, "_fork", dying)

    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        name = await bench.add(container, *LONG)
        with pytest.raises(ShimError, match="was killed while it entered"):
            await container.start_exec(name)
        await asyncio.sleep(0.1)
        assert [each.pid for each in await container.pids()] == [container.container.pid]

    play(scenario)


def test_in_a_paused_container_nothing_is_started(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running()
        cgroup = container.container._cgroup
        name = await bench.add(container, "/bin/true")
        cgroup.freeze()
        try:
            with pytest.raises(FailedPreconditionError, match=r"is paused: .* resume it first"):
                await container.start_exec(name)
        finally:
            cgroup.thaw()
        await container.start_exec(name)
        assert (await container.wait_exec(name)).status == 0

    play(scenario)


def test_a_limit_of_processes_that_is_reached_is_named(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.running(
            change=lambda spec: spec["linux"]["resources"].__setitem__("pids", {"limit": 1})
        )
        name = await bench.add(container, "/bin/true")
        with pytest.raises(ResourceExhaustedError, match=r"linux\.resources\.pids"):
            await container.start_exec(name)

    play(scenario)


def test_a_container_that_waits_for_its_start_can_be_executed_in(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        container = await bench.container()
        assert await bench.run(container, "/bin/readlink", "/proc/1/exe") == (1, "")
        await container.start()
        assert await bench.run(container, "/bin/readlink", "/proc/1/exe") == (0, "/bin/busybox\n")

    play(scenario)


# ------------------------------------------------------------------------------------------------- hostile containers


@pytest.mark.parametrize("cwd", [f"/proc/self/fd/{number}" for number in range(3, 16)] + ["/proc/1/cwd/../../.."])
def test_no_descriptor_of_the_host_can_be_the_working_directory(play: Play, cwd: str) -> None:
    """CVE-2024-21626: a directory of the host's that was open led out of the container."""

    async def scenario(bench: Bench) -> None:
        container = await bench.running(files={"/in-container": ""})
        try:
            status, said = await bench.run(container, "/bin/ls", ".", cwd=cwd)
        except InvalidArgumentError:
            pass
        else:
            assert (status, "in-container" in said) == (0, True)

    play(scenario)


class Stopped:
    """An executor that stays where it is just before the program, so that the container can look at it."""

    def prepare(self, inside: Inside) -> Preparation:
        assert os.path.exists("/proc/self/fd"), "the host's root is there still"
        del inside
        return Preparation()

    def run(self, channel: Channel) -> int:
        channel.send({"kind": "running"})
        time.sleep(1000)
        return 0


class StoppedInstance(ContainerInstance):
    def make_exec_executor(self, process: Process) -> Any:
        return Stopped() if process.args[0] == "stop" else super().make_exec_executor(process)


def test_until_it_is_the_program_no_other_process_of_the_container_can_look_into_it(play: Play) -> None:
    """CVE-2016-9962 and CVE-2019-5736: what runs before the program has the host's interpreter and memory."""

    async def scenario(bench: Bench) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["maskedPaths"] = []

        container = await bench.running(kind=StoppedInstance, change=change)
        name = await bench.add(container, "stop")
        pid = await container.start_exec(name)
        inside = Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split()[1]
        for file in ("exe", "cwd", "root", "ns/mnt"):
            assert await bench.run(container, "/bin/readlink", f"/proc/{inside}/{file}") == (1, ""), file
        line = next(each for each in os.listdir(f"/proc/{pid}/fd") if int(each) > 2)
        for file in ("environ", "maps", "mem", f"fd/{line}", "exe"):
            status, said = await bench.run(container, "/bin/cat", f"/proc/{inside}/{file}")
            assert (status, "ermission denied" in said) == (1, True), (file, said)
        caps = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("CapPrm")]
        init = [
            line
            for line in Path(f"/proc/{container.container.pid}/status").read_text().splitlines()
            if "CapPrm" in line
        ]
        assert caps == init, "it has what the container has, and no more"

    play(scenario)


def test_a_process_that_enters_is_not_seen_while_it_has_the_rights_of_the_host(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = exec_child._enter

    def slow(task: exec_child.ExecTask) -> Any:
        site = enter(task)
        os.write(1, b"entered")
        time.sleep(0.5)
        return site

    monkeypatch.setattr(exec_child, "_enter", slow)

    async def scenario(bench: Bench) -> None:
        container = await bench.running("/bin/sh", "-c", "while :; do ps > /seen.new; busybox mv /seen.new /seen; done")
        name = await bench.add(container, "/bin/true")
        starting = asyncio.create_task(container.start_exec(name))
        while bench.said(name) != "entered":
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        seen = Path(container.config.bundle, "rootfs", "seen").read_text()
        assert "shim-exec" not in seen
        assert {line.split()[0] for line in seen.splitlines()[1:]} <= {"1", *map(str, range(2, 100_000))}
        await starting

    play(scenario)


_INTERPRETER = """
static long call(long number, const void *first, long second) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
    return result;
}
void _start(void) {
    long opened = call(2, "/proc/self/exe", 1); /* open(2), O_WRONLY */
    call(60, (void *)(opened < 0 ? -opened : 200), 0);
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64" or shutil.which("cc") is None, reason="needs cc, for x86_64")
def test_a_program_that_names_itself_gets_nothing_that_can_be_written(play: Play, tmp_path: Path) -> None:
    """CVE-2019-5736: `#!/proc/self/exe` makes of this interpreter a program of the container's, with its own loader."""
    source, loader = tmp_path / "loader.c", tmp_path / "loader"
    source.write_text(_INTERPRETER)
    subprocess.run(["cc", "-static", "-nostdlib", "-fno-stack-protector", "-o", loader, source], check=True)

    async def scenario(bench: Bench) -> None:
        container = await bench.running(files={"/trap": "#!/proc/self/exe\n"})
        lib = Path(container.config.bundle) / "rootfs" / "lib64"
        lib.mkdir()
        shutil.copy(loader, lib / "ld-linux-x86-64.so.2")
        status, _ = await bench.run(container, "/trap")
        assert status == errno.ETXTBSY, "the kernel lets nobody write to it while a shim or a zygote runs"

    play(scenario)
