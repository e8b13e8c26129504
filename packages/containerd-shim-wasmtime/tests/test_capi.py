"""The C API as it is declared here, beside the distribution's own binding; errors, traps, ownership."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import re
from ctypes import byref, c_void_p, sizeof
from pathlib import Path

import pytest
import wasmtime
from containerd_shim_wasm import InternalError
from containerd_shim_wasm_test_modules import STACK_OVERFLOW, UNREACHABLE
from containerd_shim_wasmtime import capi, module
from containerd_shim_wasmtime.capi import Instance, Owned, Trap, check, check_trap, lib
from containerd_shim_wasmtime.library import Library
from containerd_shim_wasmtime.runtime import make_runtime
from wasmtime import _bindings, _ffi

STRUCTURES = {
    capi.ByteVec: "wasm_byte_vec_t",
    capi.Func: "wasmtime_func_t",
    capi.Instance: "wasmtime_instance_t",
    capi.Extern: "wasmtime_extern_t",
    capi.Val: "wasmtime_val_t",
    capi.ComponentInstance: "wasmtime_component_instance_t",
    capi.ComponentFunc: "wasmtime_component_func_t",
    capi.ComponentValType: "wasmtime_component_valtype_t",
    capi.ComponentVal: "wasmtime_component_val_t",
}


@pytest.mark.parametrize(("ours", "theirs"), STRUCTURES.items(), ids=STRUCTURES.values())
def test_a_structure_has_the_size_and_alignment_of_the_headers(ours: type[ctypes.Structure], theirs: str) -> None:
    expected = getattr(_ffi, theirs)
    assert (sizeof(ours), ctypes.alignment(ours)) == (sizeof(expected), ctypes.alignment(expected))


def offset(structure: type[ctypes.Structure], member: str) -> int:
    found: int = getattr(structure, member).offset
    return found


def test_the_members_that_are_looked_into_are_where_the_headers_have_them() -> None:
    assert offset(capi.ByteVec, "data") == offset(_ffi.wasm_byte_vec_t, "data")
    assert offset(capi.Extern, "func") == offset(_ffi.wasmtime_extern_t, "of")
    assert offset(capi.ComponentVal, "is_ok") == offset(_ffi.wasmtime_component_val_t, "of")
    assert offset(_ffi.wasmtime_component_valresult_t, "is_ok") == 0
    assert _ffi.WASMTIME_EXTERN_FUNC.value == capi.EXTERN_FUNC
    assert _ffi.WASMTIME_COMPONENT_RESULT.value == capi.COMPONENT_RESULT


def test_every_call_is_declared_as_in_the_headers() -> None:
    def shape(kind: object) -> int:
        return sizeof(kind) if kind is not None else 0  # type: ignore[arg-type]

    for name, (result, arguments) in capi._PROTOTYPES.items():
        theirs = getattr(_bindings, f"_{name}")
        assert [shape(kind) for kind in arguments] == [shape(kind) for kind in theirs.argtypes], name
        assert shape(result) == shape(theirs.restype), name


def test_what_is_declared_is_what_is_used() -> None:
    package = Path(capi.__file__).parent
    used = {name for file in package.glob("*.py") for name in re.findall(r"\blib\.(wasm?i?\w+)", file.read_text())}
    assert used == set(capi._PROTOTYPES)


def test_a_call_that_is_not_declared_is_not_there() -> None:
    with pytest.raises(AttributeError):
        _ = lib.wasmtime_context_gc


@pytest.mark.parametrize("path", ["/nonexistent.so", __file__])
def test_what_is_no_library_is_refused_with_version_and_cure(path: str) -> None:
    with pytest.raises(InternalError, match=r"the library of wasmtime 50\.9\.9, .*pip install --force-reinstall"):
        capi.open_library(Library(path, "50.9.9"))


def test_a_library_without_a_call_that_is_needed_is_refused_by_that_name() -> None:
    with pytest.raises(InternalError, match="undefined symbol: wasm_byte_vec_delete"):
        capi.open_library(Library(ctypes.util.find_library("m") or "libm.so.6", "50.9.9"))


class Freed(list[int]):
    """Remembers what was freed."""


def test_what_is_owned_is_freed_once_however_often_it_is_closed() -> None:
    freed = Freed()
    owned = Owned(7, freed.append)
    assert owned.address == 7
    owned.close()
    owned.close()
    del owned
    gc.collect()
    assert freed == [7]


def test_what_nobody_refers_to_is_freed() -> None:
    freed = Freed()
    Owned(7, freed.append)
    gc.collect()
    assert freed == [7]


def test_what_was_given_away_is_not_freed_here_and_not_used_again() -> None:
    freed = Freed()
    owned = Owned(7, freed.append)
    assert owned.give() == 7
    owned.close()
    assert freed == []
    with pytest.raises(ValueError, match="freed or given away"):
        _ = owned.address
    with pytest.raises(ValueError, match="freed or given away"):
        owned.give()


def test_what_could_not_be_made_is_not_used() -> None:
    freed = Freed()
    with pytest.raises(ValueError, match="freed or given away"):
        _ = Owned(None, freed.append).address
    assert freed == []


def run_start(program: bytes) -> None:
    """Instantiate a program without imports and call its `_start`, here, as the package's code does."""
    runtime, handle = make_runtime(), c_void_p()
    check(lib.wasmtime_module_new(runtime.engine.address, program, len(program), byref(handle)))
    owned = Owned(handle.value, lib.wasmtime_module_delete)
    store = Owned(lib.wasmtime_store_new(runtime.engine.address, None, None), lib.wasmtime_store_delete)
    context, instance, trap = lib.wasmtime_store_context(store.address), Instance(), c_void_p()
    linker = runtime.module_linker.address
    check(lib.wasmtime_linker_instantiate(linker, context, owned.address, byref(instance), byref(trap)))
    check_trap(trap.value)
    function = module._exported_function(context, instance, "_start")
    assert function is not None
    module._call(context, function)


def stock_trap(program: bytes) -> wasmtime.Trap:
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    start = wasmtime.Instance(store, wasmtime.Module(engine, program), []).exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    with pytest.raises(wasmtime.Trap) as caught:
        start(store)
    return caught.value


@pytest.mark.parametrize("program", [UNREACHABLE.bytes, STACK_OVERFLOW.bytes], ids=["unreachable", "stack overflow"])
def test_a_trap_says_what_the_distributions_own_binding_says(program: bytes) -> None:
    expected = stock_trap(program)
    with pytest.raises(Trap) as caught:
        run_start(program)
    assert str(caught.value) == str(expected)
    assert "wasm backtrace:" in str(caught.value)
    assert expected.trap_code is not None
    assert caught.value.code == expected.trap_code.value


def test_no_error_and_no_trap_raise_nothing() -> None:
    check(None)
    check_trap(None)
