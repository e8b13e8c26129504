"""Containers in an AppArmor profile, wherever the kernel has AppArmor."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_shim_wasm_test_modules import SPINNER
from containerd_shimkit import InvalidArgumentError, UnimplementedError
from containerd_shimkit.linux.labels import has_apparmor
from harness.native import run_in_pod
from harness.pod import Play, Pod

pytestmark = pytest.mark.root

NAME = "shimkit-test"
PROFILE = f"""
profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  unix,
  capability,
  signal,
  deny /secret r,
}}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    """The name of a profile that is loaded while the test runs."""
    parser = shutil.which("apparmor_parser")
    if os.geteuid() or not has_apparmor() or parser is None:
        pytest.skip("this kernel has no AppArmor, or there is no apparmor_parser to load a profile with")
    file = tmp_path / "profile"
    file.write_text(PROFILE)
    subprocess.run([parser, "--replace", file], check=True, timeout=60)
    yield NAME
    subprocess.run([parser, "--remove", file], check=True, timeout=60)


def confined_by(spec: dict[str, dict[str, object]], name: str) -> None:
    spec["process"]["apparmorProfile"] = name


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_native_program_is_confined(play: Play, profile: str, no_new_privileges: bool) -> None:
    async def scenario(pod: Pod) -> None:
        def change(spec: dict[str, dict[str, object]]) -> None:
            confined_by(spec, profile)
            spec["process"]["noNewPrivileges"] = no_new_privileges

        script = "/bin/busybox cat /proc/self/attr/current; /bin/busybox cat /secret 2>&1 || true"
        said = await run_in_pod(pod, script, change, own_root=lambda root: (root / "secret").write_text("secret\n"))
        assert said.splitlines()[0] == f"{profile} (enforce)"
        assert "Permission denied" in said

    play(scenario)


def test_a_wasm_guest_is_confined(play: Play, profile: str) -> None:
    async def scenario(pod: Pod) -> None:
        wasm = "/app.wasm"
        container = pod.container([wasm], {wasm: SPINNER.bytes}, change=lambda spec: confined_by(spec, profile))
        pid = await container.create()
        assert Path(f"/proc/{pid}/attr/current").read_text().strip() == f"{profile} (enforce)"
        await container.start()
        await container.call("Kill", signal=9)
        assert await container.wait() == 137

    play(scenario)


def test_a_profile_that_is_not_loaded_fails_create(play: Play, profile: str) -> None:
    async def scenario(pod: Pod) -> None:
        with pytest.raises(InvalidArgumentError, match=r"load the profile of process\.apparmorProfile on the host"):
            await run_in_pod(pod, "true", lambda spec: confined_by(spec, f"{profile}-absent"))

    play(scenario)


@pytest.mark.skipif(has_apparmor(), reason="this kernel has AppArmor")
def test_without_apparmor_a_profile_is_refused(play: Play) -> None:
    async def scenario(pod: Pod) -> None:
        with pytest.raises(
            UnimplementedError, match=r"process\.apparmorProfile is 'x', but this kernel has no AppArmor"
        ):
            await run_in_pod(pod, "true", lambda spec: confined_by(spec, "x"))

    play(scenario)
