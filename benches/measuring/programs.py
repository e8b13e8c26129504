"""What the containers run: the demo program as wasm, a static native one, and a shim that does nothing."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from containerd_shim_wasm_test_modules import HAS_DEFAULT_DEVICES
from containerd_shimkit.wire import encode_varint
from harness.images import BUSYBOX, NativeImage
from wasi_demo_app.image import WASM_PATH

__all__ = [
    "EXIT_STATUS",
    "FRESH_OUTPUT_END",
    "IMAGE",
    "NATIVE_OURS",
    "NATIVE_RUNC",
    "NULL",
    "WASM_OURS",
    "Contender",
    "Programs",
    "build",
    "fresh_module",
]

IMAGE: Final = "docker.io/library/bench:1"
EXIT_STATUS: Final = 7  # of programs that only end: no shim gives it by mistake
OURS: Final = "io.containerd.wasmtime.v1"
FRESH_OUTPUT_END: Final = "/dev/tty found\n"  # of the modules that nobody has seen
_SOURCES: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Contender:
    """Who runs what: a runtime, as containerd names it, and a program in the image."""

    name: str
    runtime: str
    program: str

    def echo(self, *words: str) -> list[str]:
        """Arguments of a task that prints *words*."""
        return [self.program, "echo", *words]

    def end(self) -> list[str]:
        """Arguments of a task that ends at once, with EXIT_STATUS, which tells that it ran."""
        return [self.program, "exit", str(EXIT_STATUS)]

    def sleep(self) -> list[str]:
        """Arguments of a task that stays until it is killed."""
        return [self.program, "sleep", "1000000"]


WASM_OURS: Final = Contender("wasm, ours", OURS, "/demo.wasm")
NATIVE_OURS: Final = Contender("native, ours", OURS, "/native")
NATIVE_RUNC: Final = Contender("native, runc", "io.containerd.runc.v2", "/native")
NULL: Final = Contender("null shim", "io.containerd.null.v1", "/native")


@dataclass(frozen=True, slots=True)
class Programs:
    """The files of the image by path, and the null shim's program, empty where there is no C compiler."""

    files: Mapping[str, bytes]
    null_shim: str
    native: str  # what the native program is, for the machine's description

    def image(self) -> NativeImage:
        """All of them in one image, so that every contender has the same root."""
        return NativeImage(IMAGE, self.files)

    def lay_out(self, directory: str) -> None:
        """Write them as a root file system, with the directories that the default spec mounts on.

        Several containers share it, and crun fails when two of them make a directory at once.
        """
        for name in ("dev", "proc", "run", "sys"):
            os.mkdir(os.path.join(directory, name))
        for name, content in self.files.items():
            path = os.path.join(directory, name)
            Path(path).write_bytes(content)
            os.chmod(path, 0o755)


def build(directory: str, socket_path: str, fresh: int = 0) -> Programs:
    """Compile what is native into *directory*, and gather all; *fresh* modules are made that nobody has seen before.

    Raises: FileNotFoundError when there is neither a C compiler nor a static busybox.
    """
    files = {"demo.wasm": Path(WASM_PATH).read_bytes()}
    compiler = shutil.which("cc")
    if compiler is None:
        files["native"] = Path(BUSYBOX).read_bytes()
        null_shim, native = "", "busybox (no C compiler here, so no null shim either)"
    else:
        null_shim, native = f"{directory}/containerd-shim-null-v1", "static, C"
        _compile(compiler, "null_shim.c", null_shim, f'-DSOCKET_PATH="{socket_path}"', f"-DEXIT_STATUS={EXIT_STATUS}")
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            _compile(compiler, "program.c", f"{scratch}/native")
            files["native"] = Path(scratch, "native").read_bytes()
    files |= {f"fresh-{number}.wasm": fresh_module() for number in range(fresh)}
    return Programs(files, null_shim, native)


def fresh_module() -> bytes:
    """A module of 24 kB that no cache has seen: a C program's, with a custom section of random bytes behind it."""
    content = b"\x05bench" + secrets.token_bytes(16)  # the section's name, then what is in it
    return HAS_DEFAULT_DEVICES.bytes + b"\0" + encode_varint(len(content)) + content


def _compile(compiler: str, source: str, target: str, *options: str) -> None:
    command = [compiler, "-O2", "-static", "-pthread", *options, str(_SOURCES / source), "-o", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
