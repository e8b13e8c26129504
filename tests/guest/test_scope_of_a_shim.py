"""A whole shim's task in a scope of systemd's: imports are closed there, and a loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from containerd_shimkit.local import local_bundle, run_task
from containerd_shimkit.oci.defaults import default_spec

pytestmark = pytest.mark.guest

if not os.path.isdir("/run/systemd/system") or os.geteuid():
    pytest.skip("this needs root and a system that systemd has booted", allow_module_level=True)

PROGRAM = """\
#!{python}
import sys
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.shim.bootstrap import Shim, main
sys.exit(main(Shim("scoped", lambda: "0", ContainerInstance)))
"""


def test_a_task_runs_in_its_scope_which_is_gone_afterwards(tmp_path: Path) -> None:
    program = tmp_path / "containerd-shim-scoped-v1"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    command = ["/bin/busybox", "sh", "-c", "/bin/busybox cat /proc/self/cgroup; exit 7"]
    spec = default_spec(command, cgroups_path="test-pod3.slice:cri-containerd:task")
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"]
    root = tmp_path / "rootfs"  # not in the bundle, which is in /run, where nothing may be executed
    for name in ("bin", "dev", "proc", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    spec["root"] = {"path": str(root)}
    written: list[bytes] = []
    with local_bundle(spec, id="task") as bundle:
        ended = asyncio.run(run_task(str(program), bundle, lambda _stream, data: written.append(data), debug=True))
    said = b"".join(written).decode()
    assert ended.status == 7, said
    assert "0::/test.slice/test-pod3.slice/cri-containerd-task.scope\n" in said
    shown = ["systemctl", "show", "cri-containerd-task.scope", "--property=LoadState,ActiveState"]
    state = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert state.split() == ["LoadState=not-found", "ActiveState=inactive"]
    subprocess.run(["systemctl", "stop", "test.slice"], check=True)
