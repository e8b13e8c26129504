"""Pods as a kubelet makes them: containerd's CRI, our shim as the handler, wasm and native containers side by side."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import require_install
from containerd_shimkit.linux.id_mapping import open_mapping
from containerd_shimkit.linux.mount_tree import copy_mount, set_attributes
from containerd_shimkit.oci.mount_options import MOUNT_ATTR_IDMAP
from harness.cri import CONTAINER, HOST, PAUSE_IMAGE, PLUGINS, POD, RUNC, WASMTIME, WASMTIME_BY_PATH, CriContainerd
from harness.images import BUSYBOX, NativeImage
from harness.leftovers import assert_clean
from wasi_demo_app.image import WASM_PATH

CRICTL = Path(__file__).parent.parent / ".cache" / "cri-tools" / "crictl"
IMAGE = "docker.io/library/mixed:test"
WASM = "/wasi-demo-app.wasm"
PAUSE = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
COMMANDS = ("cat", "env", "grep", "hostname", "httpd", "id", "ls", "mkdir", "pwd", "sed", "sh", "sleep", "touch")

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", params=["installed", "newest"])
def cri(
    request: pytest.FixtureRequest, shim_directory: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CriContainerd]:
    """A containerd with its CRI: the machine's, and 2.x with the third version of its configuration."""
    install = require_install(request.param)
    if not CRICTL.is_file():
        pytest.skip(f"no {CRICTL}: scripts/test builds it where there is a Go for it")
    if not os.access(f"{PLUGINS}/ptp", os.X_OK):
        pytest.skip(f"no network plugins in {PLUGINS}: scripts/test, run as root on Debian, installs them")
    daemon = CriContainerd(install, shim_directory, str(CRICTL), config_version=2 if install.major == 1 else 3)
    before = daemon.leftovers()
    try:
        daemon.start()
        busybox = Path(BUSYBOX).read_bytes()
        links = {f"bin/{name}": "busybox" for name in COMMANDS}
        programs = {"bin/busybox": busybox, "wasi-demo-app.wasm": Path(WASM_PATH).read_bytes()}
        for reference, entrypoint in ((PAUSE_IMAGE, PAUSE), (IMAGE, ["/bin/sh"])):
            tar = tmp_path_factory.mktemp("images") / "image.tar"
            NativeImage(reference, programs, links, entrypoint).write(tar)
            daemon.import_image(tar)
        yield daemon
        if daemon.pid is None:
            daemon.start()
        daemon.remove_all()
        daemon.stop()
        assert_clean(before)
    finally:
        daemon.destroy()


@pytest.fixture(autouse=True)
def nothing_left(cri: CriContainerd) -> Iterator[None]:
    """Remove the test's pods, and fail if anything of them is left."""
    before = cri.leftovers()
    yield
    cri.remove_all()
    assert_clean(before)


def until(holds: Callable[[], Any], timeout: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := holds()):
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.05)
    return found


def exited(cri: CriContainerd, container: str) -> int:
    """Wait for a container's end; its exit status."""
    until(lambda: cri.inspect(container)["status"]["state"] == "CONTAINER_EXITED")
    status: int = cri.inspect(container)["status"]["exitCode"]
    return status


def logs(cri: CriContainerd, container: str) -> tuple[str, str]:
    done = cri.crictl("logs", container)
    return done.stdout, done.stderr


def last_number(cri: CriContainerd, container: str) -> str:
    """Wait until what the container has said ends with a number; all that it has said."""
    until(lambda: re.search(r"\n\d+\n$", logs(cri, container)[0]))
    return logs(cri, container)[0]


def namespaces(pid: int) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("net", "ipc", "uts", "pid", "mnt")}


def can_map_ids(directory: str) -> bool:
    """Whether mounts of the file system of *directory* can have mapped ids."""

    def work() -> None:
        namespace = open_mapping([(0, 1000, 1)], [(0, 1000, 1)])
        set_attributes(copy_mount(directory, recursive=False), MOUNT_ATTR_IDMAP, user_namespace=namespace)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def security(**context: object) -> dict[str, object]:
    return {"security_context": context}


@pytest.mark.parametrize("pid_mode", [POD, CONTAINER], ids=["one pid namespace", "a pid namespace each"])
def test_wasm_and_native_containers_share_a_pod(cri: CriContainerd, pid_mode: int) -> None:
    options: dict[str, Any] = security(namespace_options={"pid": pid_mode})
    pod = cri.run_pod("pod", **options)
    script = "echo out; echo err >&2; trap 'echo bye; exit 5' TERM; while :; do sleep 0.1; done"
    native = cri.start_container(pod, "pod", "native", IMAGE, ["sh", "-c", script], linux=options)
    wasm = cri.start_container(pod, "pod", "wasm", IMAGE, [WASM, "daemon"], linux=options)

    pids = [cri.inspect(each)["info"]["pid"] for each in (native, wasm)]
    pids.append(json.loads(cri.crictl("inspectp", pod).stdout)["info"]["pid"])
    of_native, of_wasm, of_pause = map(namespaces, pids)
    shared = {"net", "ipc", "uts", *(["pid"] if pid_mode == POD else [])}
    for name in of_pause:
        assert len({of_native[name], of_wasm[name], of_pause[name]}) == (1 if name in shared else 3), name
    addresses = {Path(cri.bundle(each), "address").read_text() for each in (pod, native, wasm)}
    assert len(addresses) == 1, "one shim serves the pod"

    assert until(lambda: logs(cri, wasm)[0].startswith("A little box of wasm"))
    until(lambda: logs(cri, native) == ("out\n", "err\n"))
    for container in (native, wasm):
        done = cri.execute(container, "sh", "-c", "hostname; exit 3")
        assert "exited with 3" in done.stderr, done
        streamed = cri.execute(container, "sh", "-c", "cat; hostname; echo also >&2", sync=False, stdin="typed\n")
        assert (streamed.status, streamed.stdout, streamed.stderr) == (0, "typed\npod\n", "also\n")
        stats = json.loads(cri.crictl("stats", "--output", "json", "--id", container).stdout)["stats"][0]
        assert int(stats["memory"]["workingSetBytes"]["value"]) > 0

    started = time.monotonic()
    cri.crictl("stop", "--timeout", "20", native)
    cri.crictl("stop", "--timeout", "20", wasm)
    assert time.monotonic() - started < 10, "both end by SIGTERM, long before they would be killed"
    assert (exited(cri, native), exited(cri, wasm)) == (5, 143)
    assert logs(cri, native)[0] == "out\nbye\n"


def test_what_ignores_sigterm_is_killed_when_the_grace_is_over(cri: CriContainerd) -> None:
    pod = cri.run_pod("pod")
    deaf = cri.start_container(pod, "pod", "deaf", IMAGE, ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    time.sleep(0.2)
    started = time.monotonic()
    cri.crictl("stop", "--timeout", "1", deaf)
    assert 1 <= time.monotonic() - started < 5
    assert exited(cri, deaf) == 137


@pytest.mark.parametrize("readonly", [False, True])
def test_volumes_and_roots_are_as_read_only_as_they_are_asked_to_be(
    cri: CriContainerd, readonly: bool, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    pod = cri.run_pod("pod")
    fields: dict[str, Any] = {
        "mounts": [{"container_path": "/volume", "host_path": str(tmp_path), "readonly": readonly}],
        "linux": security(readonly_rootfs=readonly, run_as_user={"value": 1000}, run_as_group={"value": 1001}),
    }
    cases = {
        "wasm": [WASM, "write", "/volume/wasm", "x"],
        "native": ["touch", "/volume/native"],
    }
    for name, command in cases.items():
        container = cri.start_container(pod, "pod", name, IMAGE, command, **fields)
        assert exited(cri, container) == (1 if readonly else 0), logs(cri, container)
    assert sorted(os.listdir(tmp_path)) == ([] if readonly else ["native", "wasm"])
    assert {(each.stat().st_uid, each.stat().st_gid) for each in tmp_path.iterdir()} <= {(1000, 1001)}
    fields = {"linux": security(readonly_rootfs=readonly)}
    for name, command in {"wasm-root": [WASM, "write", "/new", "x"], "native-root": ["touch", "/new"]}.items():
        container = cri.start_container(pod, "pod", name, IMAGE, command, **fields)
        assert exited(cri, container) == (1 if readonly else 0), logs(cri, container)


def test_limits_are_changed_and_what_outgrows_them_is_said_to_have(cri: CriContainerd) -> None:
    pod = cri.run_pod("pod")
    limit = {"linux": {"resources": {"memory_limit_in_bytes": 1 << 24}}}
    container = cri.start_container(pod, "pod", "resized", IMAGE, ["sleep", "1000"], **limit)
    cri.crictl("update", "--memory", str(1 << 25), container)
    files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max"
    shown = cri.execute(container, "sh", "-c", f"cat {files} 2>/dev/null; true").stdout
    assert shown.strip() == str(1 << 25)
    script = "x=a; while :; do x=$x$x; done"
    greedy = cri.start_container(pod, "pod", "greedy", IMAGE, ["sh", "-c", script], **limit)
    assert exited(cri, greedy) == 137
    until(lambda: cri.inspect(greedy)["status"]["reason"] == "OOMKilled")


def test_a_pod_is_reached_at_its_address_and_by_port_forward(cri: CriContainerd) -> None:
    pod = cri.run_pod("pod")
    script = "mkdir /page && echo served > /page/index.html && exec httpd -f -p 8080 -h /page"
    cri.start_container(pod, "pod", "server", IMAGE, ["sh", "-c", script])
    address = json.loads(cri.crictl("inspectp", pod).stdout)["status"]["network"]["ip"]

    def page(at: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://{at}/", timeout=5) as answer:
                found: bytes = answer.read()
                return found
        except OSError:
            return b""

    assert until(lambda: page(f"{address}:8080")) == b"served\n"
    with subprocess.Popen(
        cri.crictl_command("port-forward", pod, "0:8080"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as forward:
        try:
            assert forward.stdout
            said = forward.stdout.readline()  # Forwarding from 127.0.0.1:43210 -> 8080
            port = re.search(r"127\.0\.0\.1:(\d+)", said)
            assert port, said
            assert page(f"127.0.0.1:{port[1]}") == b"served\n"
        finally:
            forward.terminate()


def test_pods_outlive_containerd_and_what_ended_meanwhile_is_known(cri: CriContainerd) -> None:
    pod = cri.run_pod("pod")
    native = cri.start_container(pod, "pod", "native", IMAGE, ["sh", "-c", "while :; do sleep 0.1; done"])
    wasm = cri.start_container(pod, "pod", "wasm", IMAGE, [WASM, "daemon"])
    pid = cri.inspect(wasm)["info"]["pid"]
    cri.stop()
    os.kill(pid, 9)
    cri.start()
    assert exited(cri, wasm) == 137
    assert cri.inspect(native)["status"]["state"] == "CONTAINER_RUNNING"
    assert cri.execute(native, "hostname").stdout.strip() == "pod"
    again = cri.start_container(pod, "pod", "again", IMAGE, [WASM, "daemon"], metadata={"name": "wasm", "attempt": 1})
    assert until(lambda: logs(cri, again)[0])


def test_a_pod_of_a_user_namespace_has_its_files_and_volumes_mapped(cri: CriContainerd, tmp_path: Path) -> None:
    if cri.install.major == 1:
        pytest.skip("containerd 1.6 knows of no user namespaces")
    if not can_map_ids(cri.directory):
        pytest.skip("this kernel, or the file system of /tmp, has no mapped mounts")
    tmp_path.chmod(0o777)
    mapping = [{"container_id": 0, "host_id": 100_000, "length": 65_536}]
    options: dict[str, Any] = security(
        namespace_options={"userns_options": {"mode": POD, "uids": mapping, "gids": mapping}}
    )
    pod = cri.run_pod("pod", WASMTIME_BY_PATH, **options)
    fields: dict[str, Any] = {
        "linux": options,
        "mounts": [
            {"container_path": "/volume", "host_path": str(tmp_path), "uidMappings": mapping, "gidMappings": mapping}
        ],
    }
    script = "cat /proc/self/uid_map; ls -ln / | sed 1d; touch /new /volume/native; ls -ln /new"
    native = cri.start_container(pod, "pod", "native", IMAGE, ["sh", "-c", script], **fields)
    wasm = cri.start_container(pod, "pod", "wasm", IMAGE, [WASM, "write", "/volume/wasm", "x"], **fields)
    assert exited(cri, native) == exited(cri, wasm) == 0, (logs(cri, native), logs(cri, wasm))
    first, *listed = logs(cri, native)[0].splitlines()
    assert first.split() == ["0", "100000", "65536"]
    of_the_image = [line for line in listed if line.split()[-1] in ("bin", "wasi-demo-app.wasm", "/new")]
    assert len(of_the_image) == 3, listed
    assert all(line.split()[2:4] == ["0", "0"] for line in of_the_image), of_the_image
    assert {name: (tmp_path / name).stat().st_uid for name in os.listdir(tmp_path)} == {"native": 0, "wasm": 0}


SHOW = r"""
sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //; s/ \(master\|shared\):[0-9]*//g' /proc/self/mountinfo
grep -E '^(Umask|Uid|Gid|Groups|Cap|Seccomp|NoNewPrivs)' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj; hostname; env; id; pwd; cat /etc/hostname /etc/resolv.conf
cd /dev && ls -ln | sed 's/ [A-Z][a-z][a-z]  *[0-9]*  *[0-9:]* / /'
cat /proc/sys/net/ipv4/ip_unprivileged_port_start
"""
CONTEXTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "as somebody": {
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 1001},
        "supplemental_groups": [7, 8],
        "no_new_privs": True,
    },
    "confined": {
        "seccomp": {"profile_type": 0},
        "masked_paths": ["/proc/kcore", "/proc/acpi", "/sys/firmware"],
        "readonly_paths": ["/proc/sys", "/proc/bus"],
        "readonly_rootfs": True,
        "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE"]},
    },
    "privileged": {"privileged": True},
    "of the host": {"namespace_options": {"network": HOST, "pid": HOST, "ipc": HOST}},
}


@pytest.mark.skipif(shutil.which("runc") is None, reason="no runc to compare with")
@pytest.mark.parametrize("name", CONTEXTS)
def test_native_containers_look_from_inside_as_runcs_do(cri: CriContainerd, name: str) -> None:
    context = CONTEXTS[name]
    of_pod = {key: context[key] for key in context.keys() & {"privileged", "namespace_options"}}
    is_of_host = "namespace_options" in context
    sysctls = {} if is_of_host else {"net.ipv4.ip_unprivileged_port_start": "1000"}
    shown: dict[str, list[str]] = {}
    for handler in (WASMTIME, RUNC):
        pod = cri.run_pod(f"pod-{handler}", handler, sysctls=sysctls, **security(**of_pod))
        linux = {"resources": {"memory_limit_in_bytes": 1 << 26, "oom_score_adj": 900}, **security(**context)}
        fields: dict[str, Any] = {"linux": linux, "envs": [{"key": "A", "value": "b"}], "working_dir": "/bin"}
        container = cri.start_container(pod, f"pod-{handler}", "c", IMAGE, ["sh", "-c", SHOW + "sleep 1000"], **fields)
        text = last_number(cri, container) + cri.execute(container, "sh", "-c", SHOW).stdout
        shown[handler] = sorted({_without_accidents(line, handler) for line in text.splitlines()})
        cri.remove_all()
    assert list(difflib.unified_diff(shown[RUNC], shown[WASMTIME], RUNC, WASMTIME, n=0, lineterm="")) == []


def _without_accidents(line: str, handler: str) -> str:
    line = re.sub(r"[0-9a-f]{64}", "ID", line).replace(f"-{handler}", "")
    line = re.sub(r"snapshots/\d+", "snapshots/N", line)
    line = line.replace(",size=0k", "")  # of what masks a directory: ours can never hold anything
    if line.startswith("/ /sys/fs/cgroup "):
        line = line.replace(" ro,", " rw,", 1)  # runc leaves it writable where the spec asks for read-only
    return line
