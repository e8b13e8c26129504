"""An executor on its way to the process that forks inits, which has the shim's engines and gets the rest as values."""

from __future__ import annotations

import marshal
import pickle

import pytest
from containerd_shim_wasm import Engine, Settings
from containerd_shim_wasm import engine as module
from containerd_shim_wasm.context import RuntimeContext
from containerd_shim_wasm.engine import make_warm
from containerd_shim_wasm.executor import WasmExecutor
from containerd_shimkit import NO_TRACE, TraceContext
from containerd_shimkit.container.executor import EXECUTORS, PlainExecutor
from containerd_shimkit.oci.spec import Process


class Quiet(Engine):
    name = "quiet"

    def run_wasi(self, ctx: RuntimeContext) -> int:
        return 0


@pytest.fixture(autouse=True)
def no_engine_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_warm", {})


def sent(executor: WasmExecutor) -> WasmExecutor:
    name, values = marshal.loads(marshal.dumps(executor.plain()))
    arrived = EXECUTORS[name](*values)
    assert isinstance(arrived, WasmExecutor)
    return arrived


@pytest.mark.parametrize("trace", [NO_TRACE, TraceContext("00-1-2-01", "a=b", "c=d")])
def test_it_arrives_as_it_was_sent(trace: TraceContext) -> None:
    engines = [make_warm(Quiet, Settings(procfs=procfs)) for procfs in (False, True)]
    for engine in engines:
        process = Process(args=("tool.wasm#main", "x"), cwd="/srv", env=("PATH=/bin:/usr/bin", "A=1"))
        executor = WasmExecutor.of("c1", engine, process, trace)
        assert isinstance(executor, PlainExecutor)
        arrived = sent(executor)
        assert vars(arrived) == vars(executor)
        assert arrived._engine is engine
        assert [place[0] for place in arrived._places][-1] == "/srv/tool.wasm"


def test_an_engine_that_is_nobody_elses_cannot_be_sent() -> None:
    executor = WasmExecutor.of("c1", Quiet(Settings()), Process(args=("/a.wasm",), cwd="/"), NO_TRACE)
    with pytest.raises(ValueError, match="not in list"):
        sent(executor)


def test_a_process_without_that_engine_says_so() -> None:
    data = pickle.dumps(make_warm(Quiet, Settings()))
    module._warm.clear()
    with pytest.raises(IndexError):
        pickle.loads(data)
