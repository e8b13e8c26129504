from __future__ import annotations

import pytest
from containerd_shim_wasm.binary import FileKind, WasmBinaryType, file_kind, wasm_binary_type

MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (MODULE, WasmBinaryType.MODULE),
        (COMPONENT + b"more", WasmBinaryType.COMPONENT),
        (MODULE[:7], None),
        (b"\0asm\x02\0\0\0", None),
        (b"", None),
    ],
)
def test_version_and_layer_tell_modules_from_components(data: bytes, expected: WasmBinaryType | None) -> None:
    assert wasm_binary_type(data) is expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x7fELF\x02\x01\x01\x00", FileKind.ELF),
        (b"\x7fELF\x02\x01\x01\xc8", FileKind.COMPILED),
        (b"#!/bin/sh\n", FileKind.SCRIPT),
        (MODULE, FileKind.WASM),
        (b"\0asm", FileKind.WASM),
        (b"(module)", FileKind.WASM_TEXT),
        (b"\n ;; a comment\n (; another\n one ;) (component", FileKind.WASM_TEXT),
        (b";; only a comment", FileKind.OTHER),
        (b"(;; never ends", FileKind.OTHER),
        (b"print('hello')", FileKind.OTHER),
        (b"\xff\xfe\x00", FileKind.OTHER),
        (b"", FileKind.OTHER),
    ],
)
def test_the_first_bytes_tell_what_a_file_is(head: bytes, expected: FileKind) -> None:
    assert file_kind(head) is expected
