"""Components: the `wasi:cli/command` world of WASI 0.2, and exported functions without arguments."""

from __future__ import annotations

from ctypes import byref, c_size_t, c_void_p, string_at

from containerd_shim_wasm import InvalidArgumentError, RuntimeContext
from containerd_shim_wasm.paths import DEFAULT_FUNCTION

from .capi import (
    COMPONENT_RESULT,
    ComponentFunc,
    ComponentInstance,
    ComponentVal,
    ComponentValType,
    GuestExit,
    Owned,
    check,
    lib,
)
from .runtime import Runtime
from .wasi import make_store

__all__ = ["LoadedComponent"]

_RUN_INTERFACE = "wasi:cli/run@"
_FAILED = 1


class LoadedComponent:
    """A component, mapped from its compiled code."""

    def __init__(self, runtime: Runtime, path: str) -> None:
        """Map the code in the file *path*. Raises: WasmtimeError when it is another version's."""
        component = c_void_p()
        check(lib.wasmtime_component_deserialize_file(runtime.engine.address, path.encode(), byref(component)))
        self._component = Owned(component.value, lib.wasmtime_component_delete)
        self._runtime = runtime
        self._store: Owned | None = None  # kept: a guest's process leaves without taking its memory apart

    def run(self, ctx: RuntimeContext) -> int:
        """Call `wasi:cli/run`, or the export that the entrypoint names; the guest's exit status.

        A result that is an error is status 1, as for `wasi:cli/exit`. Raises: WasmtimeError, InvalidArgumentError
        for an export that cannot be called.
        """
        self._store = store = make_store(self._runtime, ctx, network=True)
        context: int = lib.wasmtime_store_context(store.address)
        index = self._export(ctx.entrypoint.func)
        try:
            function = self._function(context, self._instantiate(context), index)
            if function is None:
                raise InvalidArgumentError(
                    f"the component's export {ctx.entrypoint.func!r} is not a function without arguments"
                )
            return _call(context, function)
        except GuestExit as end:
            return end.status

    def _instantiate(self, context: int) -> ComponentInstance:
        instance, linker = ComponentInstance(), self._runtime.component_linker.address
        check(lib.wasmtime_component_linker_instantiate(linker, context, self._component.address, byref(instance)))
        return instance

    def _export(self, name: str) -> Owned:
        if name == DEFAULT_FUNCTION:
            interface = next((export for export in self._exports() if export.startswith(_RUN_INTERFACE)), None)
            parent = self._index(interface) if interface else None
            found = self._index("run", parent) if parent else None
        else:
            found = self._index(name)
        if found is None:
            wanted = f"{_RUN_INTERFACE}0.2" if name == DEFAULT_FUNCTION else name
            there = ", ".join(sorted(self._exports())) or "nothing"
            raise InvalidArgumentError(
                f"the component does not export {wanted!r}; it exports: {there} (choose a function by FILE#NAME)"
            )
        return found

    def _index(self, name: str, parent: Owned | None = None) -> Owned | None:
        encoded, inside = name.encode(), parent.address if parent else None
        found = lib.wasmtime_component_get_export_index(self._component.address, inside, encoded, len(encoded))
        return Owned(found, lib.wasmtime_component_export_index_delete) if found else None

    def _exports(self) -> list[str]:
        kind = Owned(lib.wasmtime_component_type(self._component.address), lib.wasmtime_component_type_delete)
        engine, names = self._runtime.engine.address, list[str]()
        for index in range(lib.wasmtime_component_type_export_count(kind.address, engine)):
            name, size, item = c_void_p(), c_size_t(), c_void_p()
            where = (byref(name), byref(size), byref(item))
            if lib.wasmtime_component_type_export_nth(kind.address, engine, index, *where):
                names.append(string_at(name.value or 0, size.value).decode())
                lib.wasmtime_component_extern_delete(item)
        return names

    @staticmethod
    def _function(context: int, instance: ComponentInstance, index: Owned) -> ComponentFunc | None:
        """The exported function at *index*; None when that is no function, or one that takes arguments."""
        function = ComponentFunc()
        if not lib.wasmtime_component_instance_get_func(byref(instance), context, index.address, byref(function)):
            return None
        kind = _type_of(context, function)
        return None if lib.wasmtime_component_func_type_param_count(kind.address) else function


def _call(context: int, function: ComponentFunc) -> int:
    """Call *function* without arguments; 0, or 1 for a result that is an error. Raises: GuestExit, WasmtimeError."""
    count = int(_has_result(context, function))
    result = ComponentVal()
    check(lib.wasmtime_component_func_call(byref(function), context, None, 0, byref(result), count))
    failed = bool(count) and result.kind == COMPONENT_RESULT and not result.is_ok & 0xFF
    if count:
        lib.wasmtime_component_val_delete(byref(result))
    check(lib.wasmtime_component_func_post_return(byref(function), context))
    return _FAILED if failed else 0


def _has_result(context: int, function: ComponentFunc) -> bool:
    kind, result = _type_of(context, function), ComponentValType()
    if not lib.wasmtime_component_func_type_result(kind.address, byref(result)):
        return False
    lib.wasmtime_component_valtype_delete(byref(result))
    return True


def _type_of(context: int, function: ComponentFunc) -> Owned:
    kind = lib.wasmtime_component_func_type(byref(function), context)
    return Owned(kind, lib.wasmtime_component_func_type_delete)
