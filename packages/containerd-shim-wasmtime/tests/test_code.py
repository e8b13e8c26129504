"""Compiled code: what it is told apart by, what is refused, and that running it again and again leaks nothing."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from containerd_shim_wasm import InternalError
from containerd_shim_wasm_test_modules import COMPONENT_HELLO_WORLD, HELLO_WORLD
from containerd_shim_wasmtime.capi import Owned, WasmtimeError, lib
from containerd_shim_wasmtime.compiler import _section, code_identity, compile_program
from containerd_shim_wasmtime.component import LoadedComponent
from containerd_shim_wasmtime.library import find_library
from containerd_shim_wasmtime.module import LoadedModule
from containerd_shim_wasmtime.runtime import Runtime, make_runtime, warm_runtime

KINDS = [(LoadedModule, HELLO_WORLD.bytes), (LoadedComponent, COMPONENT_HELLO_WORLD.bytes)]
IDS = ["module", "component"]


def runtime_with(option: str, value: bool) -> Runtime:
    """A runtime that differs from ours by one setting."""
    ours = warm_runtime()
    config = lib.wasm_config_new()
    lib.wasmtime_config_wasm_component_model_set(config, True)
    set_option = ctypes.CDLL(find_library().path)[option]
    set_option.argtypes = (ctypes.c_void_p, ctypes.c_bool)
    set_option(config, value)
    engine = Owned(lib.wasm_engine_new_with_config(config), lib.wasm_engine_delete)
    return Runtime(engine, ours.module_linker, ours.component_linker)


def test_two_engines_with_the_same_settings_have_the_same_identity() -> None:
    assert code_identity(make_runtime()) == code_identity(warm_runtime())


@pytest.mark.parametrize(
    "option",
    [
        "wasmtime_config_debug_info_set",
        "wasmtime_config_consume_fuel_set",
        "wasmtime_config_epoch_interruption_set",
        "wasmtime_config_wasm_memory64_set",
        "wasmtime_config_cranelift_nan_canonicalization_set",
    ],
)
def test_every_setting_that_changes_code_changes_the_identity(option: str) -> None:
    there, not_there = (code_identity(runtime_with(option, value)) for value in (True, False))
    assert there != not_there


def test_a_setting_that_changes_no_code_changes_no_identity() -> None:
    assert code_identity(runtime_with("wasmtime_config_parallel_compilation_set", True)) == code_identity(
        warm_runtime()
    )


def test_what_the_identity_is_made_of_names_version_target_and_features_of_the_cpu() -> None:
    notes = _section(compile_program(warm_runtime(), b"(module)"), b".wasmtime.engine")
    assert b"\x0250" in notes
    assert f"{os.uname().machine}-unknown-linux".encode() in notes
    assert (b"has_avx2" if os.uname().machine == "x86_64" else b"has_lse") in notes


def test_code_without_notes_is_said() -> None:
    with pytest.raises(InternalError, match=r"has no section \.nothing"):
        _section(compile_program(warm_runtime(), b"(module)"), b".nothing")


@pytest.mark.parametrize(("kind", "program"), KINDS, ids=IDS)
def test_code_that_was_cut_short_is_refused(
    kind: type[LoadedModule | LoadedComponent], program: bytes, tmp_path: Path
) -> None:
    code = compile_program(warm_runtime(), program)
    for length in (0, 3, 64, 1000, len(code) // 2, len(code) - 1):
        (tmp_path / "code").write_bytes(code[:length])
        with pytest.raises(WasmtimeError):
            kind(warm_runtime(), str(tmp_path / "code"))


@pytest.mark.parametrize(("kind", "program"), KINDS, ids=IDS)
def test_code_of_another_version_is_refused_by_that_version(
    kind: type[LoadedModule | LoadedComponent], program: bytes, tmp_path: Path
) -> None:
    code = compile_program(warm_runtime(), program)
    assert code.count(b"\x0250") >= 1
    (tmp_path / "code").write_bytes(code.replace(b"\x0250", b"\x0249", 1))
    with pytest.raises(WasmtimeError, match="incompatible version '49'"):
        kind(warm_runtime(), str(tmp_path / "code"))


@pytest.mark.parametrize(("kind", "program"), KINDS, ids=IDS)
def test_code_of_an_engine_with_other_settings_is_refused(
    kind: type[LoadedModule | LoadedComponent], program: bytes, tmp_path: Path
) -> None:
    code = compile_program(runtime_with("wasmtime_config_consume_fuel_set", True), program)
    (tmp_path / "code").write_bytes(code)
    with pytest.raises(WasmtimeError, match="fuel"):
        kind(warm_runtime(), str(tmp_path / "code"))


def test_the_other_kind_of_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "module").write_bytes(compile_program(warm_runtime(), HELLO_WORLD.bytes))
    (tmp_path / "component").write_bytes(compile_program(warm_runtime(), COMPONENT_HELLO_WORLD.bytes))
    with pytest.raises(WasmtimeError):
        LoadedComponent(warm_runtime(), str(tmp_path / "module"))
    with pytest.raises(WasmtimeError):
        LoadedModule(warm_runtime(), str(tmp_path / "component"))


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(WasmtimeError, match="No such file"):
        LoadedModule(warm_runtime(), "/nonexistent/code")


AGAIN = """
import os, sys
from containerd_shim_wasm import Guest, RuntimeContext, Settings
from containerd_shim_wasm.paths import parse_entrypoint
from containerd_shim_wasmtime import WasmtimeEngine

def now():
    with open("/proc/self/maps") as maps:
        mappings = len(maps.readlines())
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), mappings

os.environ["TOKIO_WORKER_THREADS"] = "7"
engine = WasmtimeEngine(Settings())
engine.warm()
guest = Guest(int(sys.argv[1]), compiled=True)
ctx = RuntimeContext("id", ("app",), {}, parse_entrypoint("app"), guest, {})
for turn in range(120):
    engine.load(ctx)
    assert engine.run_wasi(ctx) == 0
    if turn == 19:
        before = now()
print(*before, *now(), file=sys.stderr)
"""


@pytest.mark.parametrize("program", [HELLO_WORLD.bytes, COMPONENT_HELLO_WORLD.bytes], ids=IDS)
def test_a_hundred_guests_in_one_process_leave_no_descriptor_no_thread_and_no_mapping(
    program: bytes, tmp_path: Path
) -> None:
    (tmp_path / "code").write_bytes(compile_program(warm_runtime(), program))
    with open(tmp_path / "code", "rb") as code:
        command = [sys.executable, "-c", AGAIN, str(code.fileno())]
        done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=(code.fileno(),))
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().count("hello") == 120
    descriptors, threads, mappings, descriptors_after, threads_after, mappings_after = map(int, done.stderr.split())
    assert descriptors_after == descriptors
    assert threads_after == threads == 2, "one thread of the runtime's, whatever the environment says"
    assert mappings_after <= mappings + 4
