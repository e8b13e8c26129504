"""Write a containerd shim for a WebAssembly engine: derive from `Engine`, call `run_shim` with the class."""

from containerd_shimkit import (
    InternalError,
    InvalidArgumentError,
    ShimError,
    TraceContext,
    UnimplementedError,
    span,
)

from .binary import WasmBinaryType, wasm_binary_type
from .context import Guest, RuntimeContext, WasmLayer
from .engine import Engine, Settings
from .main import run_shim
from .paths import Entrypoint

__all__ = [
    "Engine",
    "Entrypoint",
    "Guest",
    "InternalError",
    "InvalidArgumentError",
    "RuntimeContext",
    "Settings",
    "ShimError",
    "TraceContext",
    "UnimplementedError",
    "WasmBinaryType",
    "WasmLayer",
    "run_shim",
    "span",
    "wasm_binary_type",
]
