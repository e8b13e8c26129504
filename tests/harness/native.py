"""One native container, run to its end by a shim of ours or by runc: what a shell script in it finds."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from containerd_shimkit.oci.defaults import default_spec

from harness.images import BUSYBOX
from harness.pod import Pod

__all__ = ["RUNC", "Change", "run_by_runc", "run_in_pod"]

RUNC = shutil.which("runc")
Change = Callable[[dict[str, Any]], object]
_SHELL = "/bin/busybox"


async def run_in_pod(pod: Pod, script: str, change: Change, *, own_root: Callable[[Path], object] = lambda _: 0) -> str:
    """What *script* prints in a container of the default spec as *change* leaves it; *own_root* may change its root."""
    args = [_SHELL, "sh", "-c", script]
    container = pod.container(args, {_SHELL: Path(BUSYBOX).read_bytes()}, change=change)
    own_root(container.rootfs)
    assert await container.run() == 0, container.stderr
    return container.stdout


def run_by_runc(
    directory: Path, script: str, change: Change, *, own_root: Callable[[Path], object] = lambda _: 0
) -> str:
    """The same with runc, in the empty *directory*."""
    assert RUNC
    shell = directory / "rootfs" / _SHELL.lstrip("/")
    shell.parent.mkdir(parents=True)
    shutil.copy(BUSYBOX, shell)
    own_root(directory / "rootfs")
    name = f"test-{secrets.token_hex(4)}"
    spec = default_spec([_SHELL, "sh", "-c", script], cgroups_path=f"/{name}")
    change(spec)
    (directory / "config.json").write_text(json.dumps(spec))
    command = [RUNC, "--root", str(directory / "state"), "run", "--bundle", str(directory), name]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
