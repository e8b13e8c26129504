"""A private containerd that serves Kubernetes' CRI, and crictl to speak to it as a kubelet would."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.containerd import START_TIMEOUT, Containerd, Install
from harness.leftovers import Scope

PAUSE_IMAGE = "registry.k8s.io/pause:test"
PLUGINS = "/usr/lib/cni"  # where Debian's containernetworking-plugins are
NAMESPACE = "k8s.io"  # of containerd; all that the CRI makes is in it
WASMTIME, RUNC = "wasmtime", "runc"  # the runtime handlers, of which the first is the default
WASMTIME_BY_PATH = "wasmtime-by-path"  # containerd 2.x asks only what has this runtime type for its features

_HANDLERS = {WASMTIME: "io.containerd.wasmtime.v1", RUNC: "io.containerd.runc.v2"}
POD, CONTAINER, HOST = 0, 1, 2  # whose namespace: a NamespaceMode of the CRI

_TIMEOUT = 60.0


class CrictlFailedError(Exception):
    """A crictl that ended with a status other than 0, with its output and the end of containerd's log."""


@dataclass(frozen=True, slots=True)
class Exec:
    """What a program that crictl had executed said, and how it ended."""

    status: int
    stdout: str
    stderr: str


class CriContainerd(Containerd):
    """A `Containerd` whose CRI is on, with our shim as the default runtime handler and runc's beside it.

    Pods get addresses of their own by the plugin ptp, which leaves nothing on the host when a pod has gone.
    """

    def __init__(
        self, install: Install, shim_directory: str, crictl: str, config_version: int = 2, *, maps_ports: bool = False
    ) -> None:
        self._maps_ports = maps_ports
        self._config_version = config_version
        self._shim = f"{shim_directory}/containerd-shim-wasmtime-v1"
        super().__init__(install, shim_directory, log_level="info")
        self.namespace = NAMESPACE
        self._crictl = crictl
        self.logs = f"{self.directory}/logs"
        self.cgroup_parent = f"/{Path(self.directory).name}"
        networks = Path(self.directory, "cni")
        networks.mkdir()
        (networks / "10-pods.conflist").write_text(json.dumps(self._network()))
        socket = f"unix://{self.address}"
        self._write(
            "crictl.yaml", {"runtime-endpoint": socket, "image-endpoint": socket, "timeout": int(_TIMEOUT)}
        )  # JSON is YAML

    def _network(self) -> dict[str, object]:
        # of several daemons' pods, each has addresses of its own
        subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}.0/24"
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": f"{self.directory}/addresses",
        }
        plugins: list[dict[str, object]] = [{"type": "ptp", "ipMasq": False, "ipam": ipam}]
        if self._maps_ports:
            plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
        return {"cniVersion": "0.4.0", "name": Path(self.directory).name, "plugins": plugins}

    def _configuration(self) -> str:
        top = (
            f'version = {self._config_version}\nroot = "{self.root}"\nstate = "{self.state}"\n'
            f'[grpc]\naddress = "{self.address}"\n[debug]\nlevel = "{self.log_level}"\n'
        )
        if self._config_version == 2:
            cri = 'plugins."io.containerd.grpc.v1.cri"'
            return (
                top
                + (
                    f'[{cri}]\nsandbox_image = "{PAUSE_IMAGE}"\nrestrict_oom_score_adj = true\n'
                    f'stream_server_address = "127.0.0.1"\nstream_server_port = "0"\n'
                    f'[{cri}.cni]\nbin_dir = "{PLUGINS}"\nconf_dir = "{self.directory}/cni"\n'
                    f'[{cri}.containerd]\nsnapshotter = "{self.snapshotter}"\ndefault_runtime_name = "{WASMTIME}"\n'
                )
                + self._handlers(f"{cri}.containerd")
            )
        images, runtime = 'plugins."io.containerd.cri.v1.images"', 'plugins."io.containerd.cri.v1.runtime"'
        return (
            top
            + (
                f'[{images}]\nsnapshotter = "{self.snapshotter}"\n[{images}.pinned_images]\nsandbox = "{PAUSE_IMAGE}"\n'
                f"[{runtime}]\nrestrict_oom_score_adj = true\n"
                f'[{runtime}.cni]\nbin_dirs = ["{PLUGINS}"]\nconf_dir = "{self.directory}/cni"\n'
                f'[{runtime}.containerd]\ndefault_runtime_name = "{WASMTIME}"\n'
                '[plugins."io.containerd.grpc.v1.cri"]\nstream_server_address = "127.0.0.1"\nstream_server_port = "0"\n'
            )
            + self._handlers(f"{runtime}.containerd")
        )

    def _handlers(self, table: str) -> str:
        tables = [f'[{table}.runtimes.{name}]\nruntime_type = "{kind}"\n' for name, kind in _HANDLERS.items()]
        by_path = f'[{table}.runtimes.{WASMTIME_BY_PATH}]\nruntime_type = "{_HANDLERS[RUNC]}"\n'
        return "".join((*tables, by_path, f'runtime_path = "{self._shim}"\n'))

    def start(self) -> None:
        """Start it and wait until its CRI, which reads its state after the rest, answers. Raises: RuntimeError."""
        super().start()
        deadline = time.monotonic() + START_TIMEOUT
        while self.crictl("version", check=False).returncode:
            if time.monotonic() >= deadline:
                raise RuntimeError(
                    f"the CRI did not answer within {START_TIMEOUT:g} s; containerd's log:\n{self.log()}"
                )
            time.sleep(0.05)

    def crictl_command(self, *arguments: str) -> list[str]:
        """Give a crictl's command line, for tests that start it themselves."""
        return [self._crictl, "--config", f"{self.directory}/crictl.yaml", *arguments]

    def crictl(
        self, *arguments: str, check: bool = True, stdin: str = "", timeout: float = _TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Run crictl to its end. Raises: CrictlFailedError, if *check*; subprocess.TimeoutExpired."""
        done = subprocess.run(
            self.crictl_command(*arguments),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise CrictlFailedError(
                f"crictl {' '.join(arguments)}: exit status {done.returncode}\nstdout: {done.stdout}\n"
                f"stderr: {done.stderr}\nend of containerd's log:\n{self.log()}"
            )
        return done

    def run_pod(self, name: str, handler: str = "", **linux: object) -> str:
        """Run a pod's sandbox; *linux* goes into the field `linux` of its configuration. Gives its id."""
        options = ["--runtime", handler] if handler else []
        return self.crictl("runp", *options, self._pod_file(name, linux)).stdout.strip()

    def create(self, pod: str, pod_name: str, name: str, image: str, command: list[str], **fields: Any) -> str:
        """Create a container in a pod; *fields* are further ones of its configuration, as crictl takes them."""
        config: dict[str, object] = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": command,
            "log_path": f"{name}.log",
            **fields,
        }
        path = self._write(f"{pod_name}-{name}.json", config)
        return self.crictl("create", pod, path, f"{self.directory}/{pod_name}.json").stdout.strip()

    def start_container(self, pod: str, pod_name: str, name: str, image: str, command: list[str], **fields: Any) -> str:
        """Create a container and start it."""
        container = self.create(pod, pod_name, name, image, command, **fields)
        self.crictl("start", container)
        return container

    def execute(self, container: str, *command: str, sync: bool = True, stdin: str | None = None) -> Exec:
        """Have a program executed, by ExecSync or by the streaming server."""
        options = ["--sync"] if sync else []
        if stdin is not None:
            options.append("--interactive")
        done = self.crictl("exec", *options, container, *command, check=False, stdin=stdin or "")
        return Exec(done.returncode, done.stdout, done.stderr)

    def inspect(self, container: str) -> dict[str, Any]:
        """Give the status of a container, as crictl prints it."""
        shown: dict[str, Any] = json.loads(self.crictl("inspect", container).stdout)
        return shown

    def scope(self) -> Scope:
        """Say by what the processes, mounts and files are known: by the directory, for the namespace is everybody's."""
        own = frozenset({Path(self.directory).name})
        return replace(super().scope(), markers=(self.directory, self.cgroup_parent), spared_cgroups=own)

    def destroy(self) -> None:
        """End everything; the pods by the CRI as long as it answers, for else their networks would stay."""
        if self.pid:
            try:
                self.remove_all()
            except (CrictlFailedError, subprocess.TimeoutExpired):
                pass  # what is told is why the test has failed
        super().destroy()

    def remove_all(self) -> None:
        """Stop and remove every pod with its containers, as a kubelet would."""
        for pod in self.crictl("pods", "--quiet").stdout.split():
            self.crictl("stopp", pod)
            self.crictl("rmp", "--force", pod)

    def _pod_file(self, name: str, linux: Mapping[str, Any]) -> str:
        network = linux.get("security_context", {}).get("namespace_options", {}).get("network")
        hostname = {} if network == HOST else {"hostname": name}  # as the kubelet has it
        config = {
            "metadata": {"name": name, "namespace": "tests", "uid": f"{name}-uid", "attempt": 0},
            **hostname,
            "log_directory": f"{self.logs}/{name}",
            "linux": {"cgroup_parent": self.cgroup_parent, **linux},
        }
        shutil.rmtree(f"{self.logs}/{name}", ignore_errors=True)  # of an earlier pod with this name
        os.makedirs(f"{self.logs}/{name}")
        return self._write(f"{name}.json", config)

    def _write(self, name: str, value: object) -> str:
        path = f"{self.directory}/{name}"
        Path(path).write_text(json.dumps(value))
        return path
