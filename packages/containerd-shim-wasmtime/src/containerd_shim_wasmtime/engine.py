"""The wasmtime engine: core modules with WASI preview 1, and components of the `wasi:cli/command` world."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from containerd_shim_wasm import (
    Engine,
    InvalidArgumentError,
    RuntimeContext,
    WasmBinaryType,
    WasmLayer,
    wasm_binary_type,
)

if TYPE_CHECKING:  # the library costs 30 ms: only a shim that serves loads it, in `warm`
    import wasmtime

    from .component import LoadedComponent
    from .module import LoadedModule

__all__ = ["WasmtimeEngine"]

_ELF_FLAGS_OFFSET: Final = 48  # e_flags of an ELF64 header
_COMPONENT_FLAG: Final = 1 << 1  # wasmtime's obj.rs: EF_WASMTIME_COMPONENT


class WasmtimeEngine(Engine):
    """Compiles ahead with cranelift, in a child; a container only maps the code and instantiates it."""

    name: ClassVar[str] = "wasmtime"

    _key = ""
    _engine: wasmtime.Engine | None = None
    _loaded: LoadedModule | LoadedComponent | None = None

    def warm(self) -> None:
        """Load the library and make its engine, which holds no thread as long as it compiles with one only."""
        import wasmtime

        for name in ("component", "module"):  # imports are closed after this
            importlib.import_module(f"{__package__}.{name}")
        self._key = f"wasmtime-{_library_version()}-{os.uname().machine}"
        config = wasmtime.Config()
        config.parallel_compilation = False
        config.wasm_component_model = True
        self._engine = wasmtime.Engine(config)

    def can_precompile(self) -> str | None:
        """wasmtime's version and the machine: its code fits the CPU's features, which it finds out for itself."""
        return self._key

    def precompile(self, layers: Sequence[WasmLayer]) -> list[bytes | None]:
        """Compile each layer, binary or text. Raises: InvalidArgumentError with wasmtime's reason."""
        return [self._compile(layer.data) for layer in layers]

    def load(self, ctx: RuntimeContext) -> None:
        """Map the compiled code; link and instantiate nothing yet."""
        from .component import LoadedComponent
        from .module import LoadedModule

        # wasmtime's WASI starts a thread a CPU, in each guest's process; one is enough for one guest
        os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
        flags = int.from_bytes(os.pread(ctx.guest.descriptor, 4, _ELF_FLAGS_OFFSET), "little")
        kind = LoadedComponent if flags & _COMPONENT_FLAG else LoadedModule
        self._loaded = kind(self._warm_engine, ctx.guest.path)

    def run_wasi(self, ctx: RuntimeContext) -> int:
        """Instantiate the guest and call its entrypoint."""
        assert self._loaded is not None, "load has not been called"
        return self._loaded.run(ctx)

    def version_details(self) -> str:
        return f"  Engine: wasmtime {_library_version()} (WASI preview 1, WASI 0.2)\n"

    @property
    def _warm_engine(self) -> wasmtime.Engine:
        assert self._engine is not None, "warm has not been called"
        return self._engine

    def _compile(self, data: bytes) -> bytes:
        import wasmtime
        from wasmtime import component

        try:
            binary = data if data.startswith(b"\0asm") else bytes(wasmtime.wat2wasm(data))
            if wasm_binary_type(binary) is WasmBinaryType.COMPONENT:
                return bytes(component.Component(self._warm_engine, binary).serialize())
            return bytes(wasmtime.Module(self._warm_engine, binary).serialize())
        except wasmtime.WasmtimeError as error:
            raise InvalidArgumentError(f"the program is not valid WebAssembly for wasmtime: {error}") from error


@functools.cache  # asked for by the first `warm`, while files can still be imported and read
def _library_version() -> str:
    from importlib.metadata import version  # 50 ms that a `start` need not spend

    return version("wasmtime")
