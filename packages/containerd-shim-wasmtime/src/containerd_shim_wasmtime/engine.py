"""The wasmtime engine: core modules with WASI preview 1, and components of the `wasi:cli/command` world."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from containerd_shim_wasm import Engine, InvalidArgumentError, RuntimeContext, WasmLayer

from .library import find_library

if TYPE_CHECKING:  # these load the library: only a shim that serves does that, in `warm`
    from .component import LoadedComponent
    from .module import LoadedModule

__all__ = ["WasmtimeEngine"]

_ELF_FLAGS_OFFSET: Final = 48  # e_flags of an ELF64 header
_COMPONENT_FLAG: Final = 1 << 1  # wasmtime's obj.rs: EF_WASMTIME_COMPONENT


class WasmtimeEngine(Engine):
    """Compiles ahead with cranelift, in a child; a container only maps the code and instantiates it."""

    name: ClassVar[str] = "wasmtime"

    _loaded: LoadedModule | LoadedComponent | None = None

    def warm(self) -> None:
        """Load the library, make its engine and what guests are linked with, find out the key. Starts no thread."""
        for name in ("component", "module"):  # imports are closed after this
            importlib.import_module(f"{__package__}.{name}")
        _key()

    def can_precompile(self) -> str:
        """wasmtime's version, the machine, and a hash of what decides which code fits: see `compiler.code_identity`.

        Loads the library, in some milliseconds, when `warm` has not been called.
        """
        return _key()

    def precompile(self, layers: Sequence[WasmLayer]) -> list[bytes | None]:
        """Compile each layer, binary or text. Raises: InvalidArgumentError with wasmtime's reason."""
        from .capi import WasmtimeError
        from .compiler import compile_program
        from .runtime import warm_runtime

        try:
            return [compile_program(warm_runtime(), layer.data) for layer in layers]
        except WasmtimeError as error:
            raise InvalidArgumentError(f"the program is not valid WebAssembly for wasmtime: {error}") from error

    def load(self, ctx: RuntimeContext) -> None:
        """Map the compiled code; link and instantiate nothing yet."""
        from .component import LoadedComponent
        from .module import LoadedModule
        from .runtime import warm_runtime

        # wasmtime's WASI starts a thread a CPU, in each guest's process; one is enough for one guest
        os.putenv("TOKIO_WORKER_THREADS", "1")  # past os.environ, whose code a guest need not run
        flags = int.from_bytes(os.pread(ctx.guest.descriptor, 4, _ELF_FLAGS_OFFSET), "little")
        kind = LoadedComponent if flags & _COMPONENT_FLAG else LoadedModule
        self._loaded = kind(warm_runtime(), ctx.guest.path)

    def run_wasi(self, ctx: RuntimeContext) -> int:
        """Instantiate the guest and call its entrypoint."""
        assert self._loaded is not None, "load has not been called"
        return self._loaded.run(ctx)

    def version_details(self) -> str:
        return f"  Engine: wasmtime {find_library().version} (WASI preview 1, WASI 0.2)\n"


@functools.cache
def _key() -> str:
    from .compiler import code_identity
    from .runtime import warm_runtime

    # the whole version: wasmtime's own notes have the major one only, but a fix may be one of the code it makes
    return f"wasmtime-{find_library().version}-{os.uname().machine}-{code_identity(warm_runtime())}"
