"""What a file's first bytes say that it is."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["HEAD_SIZE", "FileKind", "WasmBinaryType", "file_kind", "wasm_binary_type"]

HEAD_SIZE: Final = 512
_MODULE: Final = b"\0asm\x01\0\0\0"
_COMPONENT: Final = b"\0asm\x0d\0\x01\0"
_TEXT_OPENINGS: Final = ("(module", "(component")


class WasmBinaryType(Enum):
    """The two kinds of WebAssembly binary, told apart by version and layer in the header."""

    MODULE = "module"
    COMPONENT = "component"


class FileKind(Enum):
    """What can be run, and what cannot."""

    ELF = "ELF program"
    SCRIPT = "#! script"
    WASM = "WebAssembly"
    WASM_TEXT = "WebAssembly text"
    COMPILED = "compiled WebAssembly"
    OTHER = "neither"


def wasm_binary_type(data: bytes) -> WasmBinaryType | None:
    """The kind of the binary that begins with *data*, 8 bytes at least; None for anything else."""
    if data.startswith(_MODULE):
        return WasmBinaryType.MODULE
    return WasmBinaryType.COMPONENT if data.startswith(_COMPONENT) else None


def file_kind(head: bytes) -> FileKind:
    """The kind of a file by its first `HEAD_SIZE` bytes.

    Engines wrap the code that they compile in an ELF file too, which the kernel does not run: wasmtime's has the
    OS ABI number 200.
    """
    if head.startswith(b"\x7fELF"):
        return FileKind.COMPILED if head[7:8] == b"\xc8" else FileKind.ELF
    if head.startswith(b"#!"):
        return FileKind.SCRIPT
    if head.startswith(b"\0asm"):
        return FileKind.WASM
    return FileKind.WASM_TEXT if _is_text(head) else FileKind.OTHER


def _is_text(head: bytes) -> bool:
    """Whether, past white space and comments, a module or component begins."""
    text = head.decode("utf-8", errors="ignore")
    while True:
        text = text.lstrip()
        if text.startswith(";;"):
            text = text.partition("\n")[2]
        elif text.startswith("(;"):
            text = text.partition(";)")[2]
        else:
            return text.startswith(_TEXT_OPENINGS)
