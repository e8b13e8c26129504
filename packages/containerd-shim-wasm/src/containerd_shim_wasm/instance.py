"""`WasmInstance`: a container and an engine, as an `Instance`."""

from __future__ import annotations

import signal as signals
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from containerd_shimkit import ExitStatus, InstanceConfig, span
from containerd_shimkit.container.channel import Message
from containerd_shimkit.container.executor import Executor
from containerd_shimkit.container.forker import Forker
from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.oci.spec import Spec

from .engine import Engine, Settings, is_warm, make_warm
from .executor import FAILED, WasmExecutor
from .loader import ProgramDigest, compile_guest

__all__ = ["WasmInstance", "engine_of_shim"]

_ENDING: Final = (signals.SIGTERM, signals.SIGINT)


class WasmInstance(ContainerInstance):
    """A container that runs wasm by an engine, or the native program that its image has instead."""

    def __init__(self, id: str, config: InstanceConfig, engine: Engine) -> None:  # noqa: A002
        super().__init__(id, config)
        self._engine = engine
        self._is_wasm = False
        self._asked: int | None = None
        self._digest = ProgramDigest()

    def make_executor(self, spec: Spec) -> Executor:
        if spec.process is None or not spec.process.args:
            return super().make_executor(spec)
        return WasmExecutor.of(self.id, self._engine, spec.process, self.config.trace)

    async def answer(self, question: Message, descriptors: Sequence[int]) -> tuple[Message, Sequence[int]]:
        """Find the code of the program that the init has chosen, which is wasm, or have it compiled.

        For a big program the answer may be to ask again, with the program's digest.
        """
        if "compile" not in question:
            return await super().answer(question, descriptors)
        self._is_wasm = True
        program, digest = descriptors[0], question["digest"]
        if digest:
            self._digest.learn(program, digest)
        else:
            digest = self._digest.recall(self._engine, program)
            if digest is None:
                return {"wants_digest": True}, ()
        compiled = await compile_guest(self._engine, program, digest, self.config.trace, container=self.id)
        given = () if compiled is None else (compiled,)
        return {"wants_digest": False, "compiled": compiled is not None}, given

    async def create(self) -> int:
        with span("create", self.config.trace, engine=self._engine.name):
            return await super().create()

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        """A wasm guest has no signals, and pid 1 ignores what it does not handle: TERM and INT end it by KILL.

        What is executed beside it is native, and has them.
        """
        if self._is_wasm and not exec_id and signal in _ENDING:
            await super().kill(signals.SIGKILL, exec_id, all)
            self._asked = signal
        else:
            await super().kill(signal, exec_id, all)

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        ended = await super().wait_timeout(seconds)
        if ended is not None and self._asked is not None and ended.status == FAILED:
            return replace(ended, status=128 + self._asked)
        return ended


def engine_of_shim(kind: type[Engine], settings: Settings) -> Engine:
    """The shim's engine of *kind* with *settings*, warmed up now if it is the first container that asks for them."""
    if not is_warm(kind, settings):
        Forker.renew()
    return make_warm(kind, settings)
