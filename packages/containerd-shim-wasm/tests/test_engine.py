from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from containerd_shim_wasm import Engine, Guest, InvalidArgumentError, RuntimeContext, Settings, WasmLayer
from containerd_shim_wasm.paths import parse_entrypoint


class Toy(Engine):
    name = "toy"

    def run_wasi(self, ctx: RuntimeContext) -> int:
        return len(ctx.args)


@dataclass(frozen=True, slots=True)
class ToySettings(Settings):
    speed: int = 3
    label: str = ""


def context(data: bytes) -> RuntimeContext:
    descriptor = os.memfd_create("guest")
    os.write(descriptor, data)
    return RuntimeContext("id", ("/a.wasm",), {}, parse_entrypoint("/a.wasm"), Guest(descriptor), {})


@pytest.mark.parametrize(
    ("data", "handled"),
    [(b"\0asm\x01\0\0\0", True), (b"  (module)", True), (b"#!/bin/sh", False), (b"", False)],
)
def test_by_default_an_engine_handles_wasm_and_its_text(data: bytes, handled: bool) -> None:
    ctx = context(data)
    assert Toy(Settings()).can_handle(ctx) is handled
    assert ctx.guest.read() == data, "looking at it does not move anything"
    os.close(ctx.guest.descriptor)


def test_an_engine_that_says_nothing_of_compiling_leaves_every_layer_as_it_is() -> None:
    engine = Toy(Settings())
    assert engine.can_precompile() is None
    assert engine.precompile([WasmLayer(b"a"), WasmLayer(b"b")]) == [None, None]


def test_settings_come_from_their_own_keys_among_others() -> None:
    config: Mapping[str, object] = {"SystemdCgroup": True, "procfs": True, "speed": 5, "compile_timeout": 3}
    assert ToySettings.from_config(config) == replace(ToySettings(), procfs=True, speed=5, compile_timeout=3)
    assert ToySettings.from_config({}) == ToySettings()


@pytest.mark.parametrize(
    ("key", "value"),
    [("procfs", "yes"), ("procfs", 1), ("speed", True), ("speed", 1.5), ("label", 3), ("compile_timeout", "soon")],
)
def test_a_setting_of_the_wrong_type_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"the runtime option {key} is {value!r}"):
        ToySettings.from_config({key: value})
