from __future__ import annotations

import pytest
from containerd_shim_wasm import Entrypoint
from containerd_shim_wasm.paths import parse_entrypoint


@pytest.mark.parametrize(
    ("arg0", "path", "func", "name"),
    [
        ("hello.wat#foo", "hello.wat", "foo", "hello"),
        ("/srv/hello.wat", "/srv/hello.wat", "_start", "hello"),
        ("#init", "", "init", None),
        ("", "", "_start", None),
        ("/app/tool.v2.wasm#a#b", "/app/tool.v2.wasm", "a#b", "tool.v2"),
        ("tool#", "tool", "_start", "tool"),
    ],
)
def test_an_entrypoint_is_a_path_and_perhaps_an_export(arg0: str, path: str, func: str, name: str | None) -> None:
    assert parse_entrypoint(arg0) == Entrypoint(arg0, path, func, name)
