"""Containers whose root is not the host's, as runc makes them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shim_wasm_test_modules import HELLO_WORLD, SPINNER
from containerd_shimkit import InvalidArgumentError, PermissionDeniedError
from containerd_shimkit.linux.capabilities import CAPABILITIES, permitted_mask
from harness.images import BUSYBOX
from harness.native import RUNC, Change, run_by_runc, run_in_pod
from harness.pod import Pod, pod

pytestmark = pytest.mark.root

Play = Callable[[Callable[[Pod], Awaitable[None]]], None]
ROOT = 100_000  # who root is on the host
SIZE = 65_536
BUSY = "/bin/busybox"
CAN_RAISE = bool(permitted_mask() >> CAPABILITIES["CAP_SYS_RESOURCE"] & 1)
HIGHER = resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1
OWN = (
    *("Pid", "PPid", "Tgid", "Ngid", "NSpid", "NStgid", "NSpgid", "NSsid", "Vm", "Rss", "Hugetlb", "voluntary"),
    *("nonvol", "Speculation", "Cpus", "Mems", "SigQ", "State", "Threads", "THP", "untag", "x86", "Core"),
)


@pytest.fixture
def play(shim_directory: str) -> Play:
    if os.geteuid():
        pytest.skip("containers need root")

    def run(scenario: Callable[[Pod], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with pod(os.path.join(shim_directory, "containerd-shim-wasmtime-v1")) as made:
                made.directory.chmod(0o700)  # only the host's root need reach a root file system
                await scenario(made)

        asyncio.run(whole())

    return run


def mapped(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": ROOT, "size": SIZE}]


def mapped_and(path: str, value: object) -> Change:
    def change(spec: dict[str, Any]) -> None:
        mapped(spec)
        *parents, last = path.split(".")
        target = spec
        for name in parents:
            target = target.setdefault(name, {})
        target[last] = value

    return change


def own(root: Path) -> None:
    """Give a root file system to the container's root."""
    for path in (root, *root.rglob("*")):
        os.chown(path, ROOT, ROOT, follow_symlinks=False)


def own_within_reach(root: Path) -> None:
    """The same for runc, whose container's root walks to it."""
    own(root)
    for parent in root.parents:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o011)


async def shell(pod: Pod, script: str, change: Change = mapped) -> str:
    return await run_in_pod(pod, script, change, own_root=own)


def test_the_ids_inside_are_those_that_were_mapped(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        script = f"{BUSY} cat /proc/self/uid_map /proc/self/gid_map; {BUSY} id -u; {BUSY} cat /proc/self/setgroups"
        said = (await shell(pod, script)).split()
        assert said == ["0", str(ROOT), str(SIZE)] * 2 + ["0", "allow"]

    play(scenario)


def test_what_it_writes_is_its_own_on_the_host(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        change = mapped_and("process.user", {"uid": 1000, "gid": 1001, "additionalGids": [7]})
        container = pod.container(
            [BUSY, "sh", "-c", f"{BUSY} touch /data/file; {BUSY} id; {BUSY} stat -c %u:%g /data/file /bin"],
            {BUSY: Path(BUSYBOX).read_bytes(), "/data/other": b""},
            change=change,
        )
        own(container.rootfs)
        (container.rootfs / "data").chmod(0o777)
        await container.create()
        await container.start()
        assert await container.wait() == 0, container.stderr
        assert container.stdout.split("\n")[:3] == ["uid=1000 gid=1001 groups=7", "1000:1001", "0:0"]
        found = (container.rootfs / "data/file").stat()
        assert (found.st_uid, found.st_gid) == (ROOT + 1000, ROOT + 1001)

    play(scenario)


def test_every_new_namespace_belongs_to_it(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            mapped(spec)
            spec["linux"]["namespaces"] += [{"type": "cgroup"}, {"type": "time"}]
            spec["linux"]["timeOffsets"] = {"boottime": {"secs": 864000}}
            spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
            for names in spec["process"]["capabilities"].values():
                names += ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]
            spec["hostname"] = "inside"

        script = (
            f"{BUSY} hostname; {BUSY} hostname other; {BUSY} hostname; {BUSY} ip link set lo down && echo network; "
            f"{BUSY} mount -t tmpfs none /run && echo mount; {BUSY} cat /proc/sys/net/ipv4/ip_forward; "
            f"{BUSY} cat /proc/uptime; {BUSY} ls -d /proc/[0-9]*"
        )
        *said, uptime, processes = (await shell(pod, script, change)).splitlines()[:7]
        assert said == ["inside", "other", "network", "mount", "1"]
        assert float(uptime.split()[0]) > 864000
        assert processes == "/proc/1"

    play(scenario)


def test_its_devices_are_the_hosts_and_work(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        device = {"path": "/dev/extra/zero", "type": "c", "major": 1, "minor": 5}
        script = (
            f"echo x >/dev/null && {BUSY} head -c 3 /dev/zero | {BUSY} wc -c; {BUSY} stat -c %t:%T /dev/full; "
            f"{BUSY} test -p /dev/pipe && echo pipe; {BUSY} mknod /dev/x c 1 3 2>/dev/null || echo no"
        )
        pipe = {"path": "/dev/pipe", "type": "p", "uid": 5, "gid": 5}
        assert (await shell(pod, script, mapped_and("linux.devices", [pipe]))).split() == ["3", "1:7", "pipe", "no"]
        with pytest.raises(InvalidArgumentError, match="/dev/extra/zero exists on the host"):
            await shell(pod, script, mapped_and("linux.devices", [device]))
        device = {"path": "/dev/zero", "type": "c", "major": 1, "minor": 3}
        with pytest.raises(InvalidArgumentError, match="the host has another file there"):
            await shell(pod, script, mapped_and("linux.devices", [device]))

    play(scenario)


def test_a_source_that_only_the_hosts_root_can_reach_is_shown_all_the_same(play: Play, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_text("shown\n")
    (secret / "file").chmod(0o644)

    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            mapped(spec)
            spec["mounts"].append(
                {"destination": "/file", "type": "bind", "source": str(secret / "file"), "options": ["bind", "ro"]}
            )

        assert await shell(pod, f"{BUSY} cat /file; {BUSY} stat -c %u /file", change) == "shown\n65534\n"

    play(scenario)


def test_a_volume_of_mapped_ids_is_the_containers_own(play: Play, tmp_path: Path) -> None:
    """As a pod with users of its own gets it: on disk it is the host's root's, for the container's root its own."""
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)

    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            mapped(spec)
            mappings = [{"containerID": 0, "hostID": ROOT, "size": SIZE}]
            spec["mounts"].append(
                {
                    "destination": "/volume",
                    "type": "bind",
                    "source": str(volume),
                    "options": ["rbind", "rw"],
                    "uidMappings": mappings,
                    "gidMappings": mappings,
                }
            )

        script = f"echo x >/volume/file && {BUSY} stat -c %u:%g /volume /volume/file"
        try:
            said = await shell(pod, script, change)
        except InvalidArgumentError as error:
            pytest.skip(f"the file system here has no mapped mounts: {error}")
        assert said.split() == ["0:0", "0:0"]
        status = (volume / "file").stat()
        assert (status.st_uid, status.st_gid) == (0, 0)

    play(scenario)


def test_its_control_groups_can_be_mounted(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            mapped(spec)
            spec["linux"]["namespaces"].append({"type": "cgroup"})
            options = ["nosuid", "noexec", "nodev", "relatime", "ro"]
            spec["mounts"].append(
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}
            )

        said = await shell(pod, f"{BUSY} cat /proc/self/cgroup; {BUSY} find /sys/fs/cgroup -name cgroup.procs", change)
        assert ":/\n" in said
        assert "/cgroup.procs" in said

    play(scenario)


@pytest.mark.skipif(not CAN_RAISE, reason="it takes CAP_SYS_RESOURCE")
def test_limits_above_the_shims_own_can_be_given(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": HIGHER}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 5}]
        said = await shell(pod, "ulimit -Sn; ulimit -Hn; ulimit -Sc", mapped_and("process.rlimits", limits))
        assert said.split() == ["100", str(HIGHER), "0"]

    play(scenario)


@pytest.mark.skipif(not CAN_RAISE, reason="it takes CAP_SYS_RESOURCE")
def test_a_negative_oom_score_is_set_by_the_hosts_root(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        change = mapped_and("process.oomScoreAdj", -10)
        assert await shell(pod, f"{BUSY} cat /proc/self/oom_score_adj", change) == "-10\n"

    play(scenario)


def test_what_takes_the_hosts_privileges_is_refused(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        with pytest.raises(PermissionDeniedError, match="SetScheduler"):
            await shell(pod, "true", mapped_and("process.scheduler", {"policy": "SCHED_OTHER", "nice": -5}))

    play(scenario)


def test_a_wasm_guest_runs_in_one(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        wasm = "/app/program.wasm"
        container = pod.container([wasm], {wasm: HELLO_WORLD.bytes}, change=mapped)
        own(container.rootfs)
        pid = await container.create()
        assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", str(ROOT), str(SIZE)]
        assert os.stat(f"/proc/{pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino
        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(ROOT)] * 4
        assert status["NSpid"].split() == [str(pid), "1"]
        await container.start()
        assert await container.wait() == 0
        assert container.stdout == "hello world\n"

    play(scenario)


def test_others_join_it_by_its_path(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        wasm = "/app/program.wasm"
        first = pod.container([wasm], {wasm: SPINNER.bytes}, change=mapped)
        own(first.rootfs)
        pid = await first.create()
        await first.start()

        def joined(*ranges: dict[str, int]) -> Change:
            def change(spec: dict[str, Any]) -> None:
                spec["linux"]["namespaces"] = [
                    {"type": kind, "path": f"/proc/{pid}/ns/{file}"}
                    for kind, file in (("user", "user"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
                ]
                spec["linux"]["namespaces"] += [{"type": "mount"}, {"type": "pid"}]
                for kind in ("uid", "gid") if ranges else ():
                    spec["linux"][f"{kind}Mappings"] = list(ranges)

            return change

        links = f"{BUSY} readlink /proc/self/ns/user; {BUSY} readlink /proc/self/ns/net"
        script = f"{links}; echo $$; {BUSY} cat /proc/self/uid_map"
        expected = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "net")]
        whole = {"containerID": 0, "hostID": ROOT, "size": SIZE}
        for change in (joined(), joined(whole)):
            said = (await shell(pod, script, change)).split()
            assert said == [*expected, "1", "0", str(ROOT), str(SIZE)]
        with pytest.raises(InvalidArgumentError, match=r"linux\.uidMappings is not what the namespace has"):
            await shell(pod, script, joined({**whole, "size": 10}))
        await first.call("Kill", signal=signal.SIGKILL)
        assert await first.wait() == 137

    play(scenario)


def test_the_shims_own_is_no_other(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{os.getpid()}/ns/user"})

        with pytest.raises(InvalidArgumentError, match="it must not be the shim's own"):
            await shell(pod, "true", change)

    play(scenario)


def test_no_descriptor_of_the_hosts_is_left(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        said = await shell(pod, f"exec {BUSY} ls /proc/self/fd")
        assert said.split() == ["0", "1", "2", "3"], "the last is of ls itself"

    play(scenario)


def test_hooks_see_the_process_that_will_run(play: Play, tmp_path: Path) -> None:
    seen = tmp_path / "state"

    async def scenario(pod: Pod) -> None:
        change = mapped_and("hooks.createRuntime", [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {seen}"]}])
        container = pod.container([BUSY, "sleep", "1000"], {BUSY: Path(BUSYBOX).read_bytes()}, change=change)
        own(container.rootfs)
        pid = await container.create()
        assert json.loads(seen.read_text())["pid"] == pid
        assert "1" in Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()

    play(scenario)


def test_a_pod_of_many_and_signals(play: Play) -> None:
    """From the third on they are forked by a helper; and each ends as any container does."""

    async def scenario(pod: Pod) -> None:
        files = {BUSY: Path(BUSYBOX).read_bytes()}
        containers = [pod.container([BUSY, "sleep", "1000"], files, change=mapped) for _ in range(5)]
        for each in containers:
            own(each.rootfs)
            pid = await each.create()
            assert await each.start() == pid
        for each in containers:
            assert [process.pid for process in (await each.call("Pids")).processes] == [(await each.call("State")).pid]
            await each.call("Kill", signal=signal.SIGKILL)
            assert await each.wait() == 137
            await each.delete()

    play(scenario)


@pytest.mark.parametrize(
    ("namespaces", "pid"),
    [([{"type": "mount"}, {"type": "user"}], False), ([{"type": "mount"}, {"type": "user"}, {"type": "pid"}], True)],
)
def test_the_pid_namespace_is_another_matter(play: Play, namespaces: list[dict[str, str]], pid: bool) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, Any]) -> None:
            mapped(spec)
            spec["linux"]["namespaces"] = namespaces
            # what a procfs, a sysfs or a mqueue shows belongs to namespaces that the container does not have here
            spec["mounts"] = [each for each in spec["mounts"] if each["type"] not in ("proc", "sysfs", "mqueue")]
            spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []

        assert (await shell(pod, "echo $$", change) == "1\n") is pid

    play(scenario)


@pytest.mark.skipif(RUNC is None, reason="runc is not installed")
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_process_is_what_runc_makes_it(play: Play, tmp_path: Path, uid: int) -> None:
    change = mapped_and("process.user", {"uid": uid, "gid": uid, "additionalGids": [uid, 5]})
    status = f"{BUSY} grep -v -E '^({'|'.join(OWN)})' /proc/self/status"
    script = (
        f"{status}; umask; {BUSY} id; {BUSY} cat /proc/self/uid_map /proc/self/limits; {BUSY} ls -ln /dev; "
        f"{BUSY} cut -d ' ' -f 4- /proc/self/mountinfo | {BUSY} grep -v ' / / '"
    )

    async def scenario(pod: Pod) -> None:
        ours = await shell(pod, script, change)
        theirs = run_by_runc(tmp_path, script, change, own_root=own_within_reach)
        assert _shown(ours) == _shown(theirs)

    play(scenario)


def _shown(text: str) -> list[str]:
    """The lines but that of /dev/mqueue, whose group runc leaves to nobody; without times, and the size of masks."""
    lines = (" ".join(line.split()) for line in text.splitlines() if not line.endswith("mqueue"))
    return sorted(re.sub(r"\S+/rootfs |size=0k,|[A-Z][a-z]{2} \d+ \d\d:\d\d ", "", line) for line in lines)
