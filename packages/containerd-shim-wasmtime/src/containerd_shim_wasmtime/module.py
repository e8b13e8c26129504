"""Core modules: WASI preview 1."""

from __future__ import annotations

from ctypes import byref, c_void_p

from containerd_shim_wasm import InvalidArgumentError, RuntimeContext

from .capi import (
    EXTERN_FUNC,
    ByteVec,
    Extern,
    Func,
    GuestExit,
    Instance,
    Owned,
    Val,
    check,
    check_trap,
    lib,
    name_at,
    pointers_of,
)
from .runtime import Runtime
from .wasi import make_store

__all__ = ["LoadedModule"]


class LoadedModule:
    """A core module, mapped from its compiled code."""

    def __init__(self, runtime: Runtime, path: str) -> None:
        """Map the code in the file *path*. Raises: WasmtimeError when it is another version's."""
        module = c_void_p()
        check(lib.wasmtime_module_deserialize_file(runtime.engine.address, path.encode(), byref(module)))
        self._module = Owned(module.value, lib.wasmtime_module_delete)
        self._runtime = runtime
        self._store: Owned | None = None  # kept: a guest's process leaves without taking its memory apart

    def run(self, ctx: RuntimeContext) -> int:
        """Call the export that the entrypoint names; the guest's exit status, 0 when it returns.

        Raises: Trap, WasmtimeError, InvalidArgumentError for an export that cannot be called.
        """
        self._store = store = make_store(self._runtime, ctx, network=False)
        context: int = lib.wasmtime_store_context(store.address)
        try:
            instance = self._instantiate(context)
            if initialize := _exported_function(context, instance, "_initialize"):
                _call(context, initialize)  # a reactor asks for this before any other export
            name = ctx.entrypoint.func
            function = _exported_function(context, instance, name)
            if function is None or _shape(context, function)[0]:
                raise self._not_callable(name, "is not there" if function is None else "takes arguments")
            _call(context, function)
        except GuestExit as end:
            return end.status
        return 0

    def _instantiate(self, context: int) -> Instance:
        instance, trap = Instance(), c_void_p()
        linker, module = self._runtime.module_linker.address, self._module.address
        # the linker resolves the imports here: to have it done before (instantiate_pre) pays for a second guest only
        check(lib.wasmtime_linker_instantiate(linker, context, module, byref(instance), byref(trap)))
        check_trap(trap.value)
        return instance

    def _not_callable(self, name: str, what: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            f"the module's export {name!r} {what}; a function without arguments is wanted, of which it has: "
            f"{', '.join(self._callable_names()) or 'none'} (choose one by FILE#NAME)"
        )

    def _callable_names(self) -> list[str]:
        exports, names = ByteVec(), list[str]()
        lib.wasmtime_module_exports(self._module.address, byref(exports))
        for export in pointers_of(exports):
            function = lib.wasm_externtype_as_functype_const(lib.wasm_exporttype_type(export))
            if function and not ByteVec.from_address(lib.wasm_functype_params(function)).size:
                names.append(name_at(lib.wasm_exporttype_name(export)))
        lib.wasm_exporttype_vec_delete(byref(exports))
        return sorted(names)


def _exported_function(context: int, instance: Instance, name: str) -> Func | None:
    """The function that *instance* exports as *name*; None when there is no such export, or it is something else."""
    encoded, found = name.encode(), Extern()
    if not lib.wasmtime_instance_export_get(context, byref(instance), encoded, len(encoded), byref(found)):
        return None
    function = Func.from_buffer_copy(found.func) if found.kind == EXTERN_FUNC else None
    lib.wasmtime_extern_delete(byref(found))
    return function


def _call(context: int, function: Func) -> None:
    """Call *function* without arguments; what it returns is let go. Raises: GuestExit, Trap, WasmtimeError."""
    count, trap = _shape(context, function)[1], c_void_p()
    results = (Val * count)() if count else ()
    check(lib.wasmtime_func_call(context, byref(function), None, 0, results or None, count, byref(trap)))
    check_trap(trap.value)
    for result in results:
        lib.wasmtime_val_unroot(byref(result))


def _shape(context: int, function: Func) -> tuple[int, int]:
    """How many arguments *function* takes, and how many results it gives."""
    kind = Owned(lib.wasmtime_func_type(context, byref(function)), lib.wasm_functype_delete)
    parameters, results = lib.wasm_functype_params(kind.address), lib.wasm_functype_results(kind.address)
    return ByteVec.from_address(parameters).size, ByteVec.from_address(results).size
