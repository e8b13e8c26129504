"""The harness itself, proved with runc: what it starts works, restarts, and leaves nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness.containerd import Containerd, CtrFailedError
from harness.processes import read_process

IMAGE = "docker.io/library/busybox:test"
RUNC = ("--runtime", "io.containerd.runc.v2")


@pytest.fixture(scope="module")
def runc(containerd: Containerd, busybox_tar: Path) -> Containerd:
    """The containerd of this module, with busybox imported."""
    assert IMAGE in containerd.import_image(busybox_tar)
    return containerd


def start_sleeper(containerd: Containerd, name: str) -> int:
    containerd.ctr("run", "--detach", *RUNC, IMAGE, name, "/bin/sleep", "1000")
    return containerd.tasks()[name].pid


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + 5
    while (entry := read_process(pid)) and not entry.is_zombie:  # reaped by init, in its own time
        assert time.monotonic() < deadline, f"still there: {entry.describe()}"
        time.sleep(0.05)


def remove(containerd: Containerd, name: str) -> None:
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", name)
    containerd.ctr("tasks", "delete", "--force", name)
    containerd.ctr("containers", "delete", name)


@pytest.mark.usefixtures("leftovers")
def test_a_container_runs_and_gives_its_output(runc: Containerd) -> None:
    assert runc.ctr("run", "--rm", *RUNC, IMAGE, "hello", "/bin/echo", "hello", "world").stdout == "hello world\n"


@pytest.mark.usefixtures("leftovers")
def test_an_exit_status_comes_through(runc: Containerd) -> None:
    assert runc.ctr("run", "--rm", *RUNC, IMAGE, "status", "/bin/sh", "-c", "exit 42", check=False).returncode == 42


@pytest.mark.usefixtures("leftovers")
def test_standard_input_comes_through(runc: Containerd) -> None:
    # not cat: ctr forgets to pass the end of an input on that ends before the task runs
    ran = runc.ctr("run", "--rm", *RUNC, IMAGE, "input", "/bin/head", "-n", "1", stdin="typed\n")
    assert ran.stdout == "typed\n"


def test_a_failed_ctr_says_what_went_wrong(runc: Containerd) -> None:
    with pytest.raises(CtrFailedError, match=r"tasks kill nobody: exit status 1\n(.*\n)*stderr: .*not found"):
        runc.ctr("tasks", "kill", "nobody")


@pytest.mark.usefixtures("leftovers")
@pytest.mark.parametrize("end_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_task_goes_on_while_containerd_is_restarted(runc: Containerd, end_by: signal.Signals) -> None:
    pid = start_sleeper(runc, "sleeper")
    daemon = runc.pid
    runc.restart(end_by)
    assert runc.pid != daemon
    assert runc.tasks()["sleeper"].pid == pid
    assert runc.tasks()["sleeper"].status == "RUNNING"
    assert runc.containers() == ["sleeper"]
    remove(runc, "sleeper")
    assert (runc.tasks(), runc.containers()) == ({}, [])


def test_a_running_task_is_counted_by_all_that_it_is_made_of(runc: Containerd) -> None:
    before = runc.leftovers()
    pid = start_sleeper(runc, "counted")
    found = [item for item in runc.leftovers().items - before.items if item.is_marked]
    assert {item.kind for item in found} == {"process", "mount", "cgroup", "socket", "bundle"}
    processes = [item.detail for item in found if item.kind == "process"]
    assert any(detail.startswith(f"pid {pid}, ") and "/bin/sleep 1000" in detail for detail in processes)
    assert any("containerd-shim-runc-v2" in detail for detail in processes)
    assert any(item.detail == runc.bundle("counted") for item in found)
    remove(runc, "counted")


def test_a_container_is_counted_when_its_shim_is_gone(runc: Containerd) -> None:
    before = runc.leftovers()
    pid = start_sleeper(runc, "orphan")
    shim = int(Path(f"/proc/{pid}/stat").read_text().split(") ")[1].split()[1])
    runc.kill()  # first: a living containerd would clean up at once
    os.kill(shim, signal.SIGKILL)
    wait_until_ended(shim)
    found = runc.leftovers().items - before.items
    assert {item.kind for item in found} == {"process", "mount", "cgroup", "socket", "bundle"}
    assert next(item.detail for item in found if item.kind == "process").startswith(f"pid {pid}, ")
    runc.scope().clear_by_force()
    for item in found:
        if item.kind == "socket":  # runc's shim leaves it when it is killed, and nothing tells whose it was
            os.unlink(item.key)
    runc.start()
    assert runc.tasks() == {}
    runc.ctr("containers", "delete", "orphan")


def test_containerd_that_cannot_start_shows_its_log(runc: Containerd, shim_directory: str) -> None:
    broken = Containerd(runc.install, shim_directory)
    try:
        Path(broken.directory, "config.toml").write_text("version = 'none'\n")
        with pytest.raises(RuntimeError, match=r"ended at once; its log:\n.*TOML"):
            broken.start()
    finally:
        broken.destroy()
    assert not os.path.exists(broken.directory)


def test_destroying_ends_what_still_runs(runc: Containerd, shim_directory: str, busybox_tar: Path) -> None:
    other = Containerd(runc.install, shim_directory)
    other.start()
    other.import_image(busybox_tar)
    pid = start_sleeper(other, "abandoned")
    other.destroy()
    wait_until_ended(pid)
    assert not os.path.exists(other.directory)


def test_the_native_snapshotter_serves_where_overlays_do_not(
    runc: Containerd, shim_directory: str, busybox_tar: Path
) -> None:
    plain = Containerd(runc.install, shim_directory, snapshotter="native")
    try:
        plain.start()
        plain.import_image(busybox_tar)
        ran = plain.ctr("run", "--rm", *RUNC, IMAGE, "plain", "/bin/echo", "from a copy")
        assert ran.stdout == "from a copy\n"
    finally:
        plain.destroy()
