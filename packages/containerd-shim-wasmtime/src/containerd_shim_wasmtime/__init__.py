"""The containerd shim that runs WebAssembly with wasmtime."""

from .engine import WasmtimeEngine

__all__ = ["WasmtimeEngine"]
