"""`ContainerInstance`: a container of this package as an `Instance`; alone, it runs native programs."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Mapping, Sequence

from ..errors import FailedPreconditionError, InvalidArgumentError
from ..instance import Encoded, ExitStatus, Instance, InstanceConfig, ProcessInfo
from ..oci.spec import Process, Spec, parse_process, read_spec
from ..shim.reaper import Reaper
from .channel import Message
from .executor import Executor, LinuxExecutor
from .lifecycle import Container

__all__ = ["ContainerInstance"]


class ContainerInstance(Instance):
    """Runs a container's native program, isolated as its config.json says.

    Derived classes give another executor, and the answers to what it asks from inside the container.
    """

    def __init__(self, id: str, config: InstanceConfig) -> None:  # noqa: A002
        super().__init__(id, config)
        self._container: Container | None = None

    def make_executor(self, spec: Spec) -> Executor:
        """What runs inside; called once, before the container's init is forked. Raises: ShimError for the spec."""
        if spec.process is None:
            raise InvalidArgumentError("config.json has no `process`: there is nothing to run; add process.args")
        return LinuxExecutor.of(spec.process)

    def make_exec_executor(self, process: Process) -> Executor:
        """What a further process of the container is; called once for each. Raises: ShimError for *process*."""
        return LinuxExecutor.of(process)

    async def answer(self, question: Message, descriptors: Sequence[int]) -> tuple[Message, Sequence[int]]:
        """Answer the executor's question, asked in the init; descriptors given back are closed after they are sent."""
        raise InvalidArgumentError(f"nobody here can answer the question {question!r}")

    @property
    def container(self) -> Container:
        """The container, once `create` has been called. Raises: FailedPreconditionError before."""
        if self._container is None:
            raise FailedPreconditionError(f"container {self.id!r} has not been created")
        return self._container

    async def create(self) -> int:
        spec = read_spec(self.config.bundle)
        executor = self.make_executor(spec)
        reaper = Reaper.current()
        self._container = Container(self.id, self.config, spec, executor, reaper, self.answer, on_oom=self._tell_oom)
        return await self._container.create()

    def _tell_oom(self) -> None:
        self.on_oom()

    async def start(self) -> int:
        return await self.container.start()

    async def kill(self, signal: int, exec_id: str | None = None, all: bool = False) -> None:  # noqa: A002
        if exec_id:
            self.container.executions.find(exec_id).kill(signal)
            return
        if signal == signals.SIGKILL:
            await self.container.freezing.give_way()
        self.container.kill(signal, all_processes=all)

    async def delete(self) -> None:
        await self.container.delete()

    async def wait_timeout(self, seconds: float | None) -> ExitStatus | None:
        try:
            return await asyncio.wait_for(asyncio.shield(self.container.exited), seconds)
        except asyncio.TimeoutError:
            return None

    async def close_io(self, exec_id: str | None = None) -> None:
        if exec_id:
            self.container.executions.find(exec_id).close_stdin()
        else:
            self.container.close_stdin()

    async def resize_pty(self, width: int, height: int, exec_id: str | None = None) -> None:
        if exec_id:
            self.container.executions.find(exec_id).resize(width, height)
        else:
            self.container.resize(width, height)

    async def exec(self, exec_id: str, spec: Encoded, config: InstanceConfig) -> None:
        process = parse_process(spec.value)
        executor = self.make_exec_executor(process)
        self.container.executions.add(exec_id, self.container.home(), process, config, executor)

    async def start_exec(self, exec_id: str) -> int:
        return await self.container.executions.find(exec_id).start()

    async def wait_exec(self, exec_id: str) -> ExitStatus:
        return await asyncio.shield(self.container.executions.find(exec_id).exited)

    async def delete_exec(self, exec_id: str) -> None:
        await self.container.executions.remove(exec_id)

    async def pause(self) -> None:
        await self.container.freezing.pause()

    async def resume(self) -> None:
        await self.container.freezing.resume()

    async def pids(self) -> Sequence[ProcessInfo]:
        return self.container.pids()

    async def update(self, resources: Encoded, annotations: Mapping[str, str]) -> None:
        await self.container.limits.update(resources)
        self.container.add_annotations(annotations)

    async def stats(self) -> Encoded:
        return self.container.stats()
