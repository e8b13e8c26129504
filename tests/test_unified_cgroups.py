"""Whole containers where control groups are of version 2: in a mount namespace with that tree at the place of all.

On a hybrid host the tree has hardly a controller, but all else is as where version 2 has them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.linux.cgroup_mounts import read_hierarchies
from harness.leftovers import Leftovers, Scope, assert_clean
from harness.oci import PROGRAM, Bundle, lay_out

pytestmark = pytest.mark.root

KMSG = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}
SCRIPT = """\
#!/bin/sh
exec unshare --mount sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' sh {program} "$@"
"""


@pytest.fixture
def tree() -> Iterator[Path]:
    """Where this host has the version 2 tree."""
    if os.geteuid():
        pytest.skip("containers need root")
    hierarchy = read_hierarchies().v2
    if hierarchy is None:
        pytest.skip("this host has no cgroup version 2 hierarchy")
    control = Path(hierarchy.mount_point, "cgroup.subtree_control")
    enabled = control.read_text().split()
    yield Path(hierarchy.mount_point)
    for controller in set(control.read_text().split()) - set(enabled):
        try:
            control.write_text(f"-{controller}")
        except OSError:  # another test's group has it
            pass


@pytest.fixture
def bundle(tmp_path: Path, tree: Path) -> Iterator[Bundle]:
    group = f"oci-{tmp_path.name}"
    program = tmp_path / "program"
    program.write_text(SCRIPT.format(program=PROGRAM))
    program.chmod(0o755)
    made = lay_out(tmp_path / "bundle", tmp_path / "root", cgroups_path=f"/{group}/c")
    made.program = str(program)
    made.change(lambda spec: spec["linux"].pop("resources", None))
    scope = Scope(markers=(str(tmp_path),), spared=lambda: {os.getpid()}, spared_cgroups=frozenset({group}))
    before = Leftovers.snapshot(scope)
    yield made
    made.end()
    assert_clean(before)
    assert os.listdir(tmp_path / "root") == []
    (tree / group).rmdir()  # which only works when nothing is left in it


def limit(**resources: Any) -> Any:
    return lambda spec: spec["linux"].update(resources=resources)


def group_of(bundle: Bundle, tree: Path) -> Path:
    path: str = json.loads(bundle.config.read_text())["linux"]["cgroupsPath"]
    return tree / path.lstrip("/")


def test_a_container_is_made_in_its_group_and_leaves_none(bundle: Bundle, tree: Path) -> None:
    group = group_of(bundle, tree)
    bundle.change(lambda spec: spec["process"].update(args=["sh", "-c", "sleep 1000 & exec sleep 1000"]))
    id = bundle.create()  # noqa: A001
    pid = bundle.state(id)["pid"]
    own = Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1]
    assert own == f"0::/{group.relative_to(tree)}"
    bundle.call("start", id)
    until = time.monotonic() + 10
    while len(found := json.loads(bundle.call("ps", "--format", "json", id).stdout)) < 2:
        assert time.monotonic() < until
    assert pid in found
    assert sorted(map(int, (group / "cgroup.procs").read_text().split())) == sorted(found)
    bundle.call("delete", "--force", id)
    assert not group.exists()
    bundle.ids.clear()


def test_devices_are_guarded_by_a_program(bundle: Bundle) -> None:
    script = "echo x > /dev/null && echo written; cat /dev/kmsg"
    bundle.change(lambda spec: spec["linux"].update(devices=[KMSG]))
    bundle.change(limit(devices=[{"allow": False, "access": "rwm"}]))
    done = bundle.run(script)
    assert (done.stdout, done.returncode) == ("written\n", 1)
    assert "'/dev/kmsg': Operation not permitted" in done.stderr


def test_a_file_of_the_group_is_written_as_the_spec_gives_it(bundle: Bundle, tree: Path) -> None:
    bundle.change(limit(unified={"cgroup.max.descendants": "7"}))
    bundle.create()
    assert (group_of(bundle, tree) / "cgroup.max.descendants").read_text() == "7\n"


def test_a_limit_without_a_controller_is_refused_before_anything_is_made(bundle: Bundle, tree: Path) -> None:
    if "memory" in (tree / "cgroup.controllers").read_text().split():
        pytest.skip("this host's version 2 tree has the memory controller")
    group_of(bundle, tree).parent.mkdir()
    bundle.change(limit(memory={"limit": 1 << 26}))
    done = bundle.run("true")
    assert done.returncode == 1
    assert f"linux.resources.memory.limit is '{1 << 26}', but this host's cgroup version 2 has no memory" in done.stderr
    assert not group_of(bundle, tree).exists()


def test_a_group_with_strangers_in_it_is_refused_and_they_live_on(bundle: Bundle, tree: Path) -> None:
    group = group_of(bundle, tree)
    group.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        try:
            (group / "cgroup.procs").write_text("0")
            time.sleep(1000)
        finally:
            os._exit(1)
    try:
        while not (group / "cgroup.procs").read_text():
            time.sleep(0.01)
        done = bundle.run("true")
        assert done.returncode == 1
        assert "belongs to another container or has processes in it" in done.stderr
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        group.rmdir()
