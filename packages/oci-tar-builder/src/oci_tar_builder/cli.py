"""`oci-tar-builder` on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from . import media_types
from .archive import pack_tar
from .builder import ImageBuilder, is_wasm

__all__ = ["main"]

_FILE = click.Path(path_type=Path)  # what is not there is no mistake of usage: it is found by reading
_OUTPUT = click.Path(allow_dash=True, path_type=Path)
_STDOUT = "-"


def _parse_layers(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    layers: list[tuple[str, Path]] = []
    for value in values:
        media_type, _, path = value.partition("=")
        if not media_types.is_media_type(media_type) or not path:
            raise click.BadParameter(f"{value!r} is not TYPE=PATH, such as application/wasm=app.wasm")
        layers.append((media_type, Path(path)))
    return layers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-n", "--name", required=True, help="The image's name, without repository and tag.")
@click.option("-r", "--repo", required=True, help="The repository: ghcr.io/acme, localhost:5000/acme.")
@click.option("-t", "--tag", required=True, help="The tag.")
@click.option("-m", "--module", "modules", multiple=True, type=_FILE, help="A wasm program, as a layer; repeatable.")
@click.option(
    "-l",
    "--layer",
    "layers",
    multiple=True,
    metavar="TYPE=PATH",
    callback=_parse_layers,
    help="Another layer: its media type, and its file; repeatable.",
)
@click.option("--app", is_flag=True, help="Put the programs into one ordinary layer, as files below /.")
@click.option("--entrypoint", help="What runs; by default the first program, by its file's name.")
@click.option("--arg", "args", multiple=True, help="An argument of the entrypoint; repeatable.")
@click.option("-o", "--out-path", required=True, type=_OUTPUT, help="The tar file; - for standard output.")
@click.version_option(None, "-V", "--version", package_name="oci-tar-builder")
def main(
    name: str,
    repo: str,
    tag: str,
    modules: tuple[Path, ...],
    layers: list[tuple[str, Path]],
    app: bool,
    entrypoint: str | None,
    args: tuple[str, ...],
    out_path: Path,
) -> None:
    """Pack wasm programs as an OCI image, written as a tar file."""
    if not modules and not layers:
        raise click.UsageError("nothing to pack: give --module FILE or --layer TYPE=PATH")
    if app and not modules:
        raise click.UsageError("--app has no programs to put into a layer: give --module FILE")
    if args and not (entrypoint or modules):
        raise click.UsageError("--arg has nothing to be an argument of: give --entrypoint or --module")
    try:
        builder = ImageBuilder(f"{repo.rstrip('/')}/{name}:{tag}")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        _add_programs(builder, modules, app)
        for media_type, path in layers:
            builder.add_layer(_read(path), media_type, "" if _is_tar(media_type) else path.name)
        if entrypoint or modules:
            builder.entrypoint = (entrypoint or ("/" if app else "") + modules[0].name, *args)
        _write(builder, out_path)
    except ValueError as error:
        raise click.ClickException(f"{out_path} was not written: {error}") from error
    click.echo(f"wrote {builder.reference} to {out_path}", err=True)


def _add_programs(builder: ImageBuilder, modules: tuple[Path, ...], app: bool) -> None:
    programs: dict[str, bytes] = {}
    for path in modules:
        data = _read(path)
        if not is_wasm(data):
            raise ValueError(f"{path} is not a WebAssembly binary; compile it first (clang --target=wasm32-wasi...)")
        if path.name in programs:
            raise ValueError(f"two programs have the file name {path.name!r}, by which they are found; rename one")
        programs[path.name] = data
    if app and programs:
        builder.add_files_layer({f"/{name}": data for name, data in programs.items()})
        return
    for name, data in programs.items():
        builder.add_wasm_layer(data, name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give the path of a file that you may read") from error


def _write(builder: ImageBuilder, out_path: Path) -> None:
    try:
        if str(out_path) == _STDOUT:
            pack_tar(builder.entries(), sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            builder.write(out_path)
    except OSError as error:
        raise ValueError(f"{error.strerror or error}; give -o a path of a file where you may write") from error


def _is_tar(media_type: str) -> bool:
    return media_types.compression_of_tar(media_type) is not None
