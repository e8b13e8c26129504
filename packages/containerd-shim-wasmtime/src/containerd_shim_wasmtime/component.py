"""Components: the `wasi:cli/command` world of WASI 0.2, and exported functions without arguments."""

from __future__ import annotations

import wasmtime
from containerd_shim_wasm import InvalidArgumentError, RuntimeContext
from containerd_shim_wasm.paths import DEFAULT_FUNCTION
from wasmtime import component

from .wasi import make_store

__all__ = ["LoadedComponent"]

_RUN_INTERFACE = "wasi:cli/run@"
_FAILED = 1


class LoadedComponent:
    """A component, mapped from its compiled code."""

    def __init__(self, engine: wasmtime.Engine, path: str) -> None:
        """Map the code in the file *path*. Raises: wasmtime.WasmtimeError when it is another version's."""
        self._engine = engine
        self._component = component.Component.deserialize_file(engine, path)
        self._linker = component.Linker(engine)
        self._linker.add_wasip2()

    def run(self, ctx: RuntimeContext) -> int:
        """Call `wasi:cli/run`, or the export that the entrypoint names; the guest's exit status.

        A result that is an error is status 1, as for `wasi:cli/exit`. Raises: wasmtime.Trap, wasmtime.WasmtimeError,
        InvalidArgumentError for an export that cannot be called.
        """
        store = make_store(self._engine, ctx, network=True)
        index = self._export(ctx.entrypoint.func)
        try:
            instance = self._linker.instantiate(store, self._component)
            function = instance.get_func(store, index)
            if function is None or function.type(store).params:
                raise InvalidArgumentError(
                    f"the component's export {ctx.entrypoint.func!r} is not a function without arguments"
                )
            result = function(store)
            function.post_return(store)
        except wasmtime.ExitTrap as end:
            return end.code
        return _FAILED if isinstance(result, component.Variant) and result.tag == "err" else 0

    def _export(self, name: str) -> component.ExportIndex:
        exports = list(self._component.type.exports(self._engine))
        if name == DEFAULT_FUNCTION:
            interface = next((export for export in exports if export.startswith(_RUN_INTERFACE)), None)
            parent = self._component.get_export_index(interface) if interface else None
            found = self._component.get_export_index("run", parent) if parent else None
        else:
            found = self._component.get_export_index(name)
        if found is None:
            wanted = f"{_RUN_INTERFACE}0.2" if name == DEFAULT_FUNCTION else name
            raise InvalidArgumentError(
                f"the component does not export {wanted!r}; it exports: {', '.join(sorted(exports)) or 'nothing'}"
                " (choose a function by FILE#NAME)"
            )
        return found
