"""Programs called containerd-shim-NAME-v1: which kind one is, and what it runs."""

from __future__ import annotations

import enum
import os
import re
import shlex
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from ..errors import InvalidArgumentError
from ..launcher.block import MAX_FILE_BYTES, is_launcher, read_command, read_sources

__all__ = ["Kind", "Program", "RuntimeName", "interpreter_of", "program_name", "read_program", "runtime_name"]

if TYPE_CHECKING:
    _StringType = click.ParamType[str]
else:
    _StringType = click.ParamType  # generic only from click 8.4 on

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PROGRAM: Final = re.compile(rf"containerd-shim-({_NAME.pattern})-v1")
_SHELL_DETOUR: Final = b"'''exec' "  # installers write it where the interpreter's path is too long for "#!"


class Kind(enum.Enum):
    """What a file of that name is."""

    LAUNCHER = "launcher"
    CONSOLE_SCRIPT = "console script"
    OTHER = "other program"


@dataclass(frozen=True, slots=True)
class Program:
    """A file as it was found; `command` are the words that run the shim's Python program, if they are known."""

    path: str
    kind: Kind
    command: tuple[str, ...] = ()
    sources: str = ""  # of a launcher: the digest of what it was built from
    problem: str = ""  # of a launcher: why it cannot work at all
    data: bytes = b""  # of a launcher: the whole file


class RuntimeName(_StringType):
    """The NAME in `io.containerd.NAME.v1`."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what cannot be one."""
        if not _NAME.fullmatch(value):
            self.fail(f"{value!r} is not the NAME in io.containerd.NAME.v1, such as wasmtime", param, ctx)
        return value


def program_name(name: str) -> str:
    """What containerd executes for the runtime io.containerd.NAME.v1."""
    return f"containerd-shim-{name}-v1"


def runtime_name(program: str) -> str:
    """The NAME in a program's file name; "" when it is none for a runtime io.containerd.NAME.v1."""
    found = _PROGRAM.fullmatch(program)
    return found[1] if found else ""


def read_program(path: str) -> Program | None:
    """What is at *path*, a link not being followed; None when nothing is. Raises: OSError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
        return Program(path, Kind.OTHER)
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES)
    if is_launcher(data):
        return _launcher(path, data)
    interpreter = interpreter_of(data)
    if interpreter:
        return Program(path, Kind.CONSOLE_SCRIPT, (interpreter, "-I", path))
    return Program(path, Kind.OTHER)


def _launcher(path: str, data: bytes) -> Program:
    try:
        command = read_command(data)
    except InvalidArgumentError as error:
        return Program(path, Kind.LAUNCHER, problem=str(error), data=data)
    problem = "" if command else "it has no command: it was copied, not installed"
    return Program(path, Kind.LAUNCHER, command, read_sources(data), problem, data)


def interpreter_of(data: bytes) -> str:
    """The Python that a console script names in its first lines; "" when it is no script of Python."""
    if not data.startswith(b"#!"):
        return ""
    first, second, *_ = [*data[:4096].split(b"\n"), b""]
    words = first[2:].split()
    if second.startswith(_SHELL_DETOUR):
        try:
            words = [os.fsencode(word) for word in shlex.split(os.fsdecode(second[len(_SHELL_DETOUR) :]))]
        except ValueError:
            return ""
    interpreter = os.fsdecode(words[0]) if words else ""
    return interpreter if re.match(r"(python|pypy)", os.path.basename(interpreter)) else ""
