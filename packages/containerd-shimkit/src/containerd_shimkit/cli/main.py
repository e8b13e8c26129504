"""`containerd-shimkit`: its own commands, and those that other packages add.

A package adds a command by an entry point of the group `containerd_shimkit.commands`: the command's name, and where
its click.Command is. It is loaded only when it is asked for, or shown. One that cannot be loaded is named, and spoils
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import click

from .install import install
from .status import status
from .uninstall import uninstall

__all__ = ["GROUP", "main"]

GROUP = "containerd_shimkit.commands"
_OWN = {command.name or "": command for command in (install, status, uninstall)}


class _Commands(click.Group):
    """Our commands first: no package can take the place of one of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *(point.name for point in _added())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _OWN:
            return _OWN[cmd_name]
        points = [point for point in _added() if point.name == cmd_name]
        if not points:
            return None
        if len(points) > 1:
            return _broken(cmd_name, f"more than one package has it: {', '.join(sorted(map(_origin, points)))}")
        return _load(points[0])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="containerd-shimkit")
def main() -> None:
    """Install containerd shims on this node, and look after them."""


def _added() -> Iterable[EntryPoint]:
    return entry_points(group=GROUP)


def _load(point: EntryPoint) -> click.Command:
    try:
        found = point.load()
    except Exception as error:  # whatever another package's import raises
        return _broken(point.name, f"{type(error).__name__}: {error} ({_origin(point)})")
    if not isinstance(found, click.Command):
        return _broken(point.name, f"{point.value} is no click.Command but {type(found).__name__} ({_origin(point)})")
    return found


def _broken(name: str, reason: str) -> click.Command:
    """A command that stands in the list and says, when it is run, why it cannot."""

    def run() -> None:
        raise click.ClickException(f"the command {name} cannot be loaded: {reason}")

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(
        name, callback=run, context_settings=settings, short_help="(cannot be loaded: run it to see why)"
    )


def _origin(point: EntryPoint) -> str:
    return f"of {point.dist.name} {point.dist.version}" if point.dist else point.value
