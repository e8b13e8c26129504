"""critest, the suite of Kubernetes' container runtime interface: against our shim as a handler, and against runc.

    python scripts/lib/cri_conformance.py [--write-docs] [--focus WORDS] CONTAINERD CRI_TOOLS

CONTAINERD is the directory of a containerd's programs, CRI_TOOLS that of crictl and critest. Each handler gets a
private containerd and the same images: stand-ins for those that the suite would fetch, made of Debian's static busybox
and of two programs in C. What needs others is left out: pulling images, AppArmor, SELinux, benchmarks. The exit status
is 0 when our handler passes all that runc's passes; with --write-docs the table goes into docs/conformance.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import conformance
from harness.containerd import Install, find_install
from harness.cri import PAUSE_IMAGE, RUNC, WASMTIME, WASMTIME_BY_PATH, CriContainerd
from harness.images import BUSYBOX, NativeImage

BEGIN, END = "<!-- cri: begin -->", "<!-- cri: end -->"
SKIPPED = "image|Image|AppArmor|SELinux|enchmark|OCI artifact"
_TIMEOUT = 900  # seconds for one handler
_PREFIX = "registry.k8s.io/e2e-test-images"

_PAUSE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""
_WHO = """
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("Effective uid: %d\\n", (int)geteuid()) < 0; }
"""
_SERVER = """#!/bin/sh
mkdir -p /var/run
echo $$ >/var/run/nginx.pid
echo httpd is served by {name}
httpd -f -p {port} -h /html &
server=$!
trap 'kill $server; exit 0' TERM QUIT
wait
"""
_PGREP = """#!/bin/sh
for process in /proc/[0-9]*; do
  read -r name <$process/comm && [ "$name" = "$1" ] && echo ${process#/proc/}
done 2>/dev/null
exit 0
"""
_USERS = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nwww-data:x:33:33::/:/bin/sh\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n"


def images(compiled: Path) -> list[NativeImage]:
    """The stand-ins. *compiled* is a directory for what is compiled on the way. Raises: CalledProcessError."""
    commands = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    common = {
        "bin/busybox": Path(BUSYBOX).read_bytes(),
        "bin/ipcs": b"#!/bin/sh\ncat /proc/sysvipc/shm\n",
        "bin/ls": Path(BUSYBOX).read_bytes(),  # a file of its own, which can be hidden
        "bin/pgrep": _PGREP.encode(),
        "etc/passwd": _USERS.encode(),
        "etc/group": _GROUPS.encode(),
        "tmp/empty": b"",
    }
    links = {f"bin/{name}": "busybox" for name in commands if f"bin/{name}" not in common}

    def image(reference: str, entrypoint: list[str], **programs: bytes) -> NativeImage:
        own = {name.replace("__", "/"): content for name, content in programs.items()}
        return NativeImage(reference, {**common, **own}, links, entrypoint, setuid=frozenset({"who"}))

    def server(name: str, port: int) -> dict[str, bytes]:
        return {f"bin__{name}": _SERVER.format(name=name, port=port).encode(), "html__index.html": b"served\n"}

    return [
        image(PAUSE_IMAGE, ["/pause"], pause=_compile(_PAUSE, compiled / "pause")),
        image(f"{_PREFIX}/busybox:1.29-2", ["/bin/sh"]),
        image(f"{_PREFIX}/nginx:1.14-2", ["/bin/nginx", "master process"], **server("nginx", 80)),
        image(
            "gcr.io/k8s-staging-cri-tools/hostnet-nginx-amd64:latest",
            ["/bin/nginx", "master process"],
            **server("nginx", 12003),
        ),
        image(f"{_PREFIX}/httpd:2.4.39-4", ["/bin/apache"], **server("apache", 80)),
        image(f"{_PREFIX}/nonewprivs:1.3", ["/who"], who=_compile(_WHO, compiled / "who")),
    ]


def _compile(source: str, target: Path) -> bytes:
    code = target.with_suffix(".c")
    code.write_text(source)
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-static", "-O1", "-o", target, code], check=True)
    return target.read_bytes()


def run(install: Install, cri_tools: Path, handler: str, focus: str) -> dict[str, str]:
    """Run the suite against one handler of a private containerd: what became of each specification, by its name.

    Raises: RuntimeError, when the suite or containerd did not do what they should; CalledProcessError, TimeoutExpired.
    """
    shims = str(Path(sys.executable).parent)
    version = 2 if install.major == 1 else 3
    daemon = CriContainerd(install, shims, str(cri_tools / "crictl"), config_version=version, maps_ports=True)
    try:
        daemon.start()
        for each in images(Path(daemon.directory)):
            tar = f"{daemon.directory}/image.tar"
            each.write(tar)
            daemon.import_image(tar)
        report = Path(daemon.directory, "report.xml")
        socket = f"unix://{daemon.address}"
        command = [f"{cri_tools}/critest", "--runtime-endpoint", socket, "--image-endpoint", socket]
        command += ["--runtime-handler", handler, "--ginkgo.skip", SKIPPED, "--ginkgo.junit-report", str(report)]
        command += ["--ginkgo.no-color", "--ginkgo.focus", focus]
        with open(cri_tools / f"{handler}.log", "w") as log:
            subprocess.run(command, stdout=log, stderr=log, env=daemon.environment, timeout=_TIMEOUT, check=False)
        found = parse_report(report.read_text())
        if others := sorted(name for name, status in found.items() if status not in ("passed", "failed", "skipped")):
            raise RuntimeError(f"critest did not come to its end: {others[0]} and {len(others) - 1} more")
        return found
    finally:
        daemon.destroy()


def parse_report(text: str) -> dict[str, str]:
    """What became of each specification in a report of JUnit's form: `passed`, `failed`, `skipped`..."""
    found = ElementTree.fromstring(text).iter("testcase")
    names = ((each.get("name", ""), each.get("status", "")) for each in found)
    return {name.removeprefix("[It] "): status for name, status in names if name.startswith("[It] ")}


def table(ours: dict[str, str], theirs: dict[str, str], versions: tuple[str, str]) -> str:
    """The counts, and each specification that ended otherwise for one than for the other, as a table of Markdown."""
    lines = [f"| specifications | {versions[0]} | {versions[1]} |", "|---|---|---|"]
    for status in ("passed", "failed", "skipped"):
        counts = (sum(each == status for each in found.values()) for found in (ours, theirs))
        lines.append(f"| {status} | {' | '.join(map(str, counts))} |")
    for name in sorted(ours.keys() | theirs.keys()):
        pair = ours.get(name, "-"), theirs.get(name, "-")
        if pair[0] != pair[1] or "failed" in pair:
            lines.append(f"| {name.removeprefix('[k8s.io] ')} | {' | '.join(pair)} |")
    return "\n".join(lines)


def falling_short(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The specifications that runc's containers meet and ours do not."""
    return sorted(name for name, status in theirs.items() if status == "passed" and ours.get(name) != "passed")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("containerd", type=Path)
    parser.add_argument("cri_tools", type=Path)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--focus", default="")
    args = parser.parse_args()
    install = find_install(str(args.containerd))
    if install is None:
        print(f"no containerd in {args.containerd}", file=sys.stderr)
        return 2
    began = time.monotonic()
    handler = WASMTIME if install.major == 1 else WASMTIME_BY_PATH
    ours, theirs = (run(install, args.cri_tools, each, args.focus) for each in (handler, RUNC))
    text = table(ours, theirs, (f"ours, containerd {install.version}", conformance.version_of("runc")))
    if args.write_docs:
        conformance.write_docs(conformance.ROOT / "docs" / "conformance.md", text, BEGIN, END)
    print(text)
    behind = falling_short(ours, theirs)
    outcome = f"falls short of runc: {', '.join(behind)}" if behind else "does not fall short of runc"
    print(f"{time.monotonic() - began:.0f} s; {outcome}; the suite's words are in {args.cri_tools}")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
