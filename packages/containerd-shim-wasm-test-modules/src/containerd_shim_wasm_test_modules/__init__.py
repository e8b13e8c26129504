"""Small WebAssembly programs that tests run, each with its source beside it."""

from __future__ import annotations

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
    """A program: its name, and what running it shows."""

    __test__ = False  # pytest: not a class of tests

    name: str
    summary: str

    @property
    def path(self) -> Path:
        """The binary's file."""
        return _DIRECTORY / f"{self.name}.wasm"

    @property
    def source(self) -> Path:
        """The source's file: WebAssembly text or C."""
        text = _DIRECTORY / f"{self.name}.wat"
        return text if text.exists() else _DIRECTORY / f"{self.name}.c"

    @property
    def bytes(self) -> bytes:
        """The binary."""
        return self.path.read_bytes()


HELLO_WORLD: Final = TestModule("hello_world", "prints `hello world`")
CUSTOM_ENTRYPOINT: Final = TestModule("custom_entrypoint", "prints `hello world` from its export `foo`; no _start")
EXIT_CODE: Final = TestModule("exit_code", "ends with status 42")
UNREACHABLE: Final = TestModule("unreachable", "traps at once")
STACK_OVERFLOW: Final = TestModule("stack_overflow", "traps when its stack is full")
MISSING_IMPORT: Final = TestModule("missing_import", "cannot be linked")
NO_START: Final = TestModule("no_start", "exports `other` and `with_argument`, but no _start")
SPINNER: Final = TestModule("spinner", "computes for ever")
SLEEPER: Final = TestModule("sleeper", "prints `ready`, and sleeps for ever")
MEMORY_HOG: Final = TestModule("memory_hog", "takes memory until it gets no more, then traps")
RANDOM: Final = TestModule("random", "prints 16 random bytes as 32 letters")
ARGS_ENV_STDIN: Final = TestModule(
    "args_env_stdin", "prints `arg: X`, `env: X=Y`, then each line of input as `stdin: X`"
)
FILE_READER: Final = TestModule("file_reader", "copies the files that its arguments name to its output")
DIR_LISTER: Final = TestModule("dir_lister", "lists the directory that its argument names")
HAS_DEFAULT_DEVICES: Final = TestModule("has_default_devices", "ends with 0 when a container's devices are there")
OUTPUT_FLOODER: Final = TestModule("output_flooder", "writes as many bytes as its argument says")
SIMPLE_COMPONENT: Final = TestModule("simple_component", "exports `thunk`, which returns, and `thunk-trap`")
COMPONENT_HELLO_WORLD: Final = TestModule("component_hello_world", "prints `Hello, world!` by wasi:cli/run")
COMPONENT_EXIT: Final = TestModule("component_exit", "ends with status 1 by wasi:cli/exit")

MODULES: Final = tuple(value for value in list(globals().values()) if isinstance(value, TestModule))
"""All of them."""
