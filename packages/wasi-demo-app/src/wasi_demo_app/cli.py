"""`wasi-demo-app` on the command line: runs the demo program through an installed shim, without containerd."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import shutil
import signal
import sys

import click
from containerd_shimkit import InvalidArgumentError, ShimError
from containerd_shimkit.local import find_shim, local_bundle, run_task
from containerd_shimkit.oci.defaults import default_spec
from oci_tar_builder import parse_reference

from .image import DEFAULT_NAME, ENTRYPOINT, WASM_PATH, write_image

__all__ = ["main"]

_NOBODY_LISTENS = 128 + signal.SIGPIPE  # what a shell shows for a program that wrote into a closed pipe


@click.command(context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]})
@click.option("--engine", default="wasmtime", show_default=True, help="The shim to use: containerd-shim-ENGINE-v1.")
@click.option("--debug", is_flag=True, help="Show the shim's own log on stderr.")
@click.option(
    "--write-image",
    "image",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the demo as an OCI image tar, for `ctr image import`, and run nothing.",
)
@click.option("--image-name", help=f"The name inside the image tar.  [default: {DEFAULT_NAME}]")
@click.version_option(package_name="wasi-demo-app")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def main(engine: str, debug: bool, image: str | None, image_name: str | None, args: tuple[str, ...]) -> None:
    """Run the demo program in a sandboxed container, with its output and exit status as this command's own.

    ARGS are the program's: `echo WORD...`, `sleep SECONDS`, `exit STATUS`, `write FILE WORD...`, or `daemon`, which is
    also what it does without any. Needs a shim: pip install containerd-shim-wasmtime. Without root the container is in
    a user namespace of yours, and has no control group, so nothing limits it.

    SIGINT and SIGTERM end the program: status 130 or 143. What goes wrong outside of it is status 1, a wrong use of
    this command 2.
    """
    if image is None and image_name is not None:
        raise click.UsageError("--image-name is for an image: give --write-image FILE too")
    if image is not None and args:
        raise click.UsageError(f"--write-image runs nothing: leave out {' '.join(args)!r}")
    try:
        if image is None:
            sys.exit(asyncio.run(_run(_find_shim(engine), args, debug)))
        _write_image(image, DEFAULT_NAME if image_name is None else image_name)
    except BrokenPipeError:
        sys.exit(_NOBODY_LISTENS)
    except (ShimError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _find_shim(engine: str) -> str:
    try:
        return find_shim(engine)
    except InvalidArgumentError as error:
        raise click.BadParameter(str(error), param_hint="--engine") from error


def _write_image(path: str, name: str) -> None:
    try:
        parse_reference(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--image-name") from error
    try:
        write_image(path, name)
    except ValueError as error:
        raise click.ClickException(f"{path} was not written: {error}") from error
    except OSError as error:
        cure = "give --write-image a path of a file where you may write"
        raise click.ClickException(f"{path} was not written: {error.strerror or error}; {cure}") from error
    click.echo(f"wrote {path}: load it by `ctr image import --all-platforms {path}`", err=True)


async def _run(shim: str, args: tuple[str, ...], debug: bool) -> int:
    # at random: others of this name may run in other pid namespaces of this machine
    id = f"wasi-demo-app-{secrets.token_hex(4)}"  # noqa: A001
    with local_bundle(default_spec([ENTRYPOINT, *args]), id=id) as bundle:
        shutil.copyfile(WASM_PATH, bundle.rootfs + ENTRYPOINT)
        ended = await run_task(shim, bundle, _write, debug=debug)
    return ended.status


def _write(stream: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(stream, data) :]
        except BlockingIOError:  # somebody else has made the terminal non-blocking
            select.select([], [stream], [])
        except OSError as error:
            raise OSError(error.errno, error.strerror, ("standard output", "standard error")[stream - 1]) from error
