"""Compiling the launcher: by ziglang for what is published, by the C compiler at hand for a development install.

Imports nothing of this package: the build hook of the package loads this file by its path.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

__all__ = [
    "BINARY",
    "DIRECTORY",
    "MACHINES",
    "SOURCES",
    "ZIG_VERSION",
    "CompileError",
    "compile_launcher",
    "find_compiler",
    "is_built_from",
    "sources_digest",
    "zig",
]

DIRECTORY: Final = os.path.dirname(os.path.abspath(__file__))
BINARY: Final = "containerd-shim-launcher"  # beside the sources, where it has been built
SOURCES: Final = ("launcher.c", "context.c", "reply.c", "seal.c")
MACHINES: Final = ("x86_64", "aarch64")
ZIG_VERSION: Final = "0.17.1"  # as scripts/build-wasm: the same source gives the same bytes everywhere

_HEADERS: Final = ("context.h", "reply.h", "seal.h")
_FLAGS: Final = ("-std=c11", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror")


class CompileError(Exception):
    """The compiler is not there, or has not made a launcher."""


def compile_launcher(
    compiler: Sequence[str], output: str, directory: str = DIRECTORY, definitions: Sequence[str] = ()
) -> None:
    """Compile the sources in *directory* to the file *output*, whole or not at all.

    Raises: CompileError with what the compiler said; OSError when the result cannot be put there.
    """
    definitions = (f'LAUNCHER_SOURCES="{sources_digest(directory)}"', *definitions)
    with tempfile.TemporaryDirectory(prefix="launcher-") as scratch:
        built = os.path.join(scratch, BINARY)
        command = [*compiler, *_FLAGS, *(f"-D{each}" for each in definitions), "-o", built, *SOURCES]
        try:
            # from the sources' own directory, so that no path is seen
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CompileError(f"{command[0]} cannot be executed: {error.strerror}") from error
        if done.returncode or not os.path.isfile(built):
            raise CompileError(f"{shlex.join(command)} failed in {directory}:\n{done.stderr.strip()}")
        temporary = f"{output}.{os.getpid()}"
        shutil.copyfile(built, temporary)
        os.chmod(temporary, 0o755)  # noqa: S103  (a program)
        os.replace(temporary, output)


def find_compiler() -> list[str] | None:
    """The command of the machine's C compiler: $CC, else cc, gcc or clang of PATH; None when there is none."""
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen
    return next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def zig(machine: str) -> list[str]:
    """The command of the ziglang wheel's compiler for static programs of *machine*, one of MACHINES."""
    if machine not in MACHINES:
        raise CompileError(f"no launcher is built for the machine {machine!r}: it is one of {', '.join(MACHINES)}")
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl"]


def sources_digest(directory: str = DIRECTORY) -> str:
    """16 hexadecimal digits that change with any of the sources."""
    digest = hashlib.sha256()
    for name in (*SOURCES, *_HEADERS):
        with open(os.path.join(directory, name), "rb") as file:
            digest.update(file.read() + b"\0")
    return digest.hexdigest()[:16]


def is_built_from(binary: str, directory: str = DIRECTORY) -> bool:
    """Whether the file *binary* exists and comes from the sources in *directory* as they are now."""
    try:
        with open(binary, "rb") as file:
            return f"launcher sources={sources_digest(directory)}\0".encode() in file.read()
    except OSError:
        return False
