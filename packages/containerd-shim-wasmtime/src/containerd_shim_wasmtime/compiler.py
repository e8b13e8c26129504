"""Compiles programs ahead, and says what the code is good for."""

from __future__ import annotations

import hashlib
import struct
from ctypes import byref, c_void_p
from typing import Final

from containerd_shim_wasm import InternalError, WasmBinaryType, wasm_binary_type

from .capi import ByteVec, Owned, check, lib, take_bytes
from .runtime import Runtime

__all__ = ["code_identity", "compile_program"]

_EMPTY_MODULE: Final = b"\0asm\x01\0\0\0"
_SECTIONS_AT: Final = struct.Struct("<40xQ10x3H")  # of an ELF64 header: e_shoff, e_shentsize, e_shnum, e_shstrndx
_SECTION: Final = struct.Struct("<I20xQQ")  # sh_name, sh_offset, sh_size


def compile_program(runtime: Runtime, data: bytes) -> bytes:
    """The code of the program *data*, a module or component, binary or text. Raises: WasmtimeError."""
    binary = data if data.startswith(b"\0asm") else _parse_text(data)
    result, code = c_void_p(), ByteVec()
    if wasm_binary_type(binary) is WasmBinaryType.COMPONENT:
        new, serialize, delete = (
            lib.wasmtime_component_new,
            lib.wasmtime_component_serialize,
            lib.wasmtime_component_delete,
        )
    else:
        new, serialize, delete = lib.wasmtime_module_new, lib.wasmtime_module_serialize, lib.wasmtime_module_delete
    check(new(runtime.engine.address, binary, len(binary), byref(result)))
    compiled = Owned(result.value, delete)
    check(serialize(compiled.address, byref(code)))
    return take_bytes(code)


def code_identity(runtime: Runtime) -> str:
    """16 hexadecimal digits, the same for code that fits together: a hash of what wasmtime itself notes in its code.

    That is its major version, the target, the CPU's features as it uses them, and every setting that changes code:
    wasmtime refuses to load code whose notes do not fit. An empty module has them all, and compiles in no time.
    """
    return hashlib.sha256(_section(compile_program(runtime, _EMPTY_MODULE), b".wasmtime.engine")).hexdigest()[:16]


def _parse_text(data: bytes) -> bytes:
    binary = ByteVec()
    check(lib.wasmtime_wat2wasm(data, len(data), byref(binary)))
    return take_bytes(binary)


def _section(elf: bytes, wanted: bytes) -> bytes:
    """The contents of the section named *wanted*. Raises: InternalError when there is none."""
    table, entry_size, count, names_index = _SECTIONS_AT.unpack_from(elf)

    def header(index: int) -> tuple[int, int, int]:
        name, offset, size = _SECTION.unpack_from(elf, table + index * entry_size)
        return name, offset, size

    _, names, _ = header(names_index)
    for name, offset, size in map(header, range(count)):
        if elf.startswith(wanted + b"\0", names + name):
            return elf[offset : offset + size]
    raise InternalError(f"wasmtime's code has no section {wanted.decode()}, by which code that fits is told apart")
