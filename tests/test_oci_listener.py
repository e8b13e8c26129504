"""`containerd-shimkit-oci` with filters that ask a listener: the command that waits hands the listener over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.oci import Bundle, wait_for

pytestmark = pytest.mark.root

# shared with the tests of the library, whose modules cannot be imported here
PROGRAM = Path(__file__).parents[1] / "packages/containerd-shimkit/tests/container/deciding.py"


@dataclass
class Decider:
    """The program that decides on calls: its socket, and the file where it says what it was handed."""

    path: Path
    log: Path

    def filter(self, bundle: Bundle, *, no_new_privileges: bool) -> None:
        rule = {"names": ["mkdir", "mkdirat", "close", "execve"], "action": "SCMP_ACT_NOTIFY"}
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "listenerPath": str(self.path)}
        bundle.change(lambda spec: spec["linux"].update(seccomp=profile))
        bundle.change(lambda spec: spec["process"].update(noNewPrivileges=no_new_privileges))

    @property
    def states(self) -> list[dict[str, Any]]:
        said = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [each["state"] for each in said if "state" in each]


@pytest.fixture
def decider(tmp_path: Path) -> Iterator[Decider]:
    found = Decider(tmp_path / "socket", tmp_path / "log")
    found.log.touch()
    process = subprocess.Popen([sys.executable, PROGRAM, found.path, found.log])
    try:
        wait_for(found.path.exists)
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_create_start_and_exec_hand_listeners_over(bundle: Bundle, decider: Decider, no_new_privileges: bool) -> None:
    decider.filter(bundle, no_new_privileges=no_new_privileges)
    shell = "busybox mkdir /new; echo $?; exec sleep 1000"
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", shell]))
    id = bundle.create()  # noqa: A001
    assert len(decider.states) == (0 if no_new_privileges else 1)
    assert bundle.state(id)["status"] == "created"
    bundle.call("start", id)
    wait_for(lambda: bundle.stdout == "1\n")
    state = bundle.state(id)
    assert state["status"] == "running"
    said = decider.states[0]
    assert said["pid"] == said["state"]["pid"] == state["pid"]
    assert said["state"]["status"] == ("created" if no_new_privileges else "creating")
    executed = bundle.call("exec", id, "busybox", "mkdir", "/new", check=False)
    assert (executed.returncode, "Protocol error" in executed.stderr) == (1, True)
    assert [each["state"]["pid"] for each in decider.states] == [state["pid"], state["pid"]]
    bundle.call("delete", "--force", id)
    bundle.ids.clear()


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_run_hands_the_listener_over(bundle: Bundle, decider: Decider, no_new_privileges: bool) -> None:
    decider.filter(bundle, no_new_privileges=no_new_privileges)
    done = bundle.run("busybox mkdir /new")
    assert (done.returncode, "Protocol error" in done.stderr) == (1, True)


def test_a_listener_that_is_not_there_leaves_nothing_running(bundle: Bundle, tmp_path: Path) -> None:
    nobody = Decider(tmp_path / "nobody", tmp_path / "log")
    words = f"linux.seccomp.listenerPath '{nobody.path}': the seccomp listener cannot be handed over: No such file"
    nobody.filter(bundle, no_new_privileges=False)
    refused = bundle.call("create", bundle.new_id(), check=False)
    assert (refused.returncode, words in refused.stderr) == (1, True)
    assert os.listdir(bundle.root) == []
    nobody.filter(bundle, no_new_privileges=True)
    id = bundle.create()  # noqa: A001
    refused = bundle.call("start", id, check=False)
    assert (refused.returncode, words in refused.stderr) == (1, True)
    wait_for(lambda: bundle.state(id)["status"] == "stopped")
    bundle.call("delete", id)
    refused = bundle.call("run", bundle.new_id(), check=False)
    assert words in refused.stderr
    assert os.listdir(bundle.root) == []
