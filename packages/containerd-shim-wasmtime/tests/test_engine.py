"""The engine without a container: compile, load in a child, run there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from containerd_shim_wasm import Guest, InvalidArgumentError, RuntimeContext, Settings, WasmLayer
from containerd_shim_wasm.paths import parse_entrypoint
from containerd_shim_wasm_test_modules import (
    ARGS_ENV_STDIN,
    COMPONENT_EXIT,
    COMPONENT_HELLO_WORLD,
    CUSTOM_ENTRYPOINT,
    EXIT_CODE,
    HELLO_WORLD,
    MISSING_IMPORT,
    NO_START,
    SIMPLE_COMPONENT,
    STACK_OVERFLOW,
    UNREACHABLE,
)
from containerd_shim_wasmtime import WasmtimeEngine

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def engine() -> WasmtimeEngine:
    made = WasmtimeEngine(Settings())
    made.warm()
    return made


@pytest.fixture
def run(engine: WasmtimeEngine) -> Run:
    """Compile a program here and run it in a forked child, as a shim would; its status and output (or error)."""

    def forked(
        program: bytes, func: str = "", args: tuple[str, ...] = ("app",), env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        compiled = engine.precompile([WasmLayer(program)])[0]
        assert compiled is not None
        descriptor = os.memfd_create("code")
        os.write(descriptor, compiled)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writer, 1)
            entrypoint = parse_entrypoint(f"app#{func}")
            ctx = RuntimeContext("id", args, env or {}, entrypoint, Guest(descriptor, compiled=True), {})
            try:
                engine.load(ctx)
                os._exit(engine.run_wasi(ctx))
            except Exception as error:
                os.write(1, f"{type(error).__name__}: {error}".encode())
                os._exit(137)
        os.close(writer)
        with open(reader, "rb") as output:
            said = output.read().decode()
        os.close(descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said

    return forked


@pytest.mark.parametrize(
    ("program", "func", "expected"),
    [
        (HELLO_WORLD.bytes, "", (0, "hello world\n")),
        (HELLO_WORLD.source.read_bytes(), "", (0, "hello world\n")),
        (CUSTOM_ENTRYPOINT.bytes, "foo", (0, "hello world\n")),
        (EXIT_CODE.bytes, "", (42, "")),
        (COMPONENT_HELLO_WORLD.bytes, "", (0, "Hello, world!\n")),
        (COMPONENT_HELLO_WORLD.source.read_bytes(), "", (0, "Hello, world!\n")),
        (COMPONENT_EXIT.bytes, "", (1, "")),
        (SIMPLE_COMPONENT.bytes, "thunk", (0, "")),
    ],
)
def test_modules_components_and_text_of_both_run(
    run: Run, program: bytes, func: str, expected: tuple[int, str]
) -> None:
    assert run(program, func) == expected


@pytest.mark.parametrize(
    ("program", "func", "words"),
    [
        (UNREACHABLE.bytes, "", ["unreachable"]),
        (STACK_OVERFLOW.bytes, "", ["call stack exhausted"]),
        (MISSING_IMPORT.bytes, "", ["unknown import", "nobody::nothing"]),
        (NO_START.bytes, "", ["'_start' is not there", "it has: other (choose one by FILE#NAME)"]),
        (NO_START.bytes, "with_argument", ["'with_argument' takes arguments"]),
        (SIMPLE_COMPONENT.bytes, "", ["does not export 'wasi:cli/run@0.2'", "thunk, thunk-trap"]),
        (SIMPLE_COMPONENT.bytes, "nothing", ["does not export 'nothing'"]),
        (SIMPLE_COMPONENT.bytes, "thunk-trap", ["unreachable"]),
    ],
)
def test_a_failure_says_what_is_wrong_and_what_there_is(run: Run, program: bytes, func: str, words: list[str]) -> None:
    status, said = run(program, func)
    assert status == 137
    for word in words:
        assert word in said


def test_arguments_and_environment_arrive_as_they_are(run: Run) -> None:
    status, said = run(ARGS_ENV_STDIN.bytes, args=("app", "", "a b", "é"), env={"A": "1", "B": "x=y"})
    assert status == 0
    assert said.splitlines()[:6] == ["arg: app", "arg: ", "arg: a b", "arg: é", "env: A=1", "env: B=x=y"]


@pytest.mark.parametrize(
    "program", [b"", b"\0asm", HELLO_WORLD.bytes[:-5], b"(module", b"\0asm\x0d\0\x01\0\xff", b"\xff" * 9]
)
def test_what_is_no_program_is_refused_when_it_is_compiled(engine: WasmtimeEngine, program: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="not valid WebAssembly for wasmtime"):
        engine.precompile([WasmLayer(program)])


def test_each_layer_gets_its_own_result(engine: WasmtimeEngine) -> None:
    results = engine.precompile([WasmLayer(HELLO_WORLD.bytes), WasmLayer(SIMPLE_COMPONENT.bytes)])
    assert len(results) == 2
    assert all(result is not None and result.startswith(b"\x7fELF") for result in results)


def test_the_cache_key_names_library_and_machine(engine: WasmtimeEngine) -> None:
    key = engine.can_precompile()
    assert key is not None
    assert key.startswith("wasmtime-")
    assert key.endswith(os.uname().machine)


def test_a_warm_engine_that_has_compiled_holds_no_thread_and_imports_nothing_more() -> None:
    code = """
import os, sys
from containerd_shim_wasm import Settings, WasmLayer
from containerd_shim_wasmtime import WasmtimeEngine
assert "wasmtime" not in sys.modules, "the library is for a shim that serves"
engine = WasmtimeEngine(Settings())
engine.warm()
sys.path.clear(); sys.meta_path.clear()
other = WasmtimeEngine(Settings(procfs=True))
other.warm()
other.precompile([WasmLayer(b"(module)")])
print(len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
