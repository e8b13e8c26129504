"""The engine without a container: compile, load in a child, run there."""

from __future__ import annotations

import os
import re
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


def test_more_arguments_and_variables_than_are_made_room_for_beforehand_arrive(run: Run) -> None:
    args = ("app", *(f"a{number}" for number in range(200)))
    env = {f"E{number}": str(number) for number in range(200)}
    status, said = run(ARGS_ENV_STDIN.bytes, args=args, env=env)
    assert status == 0
    expected = [f"arg: {arg}" for arg in args] + [f"env: {name}={value}" for name, value in env.items()]
    assert said.splitlines()[: len(expected)] == expected


@pytest.mark.parametrize(("word", "problem"), [("a\0b", "has a NUL character"), ("\udc80", "is not Unicode text")])
def test_what_wasi_cannot_pass_on_is_said_and_not_cut_short(run: Run, word: str, problem: str) -> None:
    wanted = f"InvalidArgumentError: {word!a} {problem}"
    for said in (
        run(ARGS_ENV_STDIN.bytes, args=("app", word)),
        run(ARGS_ENV_STDIN.bytes, env={word: "1"}),
        run(ARGS_ENV_STDIN.bytes, env={"A": word}),
    ):
        assert said[0] == 137
        assert said[1].startswith(wanted)


def exiting(status: int) -> bytes:
    return f"""(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {status}))))""".encode()


@pytest.mark.parametrize("status", [0, 1, 42, 125])
def test_the_status_of_an_exit_arrives(run: Run, status: int) -> None:
    assert run(exiting(status)) == (status, "")


def test_a_status_that_wasi_does_not_know_is_a_failure(run: Run) -> None:
    status, said = run(exiting(126))
    assert status == 137
    assert "exit with invalid exit status outside of [0..126)" in said


REACTOR = b"""(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (global $made (mut i32) (i32.const 0))
    (func (export "_initialize") (global.set $made (i32.const 7)))
    (func (export "status") (call $exit (global.get $made)))
    (func (export "many") (result i32 i64 externref funcref)
        (i32.const 1) (i64.const 2) (ref.null extern) (ref.null func)))"""


@pytest.mark.parametrize(("func", "status"), [("status", 7), ("many", 0)])
def test_a_reactor_is_initialized_first_and_results_are_let_go(run: Run, func: str, status: int) -> None:
    assert run(REACTOR, func) == (status, "")


def test_an_export_that_is_no_function_is_not_there(run: Run) -> None:
    status, said = run(REACTOR, "memory")
    assert status == 137
    assert "'memory' is not there" in said
    assert "it has: _initialize, many, status (choose" in said


RESULTS = b"""(component
    (core module $code
        (memory (export "memory") 1)
        (data (i32.const 8) "\\01\\00\\00\\00\\07\\00\\00\\00")
        (data (i32.const 24) "\\20\\00\\00\\00\\05\\00\\00\\00hello")
        (func (export "one") (result i32) (i32.const 1))
        (func (export "failed") (result i32) (i32.const 8))
        (func (export "fine") (result i32) (i32.const 16))
        (func (export "text") (result i32) (i32.const 24))
        (func (export "takes") (param i32)))
    (core instance $i (instantiate $code))
    (alias core export $i "memory" (core memory $memory))
    (func (export "bare-error") (result (result)) (canon lift (core func $i "one")))
    (func (export "error") (result (result u32 (error u32)))
        (canon lift (core func $i "failed") (memory $memory)))
    (func (export "fine") (result (result u32 (error u32)))
        (canon lift (core func $i "fine") (memory $memory)))
    (func (export "text") (result string) (canon lift (core func $i "text") (memory $memory)))
    (func (export "flag") (result bool) (canon lift (core func $i "one")))
    (func (export "takes") (param "number" u32) (canon lift (core func $i "takes"))))"""


@pytest.mark.parametrize(("func", "status"), [("bare-error", 1), ("error", 1), ("fine", 0), ("text", 0), ("flag", 0)])
def test_of_what_a_components_function_returns_only_an_error_is_a_status(run: Run, func: str, status: int) -> None:
    assert run(RESULTS, func) == (status, "")


def test_a_components_function_with_arguments_is_refused(run: Run) -> None:
    status, said = run(RESULTS, "takes")
    assert status == 137
    assert "export 'takes' is not a function without arguments" in said


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


def test_the_cache_key_names_library_machine_and_what_else_decides_which_code_fits(engine: WasmtimeEngine) -> None:
    key = engine.can_precompile()
    assert re.fullmatch(rf"wasmtime-50(\.\d+)+-{os.uname().machine}-[0-9a-f]{{16}}", key)


def test_the_cache_key_is_the_same_in_every_process_and_without_warming_up(engine: WasmtimeEngine) -> None:
    code = """
from containerd_shim_wasm import Settings
from containerd_shim_wasmtime import WasmtimeEngine
print(WasmtimeEngine(Settings()).can_precompile())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{engine.can_precompile()}\n", "")


def test_a_warm_engine_that_has_compiled_holds_no_thread_and_imports_nothing_more() -> None:
    code = """
import os, sys
from containerd_shim_wasm import Settings, WasmLayer
from containerd_shim_wasmtime import WasmtimeEngine
def loaded():
    return any("_libwasmtime" in line for line in open("/proc/self/maps"))
engine = WasmtimeEngine(Settings())
assert engine.version_details().startswith("  Engine: wasmtime 50.")
assert not loaded(), "the library is for a shim that serves"
engine.warm()
assert loaded()
sys.path.clear(); sys.meta_path.clear()
other = WasmtimeEngine(Settings(procfs=True))
other.warm()
other.precompile([WasmLayer(b"(module)")])
assert "wasmtime" not in sys.modules, "its own Python is dear"
print(len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
