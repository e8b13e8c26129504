"""Native containers whose specification says more of their process than an ordinary one's; as runc makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, PermissionDeniedError
from harness.native import RUNC, Change, run_by_runc, run_in_pod
from harness.pod import Play, Pod

pytestmark = pytest.mark.root

OWN = (  # what is a process's own, or a matter of luck
    *(
        "Pid",
        "PPid",
        "Tgid",
        "Ngid",
        "NSpid",
        "NStgid",
        "NSpgid",
        "NSsid",
        "Vm",
        "Rss",
        "Hugetlb",
        "voluntary",
        "nonvol",
    ),
    *("Speculation", "Cpus", "Mems", "SigQ", "State", "Threads", "THP", "untag", "x86", "Core"),
)
STATUS = f"/bin/busybox grep -v -E '^({'|'.join(OWN)})' /proc/self/status"


def both(*changes: Change) -> Change:
    def change(spec: dict[str, Any]) -> None:
        for each in changes:
            each(spec)

    return change


def put(path: str, value: object) -> Change:
    def change(spec: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            spec = spec.setdefault(name, {})
        spec[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "script", "expected"),
    [
        (
            put("process.scheduler", {"policy": "SCHED_BATCH", "nice": 11}),
            "/bin/busybox cut -d ' ' -f 19,41 /proc/self/stat",
            "11 3\n",
        ),
        (
            put("process.scheduler", {"policy": "SCHED_OTHER", "nice": -5}),  # its capabilities do not allow it that
            "/bin/busybox cut -d ' ' -f 19,41 /proc/self/stat",
            "-5 0\n",
        ),
        (
            put("process.ioPriority", {"class": "IOPRIO_CLASS_RT", "priority": 3}),
            "/bin/busybox ionice",
            "realtime: prio 3\n",
        ),
        (put("linux.personality", {"domain": "LINUX32"}), "/bin/busybox uname -m", "i686\n"),
        (
            put("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "0"}),
            "/bin/busybox grep -c bind:0 /proc/self/numa_maps >/dev/null && echo yes",
            "yes\n",
        ),
    ],
)
def test_an_attribute_is_the_programs(play: Play, change: Change, script: str, expected: str) -> None:
    async def scenario(pod: Pod) -> None:
        assert await run_in_pod(pod, script, change) == expected

    play(scenario)


def test_a_real_time_policy_wants_its_share_of_the_cgroup(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        change = put("process.scheduler", {"policy": "SCHED_FIFO", "priority": 7})
        script = "/bin/busybox cut -d ' ' -f 40,41 /proc/self/stat"
        if Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists():
            with pytest.raises(PermissionDeniedError, match=r"linux\.resources\.cpu\.realtimeRuntime"):
                await run_in_pod(pod, script, change)
        else:
            assert await run_in_pod(pod, script, change) == "7 1\n"

    play(scenario)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("process.scheduler", {"policy": "SCHED_FIFO"}), "process.scheduler.priority is absent"),
        (
            put("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "1000"}),
            "see its nodes in /sys/devices",
        ),
        (
            put("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 1 << 61, "deadline": 1 << 62}),
            "SetScheduler",
        ),
    ],
)
def test_what_cannot_be_is_named_and_leaves_nothing(play: Play, change: Change, words: str) -> None:
    async def scenario(pod: Pod) -> None:
        with pytest.raises(InvalidArgumentError, match=words):
            await run_in_pod(pod, "true", change)

    play(scenario)


@pytest.mark.skipif(RUNC is None, reason="runc is not installed")
@pytest.mark.parametrize(
    "change",
    [
        both(),
        put("process.user", {"uid": 1000, "gid": 1001, "umask": 0o27, "additionalGids": [5, 7, 1001]}),
        put("process.user", {"uid": 0, "gid": 0, "additionalGids": []}),
        put("process.noNewPrivileges", False),
        put("process.capabilities", None),
    ],
)
def test_a_process_is_what_runc_makes_it(play: Play, tmp_path: Path, change: Change) -> None:
    change = both(put("process.oomScoreAdj", 321), change)  # without it is whatever started it
    script = f"{STATUS}; umask; /bin/busybox cat /proc/self/oom_score_adj /proc/self/limits; /bin/busybox id"

    async def scenario(pod: Pod) -> None:
        ours = await run_in_pod(pod, script, change)
        assert ours.splitlines() == run_by_runc(tmp_path, script, change).splitlines()

    play(scenario)
