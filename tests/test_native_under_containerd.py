"""`ctr run` of a native image with our shim shows what it shows with runc's, for what ctr can ask of a container."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest
from containerd_shimkit.linux.capabilities import capability_names, permitted_mask
from harness.containerd import Containerd

pytestmark = [pytest.mark.root, pytest.mark.containerd]

OURS = ("--runtime", "io.containerd.wasmtime.v1")
THEIRS = ("--runtime", "io.containerd.runc.v2")
SCRIPT = """
cat /proc/self/status; cat /proc/self/limits
while read -r _ _ _ root point options _; do echo "$root $point $options"; done < /proc/self/mountinfo
ls -ln /dev; id; umask; pwd; hostname; env; cat /proc/self/oom_score_adj; ls /proc/self/fd
for each in cgroup ipc mnt net pid user uts; do test -e /proc/self/ns/$each && echo $each; done
touch /x /dev/x /sys/x 2>&1; cat /proc/1/comm
"""
_VARYING = re.compile(
    r"^(Name|Pid|Tgid|NS\w*|PPid|Ngid|FDSize|Vm\w+|Rss\w+|Hugetlb\w+|Threads|SigQ|\w+ctxt_switches|Speculation\w*|"
    r"TracerPid|CoreDumping|Kthread|x86_Thread\w+|untag_mask|Max pending signals|Max processes)"
)
CASES = {
    "nothing": (),
    "seccomp": ("--seccomp",),
    "read-only": ("--read-only",),
    "user": ("--user", "1000:1000"),
    "capabilities": ("--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_NET_ADMIN"),
    "device": ("--device", "/dev/zero"),
    "memory": ("--memory-limit", str(64 << 20)),
    "cpus": ("--cpus", "0.5"),
    "mount": ("--mount", "type=bind,src=/usr/share,dst=/volume,options=rbind:ro"),
    "privileged": ("--privileged",),
    "hostname": ("--hostname", "somewhere"),
    "host network": ("--net-host",),
    "environment": ("--env", "A=1", "--env", "B=two words"),
    "directory": ("--cwd", "/bin"),
}


def looked_at(containerd: Containerd, runtime: tuple[str, ...], flags: tuple[str, ...], image: str) -> list[str]:
    name = f"n{secrets.token_hex(4)}"
    done = containerd.ctr("run", "--rm", *runtime, *flags, image, name, "/bin/sh", "-c", SCRIPT)
    return [_steady(line.replace(name, "NAME")) for line in done.stdout.splitlines() if not _VARYING.match(line)]


def _steady(line: str) -> str:
    line = re.sub(r"^/null (\S+) .*", r"/null \1", line)  # over a masked file: the host's here, the container's there
    line = re.sub(r"\s+\w{3}\s+\d+ \d\d:\d\d ", " ", line)  # when it was made
    return re.sub(r"^/\S*snapshots/\d+/fs|^/containers/\S+", "SNAPSHOT", line)


@pytest.mark.parametrize("case", CASES)
def test_a_container_is_as_runcs(containerd: Containerd, busybox_tar: Path, leftovers: None, case: str) -> None:
    if CASES[case][:1] in (("--user",), ("--hostname",)) and containerd.install.major < 2:
        pytest.skip(f"the ctr of 1.x has no {CASES[case][0]}")
    if case == "privileged" and "CAP_SYS_RESOURCE" not in capability_names(permitted_mask()):
        pytest.skip("runc needs every capability for --privileged, and this root lacks CAP_SYS_RESOURCE")
    (image,) = containerd.import_image(busybox_tar)
    ours, theirs = (looked_at(containerd, runtime, CASES[case], image) for runtime in (OURS, THEIRS))
    assert ours == theirs
