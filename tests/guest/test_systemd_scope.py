"""The systemd cgroup driver against a real systemd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.errors import FailedPreconditionError
from containerd_shimkit.linux.cgroups import cgroup_for, cgroup_from
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.resources import Cpu, Memory, Pids, Resources

pytestmark = pytest.mark.guest

if not os.path.isdir("/run/systemd/system") or os.geteuid():
    pytest.skip("this needs root and a system that systemd has booted", allow_module_level=True)

MEBIBYTE = 1 << 20
SLICE = "test-pod1.slice"


def show(unit: str, *names: str) -> dict[str, str]:
    command = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def state(unit: str) -> tuple[str, str]:
    shown = show(unit, "LoadState", "ActiveState")
    return shown["LoadState"], shown["ActiveState"]


def wait_until(is_true: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < give_up, "it has not come true"
        time.sleep(0.05)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def no_unit_is_left() -> Iterator[None]:
    yield
    subprocess.run(["systemctl", "stop", "test.slice"], check=True)
    listed = ["systemctl", "list-units", "--all", "--no-legend", "--plain", "test-*.scope", "ctest-*.scope"]
    assert subprocess.run(listed, capture_output=True, text=True, check=True).stdout == ""


LIMITS = Resources(
    cpu=Cpu(shares=1024, quota=12_345, period=50_000, cpus="0-1"),
    memory=Memory(limit=64 * MEBIBYTE, reservation=32 * MEBIBYTE, swap=96 * MEBIBYTE),
    pids=Pids(123),
)


def test_a_scope_holds_the_process_and_its_limits_in_both_files_and_unit(sleeper: subprocess.Popen[bytes]) -> None:
    group = cgroup_for(f"{SLICE}:ctest:a")
    group.check(LIMITS)
    group.make(sleeper.pid, LIMITS)
    try:
        assert group.directory == "/sys/fs/cgroup/test.slice/test-pod1.slice/ctest-a.scope"
        assert group.pids() == [sleeper.pid]
        read = {name: Path(group.directory, name).read_text().strip() for name in ("cpu.max", "memory.max", "pids.max")}
        assert read == {"cpu.max": "12345 50000", "memory.max": str(64 * MEBIBYTE), "pids.max": "123"}
        names = ("MemoryMax", "MemoryLow", "MemorySwapMax", "TasksMax", "AllowedCPUs", "Delegate", "Slice")
        quota = ("CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec")
        assert show("ctest-a.scope", *names, *quota) == {
            "MemoryMax": str(64 * MEBIBYTE),
            "MemoryLow": str(32 * MEBIBYTE),
            "MemorySwapMax": str(32 * MEBIBYTE),
            "TasksMax": "123",
            "CPUWeight": "100",
            "CPUQuotaPerSecUSec": "250ms",
            "CPUQuotaPeriodUSec": "50ms",
            "AllowedCPUs": "0-1",
            "Delegate": "yes",
            "Slice": SLICE,
        }
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert Path(group.directory, "memory.max").read_text() == f"{64 * MEBIBYTE}\n"
        assert Path(group.directory, "pids.max").read_text() == "123\n"
    finally:
        group.kill_all()
        sleeper.wait()
        group.remove()
    assert not os.path.exists(group.directory)
    assert state("ctest-a.scope") == ("not-found", "inactive")


def test_without_a_limit_of_tasks_there_is_none(sleeper: subprocess.Popen[bytes]) -> None:
    group = cgroup_for(":ctest:unlimited")
    group.make(sleeper.pid, None)
    try:
        assert group.directory == "/sys/fs/cgroup/system.slice/ctest-unlimited.scope"
        assert Path(group.directory, "pids.max").read_text() == "max\n"
    finally:
        group.kill_all()
        sleeper.wait()
        group.remove()


def test_an_update_changes_the_files_and_the_unit(sleeper: subprocess.Popen[bytes]) -> None:
    group = cgroup_for(f"{SLICE}:ctest:updated")
    group.make(sleeper.pid, LIMITS)
    try:
        group.update(Resources(memory=Memory(limit=80 * MEBIBYTE, swap=80 * MEBIBYTE), pids=Pids(-1)))
        assert Path(group.directory, "memory.max").read_text() == f"{80 * MEBIBYTE}\n"
        assert Path(group.directory, "pids.max").read_text() == "max\n"
        shown = show("ctest-updated.scope", "MemoryMax", "MemorySwapMax", "TasksMax", "CPUWeight")
        assert shown == {
            "MemoryMax": str(80 * MEBIBYTE), "MemorySwapMax": "0", "TasksMax": "infinity", "CPUWeight": "100"
        }  # fmt: skip
    finally:
        group.kill_all()
        sleeper.wait()
        group.remove()


def test_a_name_that_is_taken_is_refused_and_its_owner_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    first = cgroup_for(f"{SLICE}:ctest:taken")
    first.make(sleeper.pid, None)
    try:
        other = subprocess.Popen(["sleep", "600"])
        try:
            second = cgroup_for("test-pod2.slice:ctest:taken")
            with pytest.raises(
                FailedPreconditionError, match=r"ctest-taken\.scope, which exists already and is active"
            ):
                second.make(other.pid, None)
            cgroup_from(second.paths).remove()  # as it is after a failed creation
        finally:
            other.kill()
            other.wait()
        assert first.pids() == [sleeper.pid]
        assert state("ctest-taken.scope") == ("loaded", "active")
    finally:
        first.kill_all()
        sleeper.wait()
        first.remove()


def test_the_name_of_one_that_has_ended_can_be_taken_at_once() -> None:
    for _ in range(5):
        process = subprocess.Popen(["sleep", "600"])
        group = cgroup_for(f"{SLICE}:ctest:again")
        group.make(process.pid, None)
        process.kill()
        process.wait()
    group.remove()


def test_a_failed_unit_of_the_name_is_no_hindrance(sleeper: subprocess.Popen[bytes]) -> None:
    run = ["systemd-run", "--quiet", "--unit=ctest-failed.scope", "--scope", "--property=RuntimeMaxSec=1"]
    subprocess.run([*run, "sleep", "30"], check=False)
    wait_until(lambda: state("ctest-failed.scope")[1] != "active")
    group = cgroup_for(f"{SLICE}:ctest:failed")
    group.make(sleeper.pid, None)
    assert state("ctest-failed.scope") == ("loaded", "active")
    group.kill_all()
    sleeper.wait()
    group.remove()


def test_a_shim_has_loaded_the_driver_before_it_closes_imports() -> None:
    program = (
        "from containerd_shimkit.container.closed_world import close_imports\n"
        "from containerd_shimkit.linux.cgroups import cgroup_for\n"
        "close_imports()\n"
        "print(cgroup_for('a-b.slice:x:c1').directory)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "/sys/fs/cgroup/a.slice/a-b.slice/x-c1.scope\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "rootfs"
    for name in ("bin", "dev", "proc", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    return tmp_path


def write_spec(bundle: Path, cgroups_path: str, command: Sequence[str]) -> None:
    spec: dict[str, Any] = default_spec(["/bin/busybox", *command], cgroups_path=cgroups_path)
    spec["linux"]["resources"]["memory"] = {"limit": 128 * MEBIBYTE}
    spec["root"] = {"path": "rootfs"}
    (bundle / "config.json").write_text(json.dumps(spec))


def oci(bundle: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = "import sys; from containerd_shimkit.runtime.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--root", str(bundle / "state"), *arguments]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "text": True}
    with open(bundle / "output", "w+") as output:  # a pipe would stay open as long as the container
        done = subprocess.run(command, stdout=output, cwd=bundle, check=False, **streams)
        output.seek(0)
        said = output.read()
    if check and done.returncode:
        pytest.fail(f"{arguments}: {said}")
    return subprocess.CompletedProcess(command, done.returncode, said)


@pytest.mark.parametrize("options", [(), ("--systemd-cgroup",)])
def test_a_container_is_a_scope_while_it_runs(bundle: Path, options: tuple[str, ...]) -> None:
    write_spec(bundle, f"{SLICE}:ctest:c1", ["sleep", "600"])
    oci(bundle, *options, "create", "--bundle", str(bundle), "c1")
    try:
        oci(bundle, "start", "c1")
        assert state("ctest-c1.scope") == ("loaded", "active")
        shown = show("ctest-c1.scope", "MemoryMax", "ControlGroup")
        assert shown == {
            "MemoryMax": str(128 * MEBIBYTE),
            "ControlGroup": "/test.slice/test-pod1.slice/ctest-c1.scope",
        }
        pid = json.loads(oci(bundle, "state", "c1").stdout)["pid"]
        assert Path(f"/proc/{pid}/cgroup").read_text() == "0::/test.slice/test-pod1.slice/ctest-c1.scope\n"
    finally:
        oci(bundle, "delete", "--force", "c1")
    assert state("ctest-c1.scope") == ("not-found", "inactive")


def test_a_container_whose_creator_was_killed_is_removed_by_delete(bundle: Path) -> None:
    write_spec(bundle, f"{SLICE}:ctest:orphan", ["sleep", "600"])
    program = "import sys; from containerd_shimkit.runtime.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--root", str(bundle / "state"), "run", "orphan"]
    null = subprocess.DEVNULL
    creator = subprocess.Popen(command, cwd=bundle, stdin=null, stdout=null, stderr=null)
    try:
        wait_until(lambda: state("ctest-orphan.scope")[1] == "active", 60.0)
    finally:
        creator.send_signal(signal.SIGKILL)
        creator.wait()
    oci(bundle, "delete", "--force", "orphan")
    wait_until(lambda: state("ctest-orphan.scope") == ("not-found", "inactive"))
    assert not os.path.exists("/sys/fs/cgroup/test.slice/test-pod1.slice/ctest-orphan.scope")


def test_a_name_collision_fails_the_creation_and_leaves_the_other_running(
    bundle: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    group = cgroup_for("test-pod2.slice:ctest:c1")
    group.make(sleeper.pid, None)
    try:
        write_spec(bundle, f"{SLICE}:ctest:c1", ["sleep", "600"])
        done = oci(bundle, "create", "--bundle", str(bundle), "c1", check=False)
        assert done.returncode != 0
        assert "ctest-c1.scope, which exists already and is active" in done.stdout
        assert group.pids() == [sleeper.pid]
    finally:
        group.kill_all()
        sleeper.wait()
        group.remove()
