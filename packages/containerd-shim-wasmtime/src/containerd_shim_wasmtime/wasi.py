"""What a guest gets of WASI, whichever kind it is: arguments, environment, streams, and the container's root."""

from __future__ import annotations

import wasmtime
from containerd_shim_wasm import RuntimeContext
from wasmtime import _ffi as ffi

__all__ = ["make_store"]


def make_store(engine: wasmtime.Engine, ctx: RuntimeContext, *, network: bool) -> wasmtime.Store:
    """A store whose guest sees the container: its streams are this process's own, its `/` is this process's `/`.

    With *network* it may also use sockets and look names up, in the container's network namespace.
    """
    config = wasmtime.WasiConfig()
    config.argv = list(ctx.args)
    config.env = list(ctx.env.items())
    config.inherit_stdin()
    config.inherit_stdout()
    config.inherit_stderr()
    config.preopen_dir("/", "/")
    if network:
        ffi.wasi_config_inherit_network(config.ptr())
        ffi.wasi_config_allow_ip_name_lookup(config.ptr(), True)
    store = wasmtime.Store(engine)
    store.set_wasi(config)
    return store
