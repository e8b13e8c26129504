"""The OCI command line under test, on bundles of a static shell."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from containerd_shimkit.oci.defaults import default_spec

from harness.images import BUSYBOX

PROGRAM = os.path.join(os.path.dirname(sys.executable), "containerd-shimkit-oci")
TIMEOUT = 60
_TOOLS = (
    "sh",
    "cat",
    "cut",
    "echo",
    "env",
    "grep",
    "hostname",
    "id",
    "kill",
    "ls",
    "ps",
    "readlink",
    "rm",
    "sleep",
    "stty",
)
_MORE = ("test", "touch", "tr", "true", "tty", "umask")


@dataclass(slots=True)
class Bundle:
    """A bundle with busybox in it, and a root directory for the command line's containers."""

    directory: Path
    root: Path
    program: str = PROGRAM
    ids: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.directory / "config.json"

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        spec = json.loads(self.config.read_text())
        change(spec)
        self.config.write_text(json.dumps(spec))

    def call(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run the program; with *check* it must end with 0."""
        command = [self.program, "--root", str(self.root), *args]
        stdin = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            command,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            **{**stdin, **options},
        )
        if check:
            assert done.returncode == 0, (args, done.stdout, done.stderr)
        return done

    def new_id(self) -> str:
        self.ids.append(f"c-{secrets.token_hex(4)}")
        return self.ids[-1]

    def create(self, *options: str, **more: Any) -> str:
        """Create a container whose streams are files; its id."""
        id = self.new_id()  # noqa: A001
        with open(self.directory / "stdout", "w") as out, open(self.directory / "stderr", "w") as err:
            command = [self.program, "--root", str(self.root), "create", *options, id]
            streams: Mapping[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **more}
            done = subprocess.run(command, cwd=self.directory, timeout=TIMEOUT, check=False, **streams)
        assert done.returncode == 0, self.stderr
        return id

    def run(self, script: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a script of the shell's in a container, to its end."""
        self.change(lambda spec: spec["process"].update(args=["sh", "-c", script]))
        return self.call("run", *options, self.new_id(), check=False, **more)

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    def state(self, id: str) -> dict[str, Any]:  # noqa: A002
        found: dict[str, Any] = json.loads(self.call("state", id).stdout)
        return found

    def end(self) -> None:
        """Delete whatever there is still, and see that this leaves nothing."""
        for id in self.ids:  # noqa: A001
            self.call("delete", "--force", id)
        assert os.listdir(self.root) == [] if self.root.exists() else True


def lay_out(directory: Path, root: Path, **settings: Any) -> Bundle:
    """Make a bundle in *directory*; its container sleeps."""
    programs = directory / "rootfs" / "bin"
    programs.mkdir(parents=True)
    (programs / "busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (programs / "busybox").chmod(0o755)
    for name in (*_TOOLS, *_MORE):
        (programs / name).symlink_to("busybox")
    spec = default_spec(["sleep", "1000"], **settings)
    (directory / "config.json").write_text(json.dumps(spec))
    return Bundle(directory, root)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come about in 20 s"
        time.sleep(0.02)
