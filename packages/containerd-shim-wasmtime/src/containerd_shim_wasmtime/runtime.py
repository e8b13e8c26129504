"""`Runtime`: what every container of a shim has in common of wasmtime. No thread, no store, nothing of WASI's state."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .capi import Owned, check, lib

__all__ = ["Runtime", "make_runtime", "warm_runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """An engine, and what modules and components are linked with: their WASI, of which each store brings its own."""

    engine: Owned
    module_linker: Owned
    component_linker: Owned


def make_runtime() -> Runtime:
    """A runtime of its own. Raises: WasmtimeError."""
    config = Owned(lib.wasm_config_new(), lambda _: None)  # has no call to free it: the engine takes it
    lib.wasmtime_config_parallel_compilation_set(config.address, False)  # its threads would stay
    lib.wasmtime_config_wasm_component_model_set(config.address, True)
    engine = Owned(lib.wasm_engine_new_with_config(config.give()), lib.wasm_engine_delete)
    modules = Owned(lib.wasmtime_linker_new(engine.address), lib.wasmtime_linker_delete)
    check(lib.wasmtime_linker_define_wasi(modules.address))
    components = Owned(lib.wasmtime_component_linker_new(engine.address), lib.wasmtime_component_linker_delete)
    check(lib.wasmtime_component_linker_add_wasip2(components.address))
    return Runtime(engine, modules, components)


@functools.cache
def warm_runtime() -> Runtime:
    """The runtime of this process, which all settings share as none of them changes code. Raises: WasmtimeError."""
    return make_runtime()
