"""A private containerd: its own root, state, socket and configuration below one short-lived directory."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.leftovers import Leftovers, Scope
from harness.mounts import is_overlay_supported

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
_LOG_TAIL = 4000  # bytes of containerd's log that an error shows

# Two forms of one thing: 2.x has given plugins other names, and each version warns of names it does not know.
_DISABLED_ALWAYS = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.tracing.processor.v1.otlp",
)
_DISABLED = {
    1: _DISABLED_ALWAYS,
    2: (*_DISABLED_ALWAYS, "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"),
}


@dataclass(frozen=True, slots=True)
class Install:
    """The programs of one containerd: `containerd`, `ctr` and its own shims, all in *directory*."""

    directory: str
    version: str  # as in 1.6.20

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def find_install(directory: str) -> Install | None:
    """Ask the containerd in *directory* for its version; None where there is none that runs, or no ctr."""
    try:
        command = [os.path.join(directory, "containerd"), "--version"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    # "containerd github.com/containerd/containerd/v2 2.1.9+unknown REVISION"; Debian's 1.6.20 says 1.6.20~ds1
    version = shown.split()[2].lstrip("v").replace("~", "+").partition("+")[0]
    return Install(directory, version) if os.access(os.path.join(directory, "ctr"), os.X_OK) else None


@dataclass(frozen=True, slots=True)
class Task:
    """A line of `ctr task ls`."""

    id: str
    pid: int
    status: str  # RUNNING, STOPPED, CREATED...


class CtrFailedError(Exception):
    """A ctr that ended with a status other than 0, with its output and the end of containerd's log."""


class Containerd:
    """A containerd that a test starts, restarts and stops; nothing of the machine's own containerd is touched.

    *shim_directory* comes first in its PATH: that is where it finds `containerd-shim-<name>-v1`. All that it makes is
    below `directory` (short: a socket's path has at most 107 bytes) or in the containerd namespace `namespace`, which
    is nobody else's, so that what is left behind can be told from other people's.
    """

    def __init__(
        self,
        install: Install,
        shim_directory: str,
        environment: Mapping[str, str] | None = None,
        snapshotter: str = "",
        log_level: str = "debug",
        state: str = "",
    ) -> None:
        self.install = install
        self.directory = tempfile.mkdtemp(prefix="ctd-", dir="/tmp")
        self.namespace = f"ctd-{secrets.token_hex(4)}"
        self.address = f"{self.directory}/containerd.sock"
        self.root = f"{self.directory}/root"
        self.state = state or f"{self.directory}/state"
        self.log_path = f"{self.directory}/containerd.log"
        self.snapshotter = snapshotter or ("overlayfs" if is_overlay_supported(self.directory) else "native")
        path = os.pathsep.join([shim_directory, install.directory, os.environ.get("PATH", os.defpath)])
        self.environment = {"PATH": path, "HOME": self.directory, "LC_ALL": "C", **(environment or {})}
        self.log_level = log_level
        self._daemon: subprocess.Popen[bytes] | None = None
        Path(self.directory, "config.toml").write_text(self._configuration())

    def _configuration(self) -> str:
        disabled = ", ".join(f'"{name}"' for name in _DISABLED[self.install.major])
        return (
            f'version = 2\nroot = "{self.root}"\nstate = "{self.state}"\ndisabled_plugins = [{disabled}]\n'
            f'[grpc]\naddress = "{self.address}"\n[debug]\nlevel = "{self.log_level}"\n'
        )

    @property
    def pid(self) -> int | None:
        """The daemon's process id, None while it is not running."""
        return self._daemon.pid if self._daemon and self._daemon.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it answers. Raises: RuntimeError, with the end of its log, if it does not."""
        with open(self.log_path, "ab") as log:
            command = [f"{self.install.directory}/containerd", "--config", f"{self.directory}/config.toml"]
            self._daemon = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT
        while self.pid and time.monotonic() < deadline:
            if os.path.exists(self.address) and self.ctr("version", check=False).returncode == 0:
                return
            time.sleep(0.05)
        outcome = f"did not answer within {START_TIMEOUT:g} s" if self.pid else "ended at once"
        self.kill()
        raise RuntimeError(f"containerd {self.install.version} in {self.directory} {outcome}; its log:\n{self.log()}")

    def stop(self) -> None:
        """End it as an operator would, by SIGTERM; tasks go on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, by SIGKILL; tasks go on."""
        self._end(signal.SIGKILL)

    def restart(self, end_by: signal.Signals = signal.SIGTERM) -> None:
        """Stop it by *end_by* and start it again on the same directories; tasks go on meanwhile."""
        self._end(end_by)
        self.start()

    def _end(self, by: signal.Signals) -> None:
        if self._daemon is None:
            return
        self._daemon.send_signal(by)
        try:
            self._daemon.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
            raise RuntimeError(
                f"containerd did not end within {STOP_TIMEOUT:g} s of {by.name}:\n{self.log()}"
            ) from None
        finally:
            self._daemon = None

    def log(self) -> str:
        """Give the end of containerd's log, shims' lines included."""
        try:
            return Path(self.log_path).read_bytes()[-_LOG_TAIL:].decode(errors="replace")
        except FileNotFoundError:
            return "(no log)"

    def ctr_command(self, *arguments: str) -> list[str]:
        """Give the command line of this version's ctr, for tests that start it in the background."""
        return [f"{self.install.directory}/ctr", "--address", self.address, "--namespace", self.namespace, *arguments]

    def ctr_environment(self) -> dict[str, str]:
        """Give the environment for a ctr: the daemon's, and the snapshotter that suits this file system."""
        return {**self.environment, "CONTAINERD_SNAPSHOTTER": self.snapshotter}

    def ctr(
        self, *arguments: str, check: bool = True, timeout: float = 30.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run this version's ctr to its end and give its output.

        Raises: CtrFailedError if *check* and the exit status is not 0; subprocess.TimeoutExpired.
        """
        finished = subprocess.run(
            self.ctr_command(*arguments),
            env=self.ctr_environment(),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and finished.returncode:
            raise CtrFailedError(
                f"ctr {' '.join(arguments)}: exit status {finished.returncode}\nstdout: {finished.stdout}\n"
                f"stderr: {finished.stderr}\nend of containerd's log:\n{self.log()}"
            )
        return finished

    def import_image(self, tar: str | os.PathLike[str], *options: str) -> list[str]:
        """Import the image tar, unpacked for this snapshotter; give the names of all images there now."""
        if self.install.major == 2 and self.snapshotter != "overlayfs":
            options = ("--local", *options)  # the daemon's own unpacker is configured for overlayfs only
        self.ctr("images", "import", "--snapshotter", self.snapshotter, *options, os.fspath(tar), timeout=60)
        return self.images()

    def images(self) -> list[str]:
        """Give the names of the images."""
        return self.ctr("images", "ls", "--quiet").stdout.split()

    def containers(self) -> list[str]:
        """Give the ids of the containers."""
        return self.ctr("containers", "ls", "--quiet").stdout.split()

    def tasks(self) -> dict[str, Task]:
        """Give the tasks by id, each with its pid and status."""
        lines = [line.split() for line in self.ctr("tasks", "ls").stdout.splitlines()[1:]]
        return {name: Task(name, int(pid), status) for name, pid, status in lines}

    def bundle(self, container_id: str) -> str:
        """Give the directory of a task's bundle: config.json, rootfs, log."""
        return f"{self.state}/io.containerd.runtime.v2.task/{self.namespace}/{container_id}"

    def leftovers(self) -> Leftovers:
        """Take a snapshot of what is there now of this containerd's, the daemon itself not counted."""
        return Leftovers.snapshot(self.scope())

    def scope(self) -> Scope:
        """Say by what the processes, mounts and files of this containerd and its tasks can be known."""
        return Scope(
            markers=(self.directory, self.namespace),
            bundle_parents=tuple(f"{top}/io.containerd.runtime.v2.task" for top in (self.state, self.root)),
            spared=lambda: {self.pid} if self.pid else set(),
            spared_cgroups=frozenset({self.namespace}),  # the parent of its containers': stays with runc as well
        )

    def remove_all(self) -> None:
        """Kill and delete every task and container, by way of ctr, as a user would."""
        for task in self.tasks().values():
            self.ctr("tasks", "kill", "--signal", "SIGKILL", task.id, check=False)
            self.ctr("tasks", "delete", "--force", task.id, check=False)
        for container in self.containers():
            self.ctr("containers", "delete", container, check=False)

    def destroy(self) -> None:
        """End everything of this containerd by force, and remove its directory."""
        self.kill()
        self.scope().clear_by_force()
        shutil.rmtree(self.directory)
