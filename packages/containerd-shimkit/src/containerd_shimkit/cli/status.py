"""`containerd-shimkit status`: which runtimes of ours containerd finds on this node, and whether they are in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import click

from ..errors import NotFoundError
from ..zygote.naming import socket_path
from .bundles import Container, containers, state_directories
from .install import DEFAULT_DIRECTORY
from .programs import Kind, Program, read_program, runtime_name
from .search_path import SearchPath, containerd_search_paths
from .zygotes import Zygote, zygotes

__all__ = ["Environment", "RuntimeStatus", "describe", "status"]

# run by the environment's own Python, which may be another than ours
_ASK: Final = """
import json
from importlib.metadata import version
from containerd_shimkit.launcher.build import sources_digest
print(json.dumps([version("containerd-shimkit"), sources_digest()]))
"""
_ASK_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Environment:
    """What a Python environment says of itself: its version of containerd-shimkit, and of the launcher's sources."""

    version: str
    sources: str


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """One program that is, or is meant to be, a runtime of containerd; the fields of --json."""

    name: str
    path: str
    kind: str
    command: tuple[str, ...]
    version: str | None  # of containerd-shimkit in its environment
    zygote: str | None  # in the context of this process: "alive", "hangs"; None when there is none, or unknown
    other_zygotes: int  # of the same name, in other contexts or environments: containerd's is one
    containers: tuple[str, ...] | None  # None: unknown, to who may not look
    problems: tuple[str, ...]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON list of objects instead of text.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Path(file_okay=False),
    help="A state directory of containerd, in the place of those that are found; repeatable.",
)
def status(as_json: bool, states: tuple[str, ...]) -> None:
    """Show the runtimes of ours on containerd's PATH. Exit status 1: there is none, or one has a problem."""
    search_paths = containerd_search_paths()
    found = list(_statuses(search_paths, states or state_directories()))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    elif not found:
        looked = ":".join(_directories(search_paths))
        click.echo(f"no runtime of ours in {looked}: containerd-shimkit install NAME puts one there", err=True)
    else:
        click.echo("\n".join(map(describe, found)))
    if not found or any(each.problems for each in found):
        sys.exit(1)


def describe(runtime: RuntimeStatus) -> str:
    """A runtime for people, in a few lines."""
    where = f" (containerd-shimkit {runtime.version})" if runtime.version else ""
    elsewhere = f", {runtime.other_zygotes} in other contexts" if runtime.other_zygotes else ""
    users = "only root can tell" if runtime.containers is None else ", ".join(runtime.containers) or "none"
    return "\n".join(
        [
            f"io.containerd.{runtime.name}.v1",
            f"  program     {runtime.path} ({runtime.kind})",
            f"  runs        {' '.join(runtime.command) or 'nothing'}{where}",
            f"  zygote      {runtime.zygote or 'none'}{elsewhere}",
            f"  containers  {users}",
            *(f"  problem     {problem}" for problem in runtime.problems),
        ]
    )


def _statuses(search_paths: Sequence[SearchPath], states: Sequence[str]) -> Iterator[RuntimeStatus]:
    programs = list(_programs(_directories(search_paths)))
    environments = {each.command[0]: ask_environment(each.command[0]) for each in programs if each.command}
    living, users = _living_zygotes(), _users(states)
    for program in programs:
        yield _status_of(program, search_paths, environments, living, users)


def _directories(search_paths: Sequence[SearchPath]) -> list[str]:
    """All that containerd looks in, each once and in its order, and the one where `install` puts programs."""
    found: dict[str, str] = {}
    for directory in (*(directory for each in search_paths for directory in each.directories), DEFAULT_DIRECTORY):
        found.setdefault(os.path.realpath(directory), directory)
    return list(found.values())


def _programs(directories: Sequence[str]) -> Iterator[Program]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in filter(runtime_name, names):
            try:
                program = read_program(os.path.join(directory, name))
            except OSError:
                continue  # not ours to read, so not ours
            if program is not None and program.kind is not Kind.OTHER:
                yield program


def _status_of(
    program: Program,
    search_paths: Sequence[SearchPath],
    environments: Mapping[str, Environment | NotFoundError],
    living: Sequence[Zygote],
    users: Sequence[Container] | None,
) -> RuntimeStatus:
    name = runtime_name(os.path.basename(program.path))
    environment = environments.get(program.command[0]) if program.command else None
    own = socket_path(program.command) if program.command else ""
    using = None if users is None else tuple(str(each) for each in users if each.needs(program.path))
    return RuntimeStatus(
        name=name,
        path=program.path,
        kind=program.kind.value,
        command=program.command,
        version=environment.version if isinstance(environment, Environment) else None,
        zygote=next((each.health.value for each in living if each.socket == own), None),
        other_zygotes=sum(each.runtime == name and each.socket != own for each in living),
        containers=using,
        problems=tuple(_problems(program, environment, search_paths)),
    )


def _problems(
    program: Program, environment: Environment | NotFoundError | None, search_paths: Sequence[SearchPath]
) -> Iterator[str]:
    name = runtime_name(os.path.basename(program.path))
    cure = f"run `containerd-shimkit install {name}` in the environment where the shim is installed"
    if program.problem:
        yield f"{program.problem}; {cure}"
    if isinstance(environment, NotFoundError):
        yield f"{environment}; {cure}"
    elif program.command and not os.path.exists(program.command[-1]):
        yield f"{program.command[-1]} is gone; {cure}"
    is_launcher = program.kind is Kind.LAUNCHER
    if is_launcher and isinstance(environment, Environment) and environment.sources != program.sources:
        yield f"the launcher is not the one of containerd-shimkit {environment.version}; {cure}"
    if not os.access(program.path, os.X_OK):
        yield f"it cannot be executed: chmod 755 {program.path}"
    for search_path in search_paths:
        first = search_path.finds(os.path.basename(program.path))  # None too if what is there cannot be executed
        if not search_path.has(os.path.dirname(program.path)):
            yield f"{search_path.owner} does not look there"
        elif first is not None and not os.path.samefile(first, program.path):
            yield f"{search_path.owner} finds {first} first and executes that"


def ask_environment(python: str) -> Environment | NotFoundError:
    """What the environment of the interpreter *python* has; an error, not raised, when it has nothing to say."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_ASK_TIMEOUT,
        )
    except FileNotFoundError:
        return NotFoundError(f"{python} is gone")
    except OSError as error:
        return NotFoundError(f"{python} cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return NotFoundError(f"{python} did not answer within {_ASK_TIMEOUT:g} s")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return NotFoundError(
            f"the environment of {python} has no working containerd-shimkit: {said[-1] if said else ''}"
        )
    said = done.stdout.splitlines()[-1:]  # what stands before is of files that run at each start, such as sitecustomize
    try:
        version, sources = json.loads("".join(said))
    except ValueError:
        return NotFoundError(f"the environment of {python} has no working containerd-shimkit: it said {done.stdout!r}")
    return Environment(version, sources)


def _living_zygotes() -> list[Zygote]:
    try:
        return zygotes()
    except PermissionError:
        return []


def _users(states: Sequence[str]) -> list[Container] | None:
    try:
        return containers(states)
    except PermissionError:
        return None
