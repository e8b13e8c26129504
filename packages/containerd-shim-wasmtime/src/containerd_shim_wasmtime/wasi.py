"""What a guest gets of WASI, whichever kind it is: arguments, environment, streams, and the container's root."""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import Array, c_char_p
from typing import Final

from containerd_shim_wasm import InvalidArgumentError, RuntimeContext

from .capi import Owned, WasmtimeError, check, lib
from .runtime import Runtime

__all__ = ["make_store"]

_ROOT: Final = b"/"
_MANY: Final = 64
_WORDS: Final = (
    c_char_p * _MANY
)  # made here: making a type takes longer than all else that a guest's process does in here


def make_store(runtime: Runtime, ctx: RuntimeContext, *, network: bool) -> Owned:
    """A store whose guest sees the container: its streams are this process's own, its `/` is this process's `/`.

    With *network* it may also use sockets and look names up, in the container's network namespace.
    Raises: InvalidArgumentError for an argument or a variable that WASI cannot pass on, WasmtimeError.
    """
    config = Owned(lib.wasi_config_new(), lib.wasi_config_delete)
    _set_words(config, ctx)
    lib.wasi_config_inherit_stdin(config.address)
    lib.wasi_config_inherit_stdout(config.address)
    lib.wasi_config_inherit_stderr(config.address)
    if not lib.wasi_config_preopen_dir(config.address, _ROOT, _ROOT, True):
        raise WasmtimeError("the container's / could not be opened for the guest")
    if network:
        lib.wasi_config_inherit_network(config.address)
        lib.wasi_config_allow_ip_name_lookup(config.address, True)
    store = Owned(lib.wasmtime_store_new(runtime.engine.address, None, None), lib.wasmtime_store_delete)
    check(lib.wasmtime_context_set_wasi(lib.wasmtime_store_context(store.address), config.give()))
    return store


def _set_words(config: Owned, ctx: RuntimeContext) -> None:
    names, values = _strings(ctx.env), _strings(ctx.env.values())
    accepted = lib.wasi_config_set_argv(config.address, len(ctx.args), _strings(ctx.args))
    if not (accepted and lib.wasi_config_set_env(config.address, len(ctx.env), names, values)):
        raise WasmtimeError("the guest's arguments or environment were not accepted")


def _strings(words: Iterable[str]) -> Array[c_char_p]:
    """*words* as C has them, UTF-8."""
    encoded: list[bytes] = []
    for word in words:
        try:
            encoded.append(word.encode())
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{word!r} is not Unicode text, and WASI passes nothing else on") from error
        if "\0" in word:  # what is behind it would be lost
            raise InvalidArgumentError(f"{word!r} has a NUL character; take it out of the arguments or environment")
    return (_WORDS if len(encoded) <= _MANY else c_char_p * len(encoded))(*encoded)
