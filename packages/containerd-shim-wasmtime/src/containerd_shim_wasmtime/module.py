"""Core modules: WASI preview 1."""

from __future__ import annotations

import wasmtime
from containerd_shim_wasm import InvalidArgumentError, RuntimeContext

from .wasi import make_store

__all__ = ["LoadedModule"]


class LoadedModule:
    """A core module, mapped from its compiled code."""

    def __init__(self, engine: wasmtime.Engine, path: str) -> None:
        """Map the code in the file *path*. Raises: wasmtime.WasmtimeError when it is another version's."""
        self._engine = engine
        self._module = wasmtime.Module.deserialize_file(engine, path)
        self._linker = wasmtime.Linker(engine)
        self._linker.define_wasi()

    def run(self, ctx: RuntimeContext) -> int:
        """Call the export that the entrypoint names; the guest's exit status, 0 when it returns.

        Raises: wasmtime.Trap, wasmtime.WasmtimeError, InvalidArgumentError for an export that cannot be called.
        """
        store = make_store(self._engine, ctx, network=False)
        try:
            exports = self._linker.instantiate(store, self._module).exports(store)
            initialize = exports.get("_initialize")
            if isinstance(initialize, wasmtime.Func):  # a reactor asks for this before any other export
                initialize(store)
            name = ctx.entrypoint.func
            self._function(exports.get(name), store, name)(store)
        except wasmtime.ExitTrap as end:
            return end.code
        return 0

    def _function(self, function: object, store: wasmtime.Store, name: str) -> wasmtime.Func:
        """*function*, which the guest exports as *name* or does not, if it can be called as a command is."""
        if isinstance(function, wasmtime.Func) and not function.type(store).params:
            return function
        callable_names = sorted(
            export.name
            for export in self._module.exports
            if isinstance(export.type, wasmtime.FuncType) and not export.type.params
        )
        what = "takes arguments" if isinstance(function, wasmtime.Func) else "is not there"
        raise InvalidArgumentError(
            f"the module's export {name!r} {what}; a function without arguments is wanted, of which it has: "
            f"{', '.join(callable_names) or 'none'} (choose one by FILE#NAME)"
        )
