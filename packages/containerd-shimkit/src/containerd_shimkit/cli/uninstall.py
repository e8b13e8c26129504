"""`containerd-shimkit uninstall NAME...`: remove the launcher that `install` has put there, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from ..errors import FailedPreconditionError, ShimError
from .bundles import Container, containers, state_directories
from .handler import DEFAULT_CONFIG, remove_handler
from .install import DEFAULT_DIRECTORY
from .owners import package_owning
from .programs import Kind, RuntimeName, program_name, read_program

__all__ = ["uninstall"]

_SHOWN = 5  # containers that a message names


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=RuntimeName())
@click.option(
    "--directory",
    default=DEFAULT_DIRECTORY,
    show_default=True,
    type=click.Path(file_okay=False),
    help="Where `install` has put it.",
)
@click.option("--force", is_flag=True, help="Also when containers still need it to be cleaned up.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Path(file_okay=False),
    help="A state directory of containerd, in the place of those that are found; repeatable.",
)
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    show_default=True,
    type=click.Path(dir_okay=False),
    help="containerd's configuration, where `install --kubernetes` may have put handlers.",
)
def uninstall(names: tuple[str, ...], directory: str, force: bool, states: tuple[str, ...], config: str) -> None:
    """Remove the launchers of the runtimes io.containerd.NAME.v1; the shims stay installed in their environments."""
    failed = False
    for name in names:
        path = os.path.join(os.path.abspath(directory), program_name(name))
        try:
            click.echo(_uninstall(path, force, states or state_directories()))
            if changed := remove_handler(name, os.path.abspath(config)):
                click.echo(f"took the handler {name} out of {changed}; restart containerd")
        except ShimError as error:
            click.echo(f"error: {name}: {error}", err=True)
            failed = True
        except OSError as error:
            cure = "; run this as root" if isinstance(error, PermissionError) else ""
            click.echo(f"error: {name}: {error.filename or path}: {error.strerror}{cure}", err=True)
            failed = True
    if failed:
        sys.exit(1)


def _uninstall(path: str, force: bool, states: Sequence[str]) -> str:
    """Remove one; what has been done, for people. Raises: FailedPreconditionError, OSError."""
    program = read_program(path)
    if program is None:
        return f"{path} is not there"
    if program.kind is not Kind.LAUNCHER:
        what = "a console script" if program.kind is Kind.CONSOLE_SCRIPT else "another program"
        raise FailedPreconditionError(
            f"{path} is no launcher but {what}; it is left alone: remove it by what has made it"
        )
    if owner := package_owning(path):
        raise FailedPreconditionError(f"{path} belongs to a package of the distribution ({owner}); it is left alone")
    needing = [container for container in containers(states) if container.needs(path)]
    if needing and not force:
        raise FailedPreconditionError(
            f"{path} is needed to clean up after {_list(needing)}; end them first, or give --force"
        )
    os.unlink(path)
    return f"removed {path}" + (f", which {_list(needing)} still needed" if needing else "")


def _list(needing: Sequence[Container]) -> str:
    shown = ", ".join(map(str, needing[:_SHOWN]))
    more = f" and {len(needing) - _SHOWN} more" if len(needing) > _SHOWN else ""
    return f"{len(needing)} container{'s' if len(needing) > 1 else ''} ({shown}{more})"
