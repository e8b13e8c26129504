"""Opens the streams that a task or an exec is to have: a terminal or none, files, FIFOs, or a logging program."""

from __future__ import annotations

from ..instance import InstanceConfig
from ..shim.reaper import Reaper
from .log_program import LogProgram, start_logging
from .plan_logging import plan_logging
from .stdio import Stdio
from .terminal import TerminalStreams

__all__ = ["open_streams"]


async def open_streams(
    config: InstanceConfig,
    id: str,  # noqa: A002
    reaper: Reaper,
) -> tuple[Stdio | TerminalStreams, LogProgram | None]:
    """The streams of the process *id*, and the program that takes its output, if it is to have one, which is ready.

    Raises: ShimError that names the stream and its path, with nothing left open.
    """
    command = None if config.console_socket else plan_logging(config.stdout, config.stderr, terminal=config.terminal)
    if command is None:
        return _open(config, config.stdout, config.stderr), None
    program = await start_logging(command, id, config.namespace, reaper)
    try:
        stdout, stderr = program.paths
        streams = _open(config, stdout, stderr if config.stderr else "")
    except BaseException:
        await program.abandon()
        raise
    program.release()
    return streams, program


def _open(config: InstanceConfig, stdout: str, stderr: str) -> Stdio | TerminalStreams:
    if config.terminal:
        return TerminalStreams(config.stdin, stdout, config.console_socket)
    return Stdio(config.stdin, stdout, stderr)
