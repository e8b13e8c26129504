"""Two versions of containerd-shimkit on one node, each in its own environment: neither meets the other's zygote."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from containerd_shimkit.launcher.block import read_command
from containerd_shimkit.launcher.build import find_compiler
from containerd_shimkit.zygote.naming import socket_path
from harness.images import BUSYBOX
from harness.pod import Pod, end, pod
from harness.processes import read_process
from harness.wheels import LAUNCHER, ROOT, add_bare_shim, install, run
from harness.zygotes import wait_until, zygote_at

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="zygotes listen in a directory of root's"),
    pytest.mark.timeout(120),
]

PACKAGE = ROOT / "packages" / "containerd-shimkit"
ECHO = "/bin/echo"


@dataclass(frozen=True, slots=True)
class Installation:
    """One version, and the launcher that it has installed."""

    version: str
    launcher: Path

    @property
    def socket(self) -> Path:
        """Where its zygote listens for callers that are as this process is."""
        return Path(socket_path(read_command(self.launcher.read_bytes())))

    def answer(self) -> tuple[str, int]:
        """What the launcher says with `-v`: the version, and the process that has found it out."""
        found = re.search(r"Version: (\S+) by ([0-9]+)\n", run([str(self.launcher), "-v"], self.launcher.parent))
        assert found
        return found[1], int(found[2])

    def end_zygote(self) -> None:
        pid = zygote_at(self.socket)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: zygote_at(self.socket) is None)
        for path in (self.socket, self.socket.with_name(f"{self.socket.name}.lock")):
            path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def installations(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Installation]]:
    if find_compiler() is None:
        pytest.skip("no C compiler (cc, gcc or clang) on PATH")
    old, new = (make_installation(uv, tmp_path_factory.mktemp("version"), version) for version in ("0.1.1", "0.1.2"))
    yield old, new
    for each in (old, new):
        each.end_zygote()


def make_installation(uv: str, directory: Path, version: str) -> Installation:
    """Build the package as *version*, install it and, by its own command, its launcher."""
    source = directory / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("tests", "__pycache__", LAUNCHER))
    project = source / "pyproject.toml"
    project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text()))
    run([uv, "build", "--quiet", "--wheel", "--out-dir", str(directory), str(source)], directory)
    (wheel,) = directory.glob("*.whl")
    python = install(uv, directory / "venv", wheel)
    name, programs = add_bare_shim(python), directory / "programs"
    programs.mkdir()
    command = [str(python.with_name("containerd-shimkit")), "install", name, "--compile", "--directory", str(programs)]
    run(command, directory)
    return Installation(version, programs / f"containerd-shim-{name}-v1")


async def run_a_container(made: Pod) -> None:
    container = made.container([ECHO, "hello"], {ECHO: Path(BUSYBOX).read_bytes()})
    assert await container.run() == 0
    assert container.stdout == "hello\n"


def test_each_version_has_shims_of_its_own_zygote(installations: tuple[Installation, Installation]) -> None:
    old, new = installations
    assert old.launcher.name == new.launcher.name
    assert old.socket != new.socket

    async def scenario() -> None:
        async with pod(str(old.launcher)) as one, pod(str(new.launcher)) as other:
            for made in (one, other):
                await run_a_container(made)
            zygotes = [zygote_at(each.socket) for each in installations]
            shims = [read_process(await made.shim_pid()) for made in (one, other)]
            assert [shim and shim.parent for shim in shims] == zygotes
            assert len({*zygotes, None}) == 3
            assert [each.answer() for each in installations] == [("0.1.1", zygotes[0]), ("0.1.2", zygotes[1])]
            for made in (one, other):
                await end(made)

    asyncio.run(scenario())


def test_without_its_zygote_a_version_answers_for_itself_though_the_other_has_one(
    installations: tuple[Installation, Installation],
) -> None:
    old, new = installations

    async def start_zygote() -> None:
        async with pod(str(new.launcher)) as made:
            await run_a_container(made)

    old.end_zygote()
    asyncio.run(start_zygote())
    ready = zygote_at(new.socket)
    assert new.answer() == ("0.1.2", ready)
    version, process = old.answer()
    assert version == "0.1.1"
    assert process != ready
    assert zygote_at(old.socket) is None, "only a start makes one"
