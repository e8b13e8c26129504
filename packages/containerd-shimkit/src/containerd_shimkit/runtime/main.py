"""The command line. Its words and flags are those of other OCI runtimes, for the programs that drive these."""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib.metadata import version
from typing import Any

import click

from ..errors import NotFoundError, ShimError
from .store import Store, default_root

__all__ = ["main"]

_log = logging.getLogger(__name__)


class _Commands(click.Group):
    """Reports what goes wrong once: on standard error, and in the file of `--log`."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ShimError, OSError) as error:
            _log.error("%s", error)
            if ctx.params.get("log"):
                print(f"{ctx.info_name}: {error}", file=sys.stderr)
            sys.exit(1)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"containerd-shimkit-oci version {version('containerd-shimkit')}\nspec: 1.2.0")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", metavar="DIR", help="Where containers are kept.")
@click.option("--log", metavar="FILE", default="", help="Where messages go, in place of standard error.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.option("--debug", is_flag=True)
@click.option("--systemd-cgroup", is_flag=True, help="Have systemd make the control groups.")
@click.option("--rootless", metavar="auto|true|false", default="auto", hidden=True)
@click.option("--criu", hidden=True)
@click.option("-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
@click.pass_context
def main(ctx: click.Context, /, root: str | None, log: str, log_format: str, debug: bool, **_: object) -> None:
    """Run containers from OCI bundles."""
    from .logs import configure

    configure(log, as_json=log_format == "json", debug=debug)
    ctx.obj = root


def _store(ctx: click.Context) -> Store:
    root: str | None = ctx.find_object(str)
    return Store(root or default_root())


_bundle = click.option("-b", "--bundle", metavar="DIR", default=".", help="The bundle (default: here).")
_id = click.argument("id", metavar="ID")


def _of_a_new_container(command: Any) -> Any:
    for option in reversed(
        (
            _bundle,
            click.option("--console-socket", metavar="PATH", default="", help="Who is to have the terminal."),
            click.option("--pid-file", metavar="FILE", default="", help="Where the init's pid is to be written."),
            click.option("--preserve-fds", type=click.IntRange(0, 1000), default=0, help="Descriptors from 3 on."),
            click.option("--no-new-keyring", is_flag=True, help="Leave the session keyring as it is."),
            click.option("--no-pivot", is_flag=True, hidden=True),
            _id,
            click.pass_context,
        )
    ):
        command = option(command)
    return command


def _choices(bundle: str, pid_file: str, preserve_fds: int, no_new_keyring: bool, no_pivot: bool, keep: bool) -> Any:
    from .creation import Choices

    if no_pivot:
        raise click.UsageError(
            "--no-pivot is not supported: a container whose root is only changed can leave it; put the bundle on a "
            "file system that pivot_root(2) accepts, which is any but the initial RAM disk"
        )
    path = os.path.abspath(pid_file) if pid_file else ""
    return Choices(os.path.abspath(bundle), path, preserve_fds, not no_new_keyring, keep)


@main.command()
@_of_a_new_container
def create(ctx: click.Context, id: str, console_socket: str, **options: Any) -> None:  # noqa: A002
    """Make a container, whose program waits for `start`."""
    from .creation import create as create_container

    del console_socket
    create_container(_store(ctx), id, _choices(**options, keep=False))


@main.command()
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the container's end.")
@click.option("--keep", is_flag=True, help="Do not delete the container after its end.")
@click.option("--no-subreaper", is_flag=True, hidden=True)
@_of_a_new_container
def run(
    ctx: click.Context,
    id: str,  # noqa: A002
    console_socket: str,
    detach: bool,
    keep: bool,
    no_subreaper: bool,
    **options: Any,
) -> None:
    """Make a container and start it; ends with its program's exit status."""
    from .control import start_now
    from .creation import create as create_container
    from .creation import run as run_container

    del console_socket, no_subreaper
    choices, store = _choices(**options, keep=keep), _store(ctx)
    if not detach:
        sys.exit(run_container(store, id, choices))
    create_container(store, id, choices)
    start_now(store, id)


@main.command()
@_id
@click.pass_context
def start(ctx: click.Context, id: str) -> None:  # noqa: A002
    """Let the program of a created container run."""
    from .control import start_now

    start_now(_store(ctx), id)


@main.command()
@_id
@click.pass_context
def state(ctx: click.Context, id: str) -> None:  # noqa: A002
    """Print a container's state, as JSON."""
    click.echo(json.dumps(_store(ctx).find(id).document(), indent=2))


@main.command()
@click.option("-a", "--all", "everyone", is_flag=True, help="Every process of the container.")
@_id
@click.argument("signal", default="SIGTERM")
@click.pass_context
def kill(ctx: click.Context, id: str, signal: str, everyone: bool) -> None:  # noqa: A002
    """Send a signal (SIGTERM if none is named) to a container's init."""
    from .control import kill as kill_container
    from .control import signal_number

    kill_container(_store(ctx).find(id), signal_number(signal), everyone=everyone)


@main.command()
@click.option("-f", "--force", is_flag=True, help="End it first, if need be; nothing to delete is no error.")
@_id
@click.pass_context
def delete(ctx: click.Context, id: str, force: bool) -> None:  # noqa: A002
    """Remove what is left of a container."""
    from .control import delete as delete_container

    try:
        delete_container(_store(ctx), id, force=force)
    except NotFoundError:
        if not force:
            raise


@main.command(name="list")
@click.option("-f", "--format", "form", type=click.Choice(["table", "json"]), default="table")
@click.option("-q", "--quiet", is_flag=True, help="Names alone.")
@click.pass_context
def list_containers(ctx: click.Context, form: str, quiet: bool) -> None:
    """List the containers."""
    from .listing import as_table, documents

    store = _store(ctx)
    if quiet:
        for id in store.ids():  # noqa: A001
            click.echo(id)
        return
    found = documents(store)
    click.echo(json.dumps(found) if form == "json" else as_table(found))


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("-f", "--format", "form", type=click.Choice(["table", "json"]), default="table")
@_id
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def ps(ctx: click.Context, id: str, form: str, ps_options: tuple[str, ...]) -> None:  # noqa: A002
    """List a container's processes: their pids as JSON, or what ps(1) says of them."""
    from .listing import lines_of_ps

    pids = _store(ctx).find(id).cgroup.pids()
    if form == "json":
        click.echo(json.dumps(pids))
        return
    for line in lines_of_ps(pids, ps_options or ("-ef",)):
        click.echo(line)


@main.command()
@_bundle
@click.option("--rootless", is_flag=True, help="For a user other than root.")
def spec(bundle: str, rootless: bool) -> None:
    """Write a config.json to begin with."""
    from .template import template

    path = os.path.join(bundle, "config.json")
    with open(path, "x", encoding="utf-8") as file:
        json.dump(template(rootless=rootless), file, indent="\t")
        file.write("\n")


@main.command()
def features() -> None:
    """Print what this runtime can do, as JSON."""
    from ..oci.features import features_document

    click.echo(json.dumps(json.loads(features_document()), indent=2))
