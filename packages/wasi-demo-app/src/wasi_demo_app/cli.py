"""`wasi-demo-app` on the command line: runs the demo program through an installed shim, without containerd."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys

import click
from containerd_shimkit import ShimError
from containerd_shimkit.local import find_shim, local_bundle, run_task
from containerd_shimkit.oci.defaults import default_spec

from .image import DEFAULT_NAME, ENTRYPOINT, WASM_PATH, write_image

__all__ = ["main"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--engine", default="wasmtime", show_default=True, help="The shim to use: containerd-shim-ENGINE-v1.")
@click.option("--debug", is_flag=True, help="Show the shim's own log on stderr.")
@click.option(
    "--write-image",
    "image",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the demo as an OCI image tar, for `ctr image import`, and run nothing.",
)
@click.option("--image-name", default=DEFAULT_NAME, show_default=True, help="The name inside the image tar.")
@click.version_option(package_name="wasi-demo-app")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def main(engine: str, debug: bool, image: str | None, image_name: str, args: tuple[str, ...]) -> None:
    """Run the demo program in a sandboxed container, with its output and exit status as this command's own.

    ARGS are the program's: `echo WORD...`, `sleep SECONDS`, `exit STATUS`, `write FILE WORD...`, or `daemon`, which is
    also what it does without any. Needs root, and a shim: pip install containerd-shim-wasmtime.
    """
    try:
        if image is not None:
            write_image(image, image_name)
            click.echo(f"wrote {image}: load it by `ctr image import --all-platforms {image}`", err=True)
            return
        status = asyncio.run(_run(find_shim(engine), args, debug))
    except (ShimError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


async def _run(shim: str, args: tuple[str, ...], debug: bool) -> int:
    id = f"wasi-demo-app-{os.getpid()}"  # noqa: A001
    with local_bundle(default_spec([ENTRYPOINT, *args]), id=id) as bundle:
        shutil.copyfile(WASM_PATH, bundle.rootfs + ENTRYPOINT)
        ended = await run_task(shim, bundle, _write, debug=debug)
    return ended.status


def _write(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]
