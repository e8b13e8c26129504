"""`oci-tar-builder` on the command line."""

from __future__ import annotations

import posixpath
from pathlib import Path

import click

from .builder import ImageBuilder

__all__ = ["main"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Layer(click.ParamType):
    """TYPE=PATH: a media type, and a file that exists."""

    name = "TYPE=PATH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        media_type, separator, path = value.partition("=")
        if not separator or "/" not in media_type:
            self.fail(f"{value!r} is not TYPE=PATH, such as application/wasm=app.wasm", param, ctx)
        if not Path(path).is_file():
            self.fail(f"{path!r} is not a file", param, ctx)
        return media_type, Path(path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-n", "--name", required=True, help="The image's name, without repository and tag.")
@click.option("-r", "--repo", required=True, help="The repository: ghcr.io/acme, localhost:5000/acme.")
@click.option("-t", "--tag", required=True, help="The tag.")
@click.option(
    "-m", "--module", "modules", multiple=True, type=_FILE, help="A wasm program, as a layer. May be repeated."
)
@click.option("-l", "--layer", "layers", multiple=True, type=_Layer(), help="Another layer. May be repeated.")
@click.option("--app", is_flag=True, help="Put the programs into one ordinary layer, as files below /.")
@click.option("--entrypoint", help="What runs; by default the first program, by its file's name.")
@click.option("--arg", "args", multiple=True, help="An argument of the entrypoint. May be repeated.")
@click.option("-o", "--out-path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The tar file.")
@click.version_option(None, "-V", "--version", package_name="oci-tar-builder")
def main(
    name: str,
    repo: str,
    tag: str,
    modules: tuple[Path, ...],
    layers: tuple[tuple[str, Path], ...],
    app: bool,
    entrypoint: str | None,
    args: tuple[str, ...],
    out_path: Path,
) -> None:
    """Pack wasm programs as an OCI image, written as a tar file."""
    if not modules and not layers:
        raise click.UsageError("nothing to pack: give --module FILE or --layer TYPE=PATH")
    try:
        builder = ImageBuilder(f"{repo.rstrip('/')}/{name}:{tag}")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        _add_programs(builder, modules, app)
        for media_type, path in layers:
            builder.add_layer(path.read_bytes(), media_type)
        if entrypoint or modules:
            default = f"/{modules[0].name}" if app and modules else modules[0].name if modules else ""
            builder.entrypoint = (entrypoint or default, *args)
        builder.write(out_path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{out_path} was not written: {error}") from error
    click.echo(f"wrote {builder.reference} to {out_path}", err=True)


def _add_programs(builder: ImageBuilder, modules: tuple[Path, ...], app: bool) -> None:
    for path in modules:
        if not path.read_bytes().startswith(b"\0asm"):
            raise ValueError(f"{path} is not a WebAssembly binary; compile it for wasm32-wasip1 first")
    if app and modules:
        files = {posixpath.join("/", path.name): path.read_bytes() for path in modules}
        if len(files) < len(modules):
            raise ValueError("two programs have the same file name")
        builder.add_files_layer(files)
    elif modules:
        for path in modules:
            builder.add_wasm_layer(path.read_bytes())
