"""Every program does what its summary says, under wasmtime, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path

import containerd_shim_wasm_test_modules as test_modules
import pytest
from containerd_shim_wasm_test_modules import (
    ARGS_ENV_STDIN,
    COMPONENT_EXIT,
    COMPONENT_HELLO_WORLD,
    CUSTOM_ENTRYPOINT,
    DIR_LISTER,
    EXIT_CODE,
    FILE_READER,
    FILE_WRITER,
    HAS_DEFAULT_DEVICES,
    HELLO_WORLD,
    MEMORY_HOG,
    MISSING_IMPORT,
    MODULES,
    NO_START,
    OUTPUT_FLOODER,
    RANDOM,
    SIMPLE_COMPONENT,
    SLEEPER,
    SPINNER,
    STACK_OVERFLOW,
    UNREACHABLE,
    TestModule,
)

ROOT = Path(__file__).parents[3]
MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"
FAILED = 134

# argv: program, export, root to preopen or "", environment as NAME=VALUE lines, the guest's arguments
RUNNER = f"""
import sys
import wasmtime
from wasmtime import component

program, export, root, environment, *arguments = sys.argv[1:]
config = wasmtime.WasiConfig()
config.argv = arguments
config.env = [tuple(line.split("=", 1)) for line in environment.splitlines()]
config.inherit_stdin(), config.inherit_stdout(), config.inherit_stderr()
if root:
    config.preopen_dir(root, "/")
engine = wasmtime.Engine()
store = wasmtime.Store(engine)
store.set_wasi(config)
store.set_limits(memory_size=64 << 20)
data = open(program, "rb").read()
try:
    if data[4] == 1:
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        linker.instantiate(store, wasmtime.Module(engine, data)).exports(store)[export](store)
    else:
        linker = component.Linker(engine)
        linker.add_wasip2()
        instance = linker.instantiate(store, component.Component(engine, data))
        *interface, name = export.rsplit("#", 1)
        parent = instance.get_export_index(store, interface[0]) if interface else None
        instance.get_func(store, instance.get_export_index(store, name, parent))(store)
except wasmtime.ExitTrap as end:
    sys.exit(end.code)
except (wasmtime.WasmtimeError, wasmtime.Trap, KeyError) as error:
    print(type(error).__name__, error, file=sys.stderr)
    sys.exit({FAILED})
"""


def command(
    module: TestModule,
    arguments: Sequence[str] = (),
    *,
    export: str = "",
    root: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    default = "_start" if module.bytes.startswith(MODULE) else "wasi:cli/run@0.2.0#run"
    lines = "\n".join(f"{name}={value}" for name, value in (environment or {}).items())
    return [sys.executable, "-c", RUNNER, str(module.path), export or default, str(root or ""), lines, *arguments]


def run(started: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(started, input=stdin, capture_output=True, timeout=50, check=False)


def test_every_program_is_a_constant_of_its_name_and_has_its_source() -> None:
    assert {module.name.upper() for module in MODULES} == set(test_modules.__all__) - {"MODULES", "TestModule"}
    for module in MODULES:
        assert getattr(test_modules, module.name.upper()) is module
        assert module.source.stem == module.path.stem == module.name
        assert module.source.is_file()
        assert module.summary


def test_no_file_is_there_without_a_constant() -> None:
    there = {path.name for path in MODULES[0].path.parent.iterdir()}
    assert there == {path.name for module in MODULES for path in (module.path, module.source)}


def test_every_binary_is_wasm_and_small() -> None:
    for module in MODULES:
        header = COMPONENT if "component" in module.name else MODULE
        assert module.bytes.startswith(header), module.name
        assert len(module.bytes) < 32 << 10, module.name


def test_no_binary_carries_a_path_or_names() -> None:
    for module in MODULES:
        if module.source.suffix == ".c":
            assert re.search(rb"\.debug_|/home/|/tmp/|\.c\0", module.bytes) is None, module.name


def test_a_constant_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        HELLO_WORLD.name = "other"  # type: ignore[misc]


def test_the_binaries_of_texts_are_what_the_texts_give() -> None:
    script = ROOT / "scripts" / "build-wasm"
    if not script.exists():
        pytest.skip(f"no {script}: this is not a checkout of the whole workspace")
    done = run([sys.executable, str(script), "--check", "--only-text"])
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("module", "export", "status", "stdout"),
    [
        (HELLO_WORLD, "", 0, b"hello world\n"),
        (CUSTOM_ENTRYPOINT, "foo", 0, b"hello world\n"),
        (EXIT_CODE, "", 42, b""),
        (NO_START, "other", 0, b""),
        (SIMPLE_COMPONENT, "thunk", 0, b""),
        (COMPONENT_HELLO_WORLD, "", 0, b"Hello, world!\n"),
        (COMPONENT_EXIT, "", 1, b""),
    ],
    ids=lambda value: value.name if isinstance(value, TestModule) else None,
)
def test_it_ends_as_it_should(module: TestModule, export: str, status: int, stdout: bytes) -> None:
    done = run(command(module, export=export))
    assert (done.returncode, done.stdout, done.stderr) == (status, stdout, b"")


@pytest.mark.parametrize(
    ("module", "export", "reason"),
    [
        (UNREACHABLE, "", b"unreachable"),
        (STACK_OVERFLOW, "", b"stack"),
        (MEMORY_HOG, "", b"unreachable"),
        (MISSING_IMPORT, "", b"nobody"),
        (CUSTOM_ENTRYPOINT, "", b"KeyError '_start'"),
        (NO_START, "", b"KeyError '_start'"),
        (SIMPLE_COMPONENT, "thunk-trap", b"unreachable"),
    ],
    ids=lambda value: value.name if isinstance(value, TestModule) else None,
)
def test_it_fails_as_it_should(module: TestModule, export: str, reason: bytes) -> None:
    done = run(command(module, export=export))
    assert done.returncode == FAILED
    assert reason in done.stderr


def test_the_memory_hog_touches_what_it_takes() -> None:
    measured = f"{RUNNER.replace('sys.exit', 'print(peak()); sys.exit')}"
    helper = "import resource\ndef peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    started = command(MEMORY_HOG)
    started[2] = helper + measured
    assert int(run(started).stdout) > (48 << 10)  # KiB


def test_random_bytes_are_hexadecimal_and_others_each_time() -> None:
    lines = [run(command(RANDOM)).stdout for _ in range(2)]
    assert all(re.fullmatch(rb"[0-9a-f]{32}\n", line) for line in lines)
    assert lines[0] != lines[1]


def test_arguments_environment_and_input_come_out_again() -> None:
    started = command(ARGS_ENV_STDIN, ["program", "one", "two words"], environment={"A": "1", "B": "x=y"})
    done = run(started, stdin=b"typed\0\xff without an end")
    assert done.stdout == b"arg: program\narg: one\narg: two words\nenv: A=1\nenv: B=x=y\ntyped\0\xff without an end"
    assert done.returncode == 0


def test_the_file_writer_and_the_file_reader_copy_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 100
    assert run(command(FILE_WRITER, ["writer", "/one"], root=tmp_path), stdin=data).returncode == 0
    assert (tmp_path / "one").read_bytes() == data
    (tmp_path / "two").write_bytes(b"two")
    assert run(command(FILE_READER, ["reader", "/one", "/two"], root=tmp_path)).stdout == data + b"two"


@pytest.mark.parametrize("module", [FILE_READER, FILE_WRITER, DIR_LISTER], ids=lambda module: module.name)
def test_a_path_that_cannot_be_opened_is_named_with_status_1(module: TestModule, tmp_path: Path) -> None:
    done = run(command(module, ["program", "/missing/file"], root=tmp_path))
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"/missing/file" in done.stderr


def test_a_directory_is_listed_in_order_and_below_only_on_request(tmp_path: Path) -> None:
    deep = tmp_path / "list" / "b" / "/".join("d" * 40)
    deep.mkdir(parents=True)
    (tmp_path / "list" / "a").touch()
    (tmp_path / "list" / "c").touch()
    assert run(command(DIR_LISTER, ["lister", "/list"], root=tmp_path)).stdout == b"a\nb/\nc\n"
    lines = run(command(DIR_LISTER, ["lister", "-r", "/list"], root=tmp_path)).stdout.decode().splitlines()
    assert lines[:3] == ["a", "b/", "b/d/"]
    assert lines[-2:] == ["b/" + "d/" * 40, "c"]


def test_the_devices_are_looked_for_one_by_one(tmp_path: Path) -> None:
    missing = run(command(HAS_DEFAULT_DEVICES, root=tmp_path))
    assert (missing.returncode, missing.stderr) == (1, b"/dev/null is missing\n")
    there = run(command(HAS_DEFAULT_DEVICES, root=Path("/")))
    names = ("null", "zero", "full", "random", "urandom", "tty")
    assert there.stdout == b"".join(b"/dev/%s found\n" % name.encode() for name in names)
    assert there.returncode == 0


@pytest.mark.parametrize("size", [0, 1, 64, 100_001])
def test_the_flooder_writes_exactly_as_much_as_it_is_told(size: int) -> None:
    assert len(run(command(OUTPUT_FLOODER, ["flooder", str(size)])).stdout) == size


@pytest.mark.parametrize(("module", "stdout"), [(SLEEPER, b"ready\n"), (SPINNER, b"")])
def test_it_does_not_end_by_itself(module: TestModule, stdout: bytes) -> None:
    with subprocess.Popen(command(module), stdout=subprocess.PIPE) as guest:
        assert guest.stdout
        if stdout:
            assert guest.stdout.readline() == stdout
        with pytest.raises(subprocess.TimeoutExpired):
            guest.wait(1.0)
        guest.kill()


def test_the_readme_has_every_summary() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    for module in MODULES:
        assert f"| `{module.name.upper()}` | {module.summary} |" in readme
