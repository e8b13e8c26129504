"""wasmtime's C API: prototypes of the calls used here, its structures, its errors as exceptions, ownership.

Importing this loads the library. Every pointer is an integer, 0 or None for NULL. Structures are only as detailed as
this package looks into them; their sizes are what counts, for the library writes them whole.
Source: wasm.h, wasi.h, wasmtime/*.h of wasmtime 50.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import (
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_int,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
    string_at,
)
from types import SimpleNamespace
from typing import Final, TypeAlias

from containerd_shim_wasm import InternalError

from .library import Library, find_library

__all__ = [
    "COMPONENT_RESULT",
    "EXTERN_FUNC",
    "ByteVec",
    "ComponentFunc",
    "ComponentInstance",
    "ComponentVal",
    "ComponentValType",
    "Extern",
    "Func",
    "GuestExit",
    "Instance",
    "Owned",
    "Trap",
    "Val",
    "WasmtimeError",
    "check",
    "check_trap",
    "lib",
    "name_at",
    "open_library",
    "pointers_of",
    "take_bytes",
]

_Type: TypeAlias = type[c_void_p] | type[c_char_p] | type[c_size_t] | type[c_bool]
_P, _S, _N, _B = c_void_p, c_char_p, c_size_t, c_bool

# what is returned (None: nothing), then the arguments. A wasmtime_error_t* that is returned is NULL or the caller's.
_PROTOTYPES: Final[Mapping[str, tuple[_Type | None, tuple[_Type, ...]]]] = {
    # errors, traps, vectors
    "wasm_byte_vec_delete": (None, (_P,)),
    "wasmtime_error_message": (None, (_P, _P)),
    "wasmtime_error_exit_status": (_B, (_P, _P)),
    "wasmtime_error_delete": (None, (_P,)),
    "wasm_trap_message": (None, (_P, _P)),
    "wasmtime_trap_code": (_B, (_P, _P)),
    "wasm_trap_delete": (None, (_P,)),
    # engine, store
    "wasm_config_new": (_P, ()),
    "wasmtime_config_parallel_compilation_set": (None, (_P, _B)),
    "wasmtime_config_wasm_component_model_set": (None, (_P, _B)),
    "wasm_engine_new_with_config": (_P, (_P,)),  # takes the configuration
    "wasm_engine_delete": (None, (_P,)),
    "wasmtime_store_new": (_P, (_P, _P, _P)),
    "wasmtime_store_context": (_P, (_P,)),
    "wasmtime_store_delete": (None, (_P,)),
    # WASI
    "wasi_config_new": (_P, ()),
    "wasi_config_delete": (None, (_P,)),
    "wasi_config_set_argv": (_B, (_P, _N, _P)),
    "wasi_config_set_env": (_B, (_P, _N, _P, _P)),
    "wasi_config_inherit_stdin": (None, (_P,)),
    "wasi_config_inherit_stdout": (None, (_P,)),
    "wasi_config_inherit_stderr": (None, (_P,)),
    "wasi_config_preopen_dir": (_B, (_P, _S, _S, _B)),
    "wasi_config_inherit_network": (None, (_P,)),
    "wasi_config_allow_ip_name_lookup": (None, (_P, _B)),
    "wasmtime_context_set_wasi": (_P, (_P, _P)),  # takes the configuration
    # core modules
    "wasmtime_wat2wasm": (_P, (_S, _N, _P)),
    "wasmtime_module_new": (_P, (_P, _S, _N, _P)),
    "wasmtime_module_serialize": (_P, (_P, _P)),
    "wasmtime_module_deserialize_file": (_P, (_P, _S, _P)),
    "wasmtime_module_exports": (None, (_P, _P)),
    "wasmtime_module_delete": (None, (_P,)),
    "wasm_exporttype_vec_delete": (None, (_P,)),
    "wasm_exporttype_name": (_P, (_P,)),  # borrowed, as is what the next two return
    "wasm_exporttype_type": (_P, (_P,)),
    "wasm_externtype_as_functype_const": (_P, (_P,)),  # NULL for what is no function
    "wasm_functype_params": (_P, (_P,)),  # borrowed
    "wasm_functype_results": (_P, (_P,)),  # borrowed
    "wasm_functype_delete": (None, (_P,)),
    "wasmtime_linker_new": (_P, (_P,)),
    "wasmtime_linker_define_wasi": (_P, (_P,)),
    "wasmtime_linker_instantiate": (_P, (_P, _P, _P, _P, _P)),
    "wasmtime_linker_delete": (None, (_P,)),
    "wasmtime_instance_export_get": (_B, (_P, _P, _S, _N, _P)),
    "wasmtime_extern_delete": (None, (_P,)),
    "wasmtime_func_type": (_P, (_P, _P)),
    "wasmtime_func_call": (_P, (_P, _P, _P, _N, _P, _N, _P)),
    "wasmtime_val_unroot": (None, (_P,)),
    # components
    "wasmtime_component_new": (_P, (_P, _S, _N, _P)),
    "wasmtime_component_serialize": (_P, (_P, _P)),
    "wasmtime_component_deserialize_file": (_P, (_P, _S, _P)),
    "wasmtime_component_delete": (None, (_P,)),
    "wasmtime_component_type": (_P, (_P,)),
    "wasmtime_component_type_delete": (None, (_P,)),
    "wasmtime_component_type_export_count": (_N, (_P, _P)),
    "wasmtime_component_type_export_nth": (_B, (_P, _P, _N, _P, _P, _P)),  # the name is borrowed, the item is not
    "wasmtime_component_extern_delete": (None, (_P,)),
    "wasmtime_component_get_export_index": (_P, (_P, _P, _S, _N)),
    "wasmtime_component_export_index_delete": (None, (_P,)),
    "wasmtime_component_linker_new": (_P, (_P,)),
    "wasmtime_component_linker_add_wasip2": (_P, (_P,)),
    "wasmtime_component_linker_instantiate": (_P, (_P, _P, _P, _P)),
    "wasmtime_component_linker_delete": (None, (_P,)),
    "wasmtime_component_instance_get_func": (_B, (_P, _P, _P, _P)),
    "wasmtime_component_func_type": (_P, (_P, _P)),
    "wasmtime_component_func_type_param_count": (_N, (_P,)),
    "wasmtime_component_func_type_result": (_B, (_P, _P)),
    "wasmtime_component_func_type_delete": (None, (_P,)),
    "wasmtime_component_valtype_delete": (None, (_P,)),
    "wasmtime_component_func_call": (_P, (_P, _P, _P, _N, _P, _N)),
    "wasmtime_component_func_post_return": (_P, (_P, _P)),
    "wasmtime_component_val_delete": (None, (_P,)),
}


def open_library(library: Library) -> SimpleNamespace:
    """The declared calls of *library*, by name; no others, for ctypes would cut their pointers in half.

    Raises: InternalError, with the cure.
    """
    calls = SimpleNamespace()
    try:
        dll = ctypes.CDLL(library.path)
        for name, (result, arguments) in _PROTOTYPES.items():
            call = dll[name]
            call.restype, call.argtypes = result, arguments
            setattr(calls, name, call)
    except (OSError, AttributeError) as error:
        raise InternalError(
            f"the library of wasmtime {library.version}, {library.path}, cannot be used here: {error}; "
            "install it anew with: pip install --force-reinstall wasmtime, by the same Python"
        ) from error
    return calls


lib: Final = open_library(find_library())


class ByteVec(Structure):
    """wasm_byte_vec_t and wasm_name_t; of the vectors of pointers too: `pointers_of` reads those."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))
    size: int
    data: int | None


class Func(Structure):
    """wasmtime_func_t: a value, good as long as its store."""

    _fields_ = (("store_id", c_uint64), ("private", c_void_p))


class Instance(Structure):
    """wasmtime_instance_t."""

    _fields_ = (("store_id", c_uint64), ("private", c_size_t))


class Extern(Structure):
    """wasmtime_extern_t; `func` is the member of its union that `kind` `EXTERN_FUNC` means."""

    _fields_ = (("kind", c_uint8), ("func", Func), ("rest", c_uint64))
    kind: int
    func: Func


class Val(Structure):
    """wasmtime_val_t."""

    _fields_ = (("kind", c_uint8), ("of", c_uint64 * 3))


class ComponentInstance(Structure):
    """wasmtime_component_instance_t."""

    _fields_ = (("store_id", c_uint64), ("private", c_uint32))


class ComponentFunc(Structure):
    """wasmtime_component_func_t."""

    _fields_ = (("store_id", c_uint64), ("private", c_uint64 * 3))


class ComponentValType(Structure):
    """wasmtime_component_valtype_t."""

    _fields_ = (("kind", c_uint8), ("of", c_void_p))


class ComponentVal(Structure):
    """wasmtime_component_val_t; `is_ok` is of the member of its union that `kind` `COMPONENT_RESULT` means."""

    _fields_ = (("kind", c_uint8), ("is_ok", c_uint64), ("rest", c_uint64 * 2))
    kind: int
    is_ok: int


EXTERN_FUNC: Final = 0
COMPONENT_RESULT: Final = 19


class WasmtimeError(Exception):
    """What wasmtime says is wrong, in its own words."""


class Trap(WasmtimeError):
    """A core module's guest that was stopped, with wasmtime's words: the reason, and where it was in the wasm."""

    def __init__(self, message: str, code: int | None) -> None:
        super().__init__(message)
        self.code = code  # a wasmtime_trap_code_t, of wasmtime/trap.h


class GuestExit(Exception):
    """The guest has asked to end, by `proc_exit` or `wasi:cli/exit`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class Owned:
    """Something of the library's that is this process's to free: once, when it is closed, or nobody refers to it."""

    __slots__ = ("_address", "_delete")

    def __init__(self, address: int | None, delete: Callable[[int], object]) -> None:
        self._address = address
        self._delete = delete

    @property
    def address(self) -> int:
        """Where it is. Raises: ValueError when it has been freed or given away (or could not be made)."""
        if not self._address:
            raise ValueError("this object of wasmtime's has been freed or given away")
        return self._address

    def give(self) -> int:
        """Where it is, for a call that takes it over: it is no longer this process's to free. Raises: ValueError."""
        address = self.address
        self._address = None
        return address

    def close(self) -> None:
        """Free it; nothing when that was done."""
        address, self._address = self._address, None
        if address:
            self._delete(address)

    __del__ = close


def check(error: int | None) -> None:
    """Free the wasmtime_error_t* *error*, if it is one, and raise what it says. Raises: WasmtimeError, GuestExit."""
    if not error:
        return
    status, message = c_int(), ByteVec()
    try:
        if lib.wasmtime_error_exit_status(error, byref(status)):
            raise GuestExit(status.value)
        lib.wasmtime_error_message(error, byref(message))
    finally:
        lib.wasmtime_error_delete(error)
    raise WasmtimeError(take_bytes(message).decode(errors="replace"))


def check_trap(trap: int | None) -> None:
    """Free the wasm_trap_t* *trap*, if it is one, and raise what it says. Raises: Trap."""
    if not trap:
        return
    code, message = c_uint8(), ByteVec()
    has_code = lib.wasmtime_trap_code(trap, byref(code))
    lib.wasm_trap_message(trap, byref(message))
    lib.wasm_trap_delete(trap)
    text = take_bytes(message).removesuffix(b"\0").decode(errors="replace")
    raise Trap(text, code.value if has_code else None)


def take_bytes(vec: ByteVec) -> bytes:
    """The bytes of *vec*, which is freed."""
    data = string_at(vec.data, vec.size) if vec.data else b""
    lib.wasm_byte_vec_delete(byref(vec))
    return data


def name_at(address: int) -> str:
    """The text of the wasm_name_t at *address*, which stays the library's."""
    name = ByteVec.from_address(address)
    return string_at(name.data, name.size).decode() if name.data else ""


def pointers_of(vec: ByteVec) -> list[int]:
    """The pointers in a vector of them, which stay the vector's."""
    return list(memoryview(string_at(vec.data, vec.size * ctypes.sizeof(c_void_p))).cast("P")) if vec.data else []
