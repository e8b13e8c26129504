from __future__ import annotations

import subprocess
import sys

import pytest

CURE = "import it at the top of your module, or in Engine.warm()"
CODE = """
import sys, os
from containerd_shimkit.container.closed_world import close_imports, pin_libraries
import containerd_shimkit.linux.cgroups
pin_libraries()
close_imports()
sys.path.insert(0, {directory!r})
try:
    import evil
except ModuleNotFoundError as error:
    print(error)
try:
    1 / 0
except ZeroDivisionError:
    import traceback
    print(traceback.format_exc().splitlines()[-1])
from containerd_shimkit.linux.cgroups import cgroup_from
print(cgroup_from({{"unified": "/sys/fs/cgroup/a/b"}}).version)
print("caf\\u00e9".encode("latin-1"), "x".encode("idna"))
import marshal
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's name services are Linux's")
def test_after_closing_a_file_can_no_longer_become_code(tmp_path: object) -> None:
    with open(f"{tmp_path}/evil.py", "w", encoding="utf-8") as file:
        file.write("print('evil')")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(directory=str(tmp_path))], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"imports are closed in a shim, so evil cannot be imported now: {CURE}",
        "ZeroDivisionError: division by zero",
        "2",
        "b'caf\\xe9' b'x'",
    ]
