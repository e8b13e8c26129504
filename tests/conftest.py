"""Fixtures of the integration tests: real containerds, an image, and the counter of what is left."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.containerd import Containerd, Install, find_install
from harness.images import BUSYBOX, busybox_image
from harness.leftovers import Leftovers, Scope, assert_clean
from harness.oci import Bundle, lay_out
from harness.pod import Play, Scenario, pod
from harness.zygotes import end_zygotes, our_zygotes, remove_dead, zygote_traces

ROOT = Path(__file__).parent.parent
_NEEDS = [pytest.mark.root, pytest.mark.containerd]


@pytest.fixture(scope="session", autouse=True)
def no_zygote_is_left() -> Iterator[None]:
    """End the zygotes that the tests have caused, and no others."""
    before = zygote_traces()
    yield
    end_zygotes(our_zygotes(spared=before))
    remove_dead(spared=before)


@pytest.fixture(scope="session")
def uv() -> str:
    """The uv that runs these tests, or the one on PATH."""
    found = os.environ.get("UV") or shutil.which("uv")
    if not found:
        pytest.skip("no uv on PATH: run the tests by scripts/test, which brings it")
    return found


@pytest.fixture(scope="session")
def shim_directory() -> str:
    """Where containerd finds the shims under test: beside the Python that runs the tests."""
    return os.path.dirname(sys.executable)


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=_NEEDS) for kind in ("installed", "newest")])
def containerd(request: pytest.FixtureRequest, shim_directory: str) -> Iterator[Containerd]:
    """A running containerd of a module's own: the machine's (1.6 on Debian 12), then the 2.x that scripts/test fetches.

    When the module is done, whatever its tests left to it is deleted, and nothing may be left then.
    """
    daemon = Containerd(require_install(request.param), shim_directory)
    before = daemon.leftovers()
    try:
        daemon.start()
        yield daemon
        if daemon.pid is None:
            daemon.start()
        daemon.remove_all()
        daemon.stop()
        assert_clean(before)
    finally:
        daemon.destroy()


def require_install(kind: str) -> Install:
    """Find the containerd of PATH ("installed") or the one in .cache ("newest"); skip, saying why, where it is not."""
    if os.geteuid():
        pytest.skip(f"starting containerd needs root, this is uid {os.geteuid()}")
    if kind == "newest":
        directory = str(ROOT / ".cache" / "containerd-2" / "usr" / "bin")
        install = find_install(directory)
    else:
        directory = os.path.dirname(shutil.which("containerd") or "")
        install = find_install(directory) if directory else None
    if install is None:
        where = directory or "PATH"
        pytest.skip(f"no containerd in {where}: scripts/test, run as root on Debian, brings it")
    return install


@pytest.fixture
def leftovers(containerd: Containerd) -> Iterator[None]:
    """Fail a test that leaves more processes, zombies, mounts, cgroups, sockets or bundles than it found."""
    before = containerd.leftovers()
    yield
    assert_clean(before)


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tar of static busybox, under the name docker.io/library/busybox:test."""
    if not os.access(BUSYBOX, os.X_OK):
        pytest.skip(f"no {BUSYBOX}: scripts/test, run as root on Debian, installs busybox-static")
    path = tmp_path_factory.mktemp("images") / "busybox.tar"
    busybox_image().write(path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    if os.geteuid():
        pytest.skip("containers need root")
    group = f"oci-{secrets.token_hex(4)}"
    made = lay_out(tmp_path / "bundle", tmp_path / "root", cgroups_path=f"/{group}/c")
    scope = Scope(markers=(str(tmp_path),), spared=lambda: {os.getpid()}, spared_cgroups=frozenset({group}))
    before = Leftovers.snapshot(scope)
    yield made
    made.end()
    assert_clean(before)
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        parent = hierarchy / group
        if parent.is_dir():
            parent.rmdir()


@pytest.fixture
def play(shim_directory: str) -> Play:
    """Run a scenario in a pod of its own, and fail when it leaves anything behind."""
    if os.geteuid():
        pytest.skip("containers need root")

    def run(scenario: Scenario) -> None:
        async def whole() -> None:
            async with pod(os.path.join(shim_directory, "containerd-shim-wasmtime-v1")) as made:
                await scenario(made)

        asyncio.run(whole())

    return run
