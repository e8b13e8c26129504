"""A native container of ours looks, from inside and from its cgroup, as runc's of the same config.json does."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.linux.capabilities import CAPABILITIES
from harness.oci import Bundle, lay_out

pytestmark = pytest.mark.root

Spec = dict[str, Any]
Change = Callable[[Spec], object]

SCRIPT = """
section() { echo "== $1"; }
section status; cat /proc/self/status
section limits; cat /proc/self/limits
section mounts; cat /proc/self/mountinfo
section devices; ls -ln /dev /dev/pts
section root; ls -ln / | grep -v -e proc -e total
section id; id; umask; pwd; hostname; cat /proc/sys/kernel/domainname
section env; env
section oom; cat /proc/self/oom_score_adj
section net; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward
section files; ls /proc/self/fd
section hidden; for f in kcore keys timer_list uptime; do grep -q . /proc/$f 2>&1 && echo $f; done
section firmware; ls /sys/firmware 2>&1
section read-only; echo x 2>&1 > /proc/sys/kernel/domainname
section writable; touch /x /dev/x /run/x /sys/x 2>&1; rm -f /x
section namespaces; for n in cgroup ipc mnt net pid user uts; do test -e /proc/1/ns/$n && echo $n; done
section cmdline; tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm
"""

# Numbers of this very process, this very mount, this very moment.
_VARYING = re.compile(
    r"^(Name|Pid|Tgid|NS\w*|PPid|Ngid|FDSize|Vm\w+|Rss\w+|Hugetlb\w+|Threads|SigQ|\w+ctxt_switches|Speculation\w*|"
    r"TracerPid|CoreDumping|Kthread|x86_Thread\w+|untag_mask):"
)
_MAJOR_MINOR = re.compile(r"^\d+ \d+ (\d+:\d+) ")

ALL = sorted(CAPABILITIES)
SETS = ("bounding", "effective", "permitted")
HAS = [each for each in ALL if each != "CAP_SYS_RESOURCE"]  # what a confined root may be without


def process(**values: Any) -> Change:
    return lambda spec: spec["process"].update(values)


def user(**values: Any) -> Change:
    return lambda spec: spec["process"]["user"].update(values)


def capabilities(**sets: list[str]) -> Change:
    return lambda spec: spec["process"].update(capabilities=sets)


def resources(**values: Any) -> Change:
    return lambda spec: spec["linux"]["resources"].update(values)


def linux(**values: Any) -> Change:
    return lambda spec: spec["linux"].update(values)


def mount(**entry: Any) -> Change:
    return lambda spec: spec["mounts"].append(entry)


def without_namespace(kind: str) -> Change:
    def change(spec: Spec) -> None:
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != kind]

    return change


def with_namespace(kind: str) -> Change:
    return lambda spec: spec["linux"]["namespaces"].append({"type": kind})


def several(*changes: Change) -> Change:
    def change(spec: Spec) -> None:
        for each in changes:
            each(spec)

    return change


def privileged(spec: Spec) -> None:
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), HAS)
    spec["process"]["noNewPrivileges"] = False
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])
    spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for each in spec["mounts"]:
        if each["type"] in ("sysfs", "cgroup"):
            each["options"].remove("ro")


ZERO = {"type": "c", "major": 1, "minor": 5}

CASES: dict[str, Change] = {
    "the default": lambda spec: None,
    "another user": several(user(uid=1000, gid=1000, additionalGids=[5, 1001])),
    "a umask": user(umask=0o027),
    "no capabilities": capabilities(),
    "all capabilities": capabilities(bounding=HAS, effective=HAS, permitted=HAS),
    "ambient capabilities": several(
        user(uid=7, gid=7),
        capabilities(**{kind: ["CAP_KILL"] for kind in (*SETS, "inheritable", "ambient")}),
    ),
    "new privileges": process(noNewPrivileges=False),
    "a read-only root": lambda spec: spec["root"].update(readonly=True),
    "limits": process(
        rlimits=[
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_NPROC", "soft": 500, "hard": 600},
        ]
    ),
    "an oom_score_adj": process(oomScoreAdj=500),
    "memory": resources(memory={"limit": 64 << 20, "reservation": 32 << 20, "swappiness": 10}),
    "cpus": resources(cpu={"shares": 512, "quota": 20000, "period": 50000, "cpus": "0"}),
    "pids": resources(pids={"limit": 50}),
    "a host name": lambda spec: spec.update(hostname="somewhere"),
    "environment": process(env=["PATH=/bin", "A=1", "B=two words", "EMPTY="]),
    "a directory that is not there": process(cwd="/srv/deep"),
    "a device": several(
        linux(
            devices=[{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}]
        ),
        resources(
            devices=[
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
            ]
        ),
    ),
    "a volume": mount(destination="/volume", type="bind", source="/usr/share", options=["rbind", "ro", "nosuid"]),
    "a tmpfs": mount(destination="/run/fast", type="tmpfs", source="tmpfs", options=["size=64k", "noexec"]),
    "privileged": privileged,
    "the host's network": without_namespace("network"),
    "the host's processes": without_namespace("pid"),
    "a cgroup namespace": with_namespace("cgroup"),
    "system calls": linux(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
        }
    ),
    "kernel settings": linux(sysctl={"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}),
    "other paths hidden": linux(maskedPaths=["/proc/uptime", "/usr", "/nowhere"], readonlyPaths=["/run", "/nowhere"]),
}

_CGROUP_FILES = {
    "memory": (
        "memory.limit_in_bytes",
        "memory.soft_limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.swappiness",
    ),
    "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "pids": ("pids.max",),
    "devices": ("devices.list",),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bundle, Bundle]]:
    """The same bundle for our command line and for runc."""
    runc = shutil.which("runc")
    if os.geteuid() or runc is None:
        pytest.skip("needs root, and runc to compare with")
    directory, group = tmp_path_factory.mktemp("beside"), f"beside-{secrets.token_hex(4)}"
    ours = lay_out(directory / "bundle", directory / "ours", cgroups_path=f"/{group}/ours")
    theirs = Bundle(ours.directory, directory / "theirs", runc)
    yield ours, theirs
    ours.end()
    theirs.end()
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        parent = hierarchy / group
        if parent.is_dir():
            parent.rmdir()


def looked_at(bundle: Bundle, change: Change) -> dict[str, list[str]]:
    """What the script sees inside, section by section, without what differs from one process to the next."""
    pristine = bundle.config.read_text()
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", SCRIPT]))
    bundle.change(change)
    try:
        done = bundle.call("run", bundle.new_id())
    finally:
        bundle.config.write_text(pristine)
    found: dict[str, list[str]] = {}
    for block in done.stdout.split("== ")[1:]:
        name, *lines = block.splitlines()
        found[name] = [_steady(name, line) for line in lines if not _VARYING.match(line)]
    return found


def _steady(section: str, line: str) -> str:
    if section == "mounts" and line.split()[3] == "/null":
        return f"/null {line.split()[4]}"  # from /dev here, from the container's own there
    if section == "mounts":  # ids of mounts, of devices, and of peers are the kernel's to give
        left, _, right = line.partition(" - ")
        return " ".join(left.split()[3:6]) + " - " + right.removesuffix(",size=0k")
    if section in ("devices", "root"):
        return re.sub(r"\s+\w{3}\s+\d+ \d\d:\d\d ", " ", re.sub(r"^(d\S+\s+)\d+(\s+\d+\s+\d+)\s+\d+", r"\1\2", line))
    return line


@pytest.mark.parametrize("case", CASES)
def test_inside(bundles: tuple[Bundle, Bundle], case: str) -> None:
    ours, theirs = (looked_at(bundle, CASES[case]) for bundle in bundles)
    assert list(ours) == list(theirs)
    for section, lines in theirs.items():
        assert ours[section] == lines, section


@pytest.mark.parametrize("case", ["the default", "memory", "cpus", "pids", "a device", "privileged"])
def test_the_cgroup(bundles: tuple[Bundle, Bundle], case: str) -> None:
    found: list[dict[str, str]] = []
    for bundle in bundles:
        pristine = bundle.config.read_text()
        bundle.change(CASES[case])
        try:
            id = bundle.create()  # noqa: A001
            pid = int(json.loads(bundle.call("state", id).stdout)["pid"])
            found.append(dict(_figures(pid)))
            bundle.call("delete", "--force", id)
        finally:
            bundle.config.write_text(pristine)
    ours, theirs = found
    assert ours == theirs


def _figures(pid: int) -> Iterator[tuple[str, str]]:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            for file in _CGROUP_FILES.get(name, ()):
                place = Path("/sys/fs/cgroup") / name / path.lstrip("/") / file
                if place.exists():
                    yield file, "\n".join(sorted(place.read_text().split("\n")))
