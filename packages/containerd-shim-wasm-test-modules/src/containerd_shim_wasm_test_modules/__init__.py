"""Small WebAssembly programs that tests run, each with its source beside it."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "ARGS_ENV_STDIN",
    "COMPONENT_EXIT",
    "COMPONENT_HELLO_WORLD",
    "CUSTOM_ENTRYPOINT",
    "DIR_LISTER",
    "EXIT_CODE",
    "FILE_READER",
    "FILE_WRITER",
    "HAS_DEFAULT_DEVICES",
    "HELLO_WORLD",
    "MEMORY_HOG",
    "MISSING_IMPORT",
    "MODULES",
    "NO_START",
    "OUTPUT_FLOODER",
    "RANDOM",
    "SIMPLE_COMPONENT",
    "SLEEPER",
    "SPINNER",
    "STACK_OVERFLOW",
    "UNREACHABLE",
    "TestModule",
]

_DIRECTORY: Final = Path(__file__).parent / "modules"


@dataclass(frozen=True, slots=True)
class TestModule:
    """A program: its name, the file of its binary, and what running it shows."""

    __test__ = False  # pytest: not a class of tests

    name: str
    path: Path
    summary: str

    @property
    def source(self) -> Path:
        """The file it is made of: WebAssembly text or C."""
        text = self.path.with_suffix(".wat")
        return text if text.exists() else self.path.with_suffix(".c")

    @property
    def bytes(self) -> builtins.bytes:
        """The binary, read from its file."""
        return self.path.read_bytes()


def _module(name: str, summary: str) -> TestModule:
    return TestModule(name, _DIRECTORY / f"{name}.wasm", summary)


HELLO_WORLD: Final = _module("hello_world", "prints `hello world`")
CUSTOM_ENTRYPOINT: Final = _module("custom_entrypoint", "prints `hello world` from its export `foo`; has no `_start`")
EXIT_CODE: Final = _module("exit_code", "ends with status 42")
UNREACHABLE: Final = _module("unreachable", "traps at once")
STACK_OVERFLOW: Final = _module("stack_overflow", "calls itself until it traps")
MISSING_IMPORT: Final = _module("missing_import", "cannot be linked: it imports `nothing` from `nobody`")
NO_START: Final = _module("no_start", "exports `other` and `with_argument`, but no `_start`")
SPINNER: Final = _module("spinner", "computes for ever")
SLEEPER: Final = _module("sleeper", "prints `ready` and sleeps for ever")
MEMORY_HOG: Final = _module("memory_hog", "takes memory, a MiB at a time, until it gets no more; then it traps")
RANDOM: Final = _module("random", "prints 16 random bytes in hexadecimal")
ARGS_ENV_STDIN: Final = _module("args_env_stdin", "prints `arg: X` and `env: X=Y` lines, then copies its input")
FILE_READER: Final = _module("file_reader", "copies the files that its arguments name to its output")
FILE_WRITER: Final = _module("file_writer", "copies its input to the file that its argument names")
DIR_LISTER: Final = _module("dir_lister", "lists the directory that its argument names; with `-r` all that is below it")
HAS_DEFAULT_DEVICES: Final = _module("has_default_devices", "ends with 0 when the devices of a container are there")
OUTPUT_FLOODER: Final = _module("output_flooder", "writes as many bytes as its argument says")
SIMPLE_COMPONENT: Final = _module("simple_component", "exports `thunk`, which returns, and `thunk-trap`, which traps")
COMPONENT_HELLO_WORLD: Final = _module("component_hello_world", "prints `Hello, world!` by wasi:cli/run")
COMPONENT_EXIT: Final = _module("component_exit", "ends with status 1 by wasi:cli/exit")

MODULES: Final[tuple[TestModule, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, TestModule)
)
"""All of them, in the order above."""
