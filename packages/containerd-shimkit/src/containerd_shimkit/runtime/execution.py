"""`exec`: a further process in a container that lives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..container.answers import no_answer
from ..container.closed_world import close_imports
from ..container.execution import Execution, Home
from ..container.executor import LinuxExecutor
from ..container.filters import filter_of
from ..errors import FailedPreconditionError, InvalidArgumentError
from ..instance import ExitStatus, InstanceConfig
from ..linux.capabilities import CAPABILITIES
from ..linux.process import hide_environment
from ..oci.spec import Capabilities, Process, User, parse_process, read_spec
from ..oci.strict_json import IDS
from ..shim.reaper import Reaper
from .handover import handing_on_signals, preserved_descriptors, raw_if_needed, streams_of, write_pid
from .loop import with_loop
from .own_terminal import own_size
from .store import Entry

__all__ = ["ExecChoices", "execute"]


@dataclass(frozen=True, slots=True)
class ExecChoices:
    """What the command line says of it: all in the file *process*, or parts, and the rest is as the init has it."""

    process: str = ""
    args: Sequence[str] = ()
    cwd: str = ""
    env: Sequence[str] = ()
    terminal: bool = False
    user: str = ""
    groups: Sequence[int] = ()
    capabilities: Sequence[str] = ()
    no_new_privileges: bool = False
    apparmor: str = ""
    label: str = ""
    console_socket: str = ""
    pid_file: str = ""
    preserved: int = 0
    detach: bool = False


def execute(entry: Entry, choices: ExecChoices) -> int:
    """Run the process; its exit status, or 0 as soon as it runs when it is detached. Raises: ShimError, OSError."""
    return with_loop(_execute(entry, choices))


async def _execute(entry: Entry, choices: ExecChoices) -> int:
    init = entry.state.init
    if init is None or entry.status not in ("created", "running", "paused"):
        raise FailedPreconditionError(f"nothing can be executed in container {entry.id!r}: it is {entry.status}")
    spec = read_spec(entry.directory)
    assert spec.process is not None, "or it could not have been made"
    process = _process(choices, spec.process)
    if process.terminal and process.console_size is None:
        process = replace(process, console_size=own_size())
    reaper = Reaper.current()
    seccomp = spec.linux.seccomp if spec.linux else None
    program = await filter_of(seccomp, reaper) if seccomp is not None else b""
    never: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
    home = Home(entry.id, spec, entry.cgroup, init, never, program, reaper, no_answer, entry.record.bundle)
    streams = streams_of(terminal=process.terminal, console_socket=choices.console_socket, stays=not choices.detach)
    config = InstanceConfig(entry.record.bundle, namespace="", terminal=process.terminal)
    execution = Execution(
        f"process of {entry.id}",
        home,
        process,
        config,
        LinuxExecutor.of(process),
        streams=streams,
        preserved=preserved_descriptors(choices.preserved),
    )
    close_imports(lives_on=False)  # as for a container: its paths are the image's in there
    hide_environment()
    await execution.start()
    if choices.pid_file:
        write_pid(choices.pid_file, execution.pid)
    if choices.detach:
        return 0
    with handing_on_signals(execution.kill, execution.exited), raw_if_needed(streams):
        return (await asyncio.shield(execution.exited)).status


def _process(choices: ExecChoices, own: Process) -> Process:
    """What is to be executed. Raises: InvalidArgumentError."""
    if choices.process:
        try:
            with open(choices.process, "rb") as file:
                found = parse_process(file.read())
        except OSError as error:
            raise InvalidArgumentError(f"--process {choices.process}: {error.strerror}") from error
        return replace(found, terminal=found.terminal or choices.terminal)
    if not choices.args:
        raise InvalidArgumentError("there is nothing to execute: name the program, or give --process")
    return replace(
        own,
        args=tuple(choices.args),
        cwd=choices.cwd or own.cwd,
        env=(*own.env, *choices.env),
        terminal=choices.terminal,
        console_size=None,
        user=_user(choices, own.user),
        capabilities=_capabilities(choices, own),
        no_new_privileges=own.no_new_privileges or choices.no_new_privileges,
        apparmor_profile=choices.apparmor or own.apparmor_profile,
        selinux_label=choices.label or own.selinux_label,
    )


def _user(choices: ExecChoices, own: User) -> User:
    for group in choices.groups:
        if not IDS[0] <= group <= IDS[1]:
            raise InvalidArgumentError(f"--additional-gids is {group}; it must be {IDS[0]} to {IDS[1]}")
    groups = (*own.additional_gids, *choices.groups)
    if not choices.user:
        return replace(own, additional_gids=groups)
    words = choices.user.split(":")
    if len(words) > 2 or not all(word.isdecimal() and int(word) <= IDS[1] for word in words):
        raise InvalidArgumentError(
            f"--user is {choices.user!r}; it must be a number, or two as UID:GID, up to {IDS[1]}"
        )
    return replace(own, uid=int(words[0]), gid=int(words[-1]) if len(words) == 2 else own.gid, additional_gids=groups)


def _capabilities(choices: ExecChoices, own: Process) -> Capabilities | None:
    """The init's, and those of --cap in every set but the inheritable and ambient ones."""
    added = tuple(choices.capabilities)
    for name in added:
        if name not in CAPABILITIES:
            raise InvalidArgumentError(f"--cap is {name!r}, which is no capability; a name is CAP_NET_ADMIN, say")
    if not added:
        return own.capabilities
    found = own.capabilities or Capabilities()
    sets = {kind: (*getattr(found, kind), *added) for kind in ("bounding", "effective", "permitted")}
    return replace(found, **sets)
