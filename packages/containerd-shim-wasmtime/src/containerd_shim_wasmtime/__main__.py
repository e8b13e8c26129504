"""containerd-shim-wasmtime-v1."""

from __future__ import annotations

from containerd_shim_wasm import run_shim

from .engine import WasmtimeEngine


def main() -> None:
    """Be the shim that containerd runs for `io.containerd.wasmtime.v1`."""
    run_shim(WasmtimeEngine)


if __name__ == "__main__":
    main()
