"""The demo program as a WebAssembly file, and its OCI image; the command `wasi-demo-app` runs it."""

from .image import DEFAULT_NAME, ENTRYPOINT, WASM_PATH, write_image

__all__ = ["DEFAULT_NAME", "ENTRYPOINT", "WASM_PATH", "write_image"]
