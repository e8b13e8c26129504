"""`containerd-shimkit cache`: what is in the node's compile cache, what is to go, what is to be there in advance."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import entry_points
from typing import Final

import click
from containerd_shimkit import ShimError

from . import cache_upkeep
from .cache_directory import CacheDirectory, CacheError
from .cache_entry import CODE
from .cache_upkeep import Entry
from .compile_cache import CompileCache
from .digests import sha256_of
from .engine import Engine, Settings

__all__ = ["ENGINES_GROUP", "cache"]

ENGINES_GROUP: Final = "containerd_shim_wasm.engines"
_DEFAULTS: Final = Settings()
_SIZE_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIME_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_HUMAN_UNITS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_FOREIGN: Final = "-"  # in a column, for a file that is no entry of this version's


def _parse_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size, such as 500M, 2G or a number of bytes")
    return int(found[1]) * _SIZE_UNITS[found[2].upper()]


def _parse_age(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)([smhdw])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not an age, such as 12h, 7d or 4w")
    return int(found[1]) * _TIME_UNITS[found[2]]


_directory_option = click.option(
    "--directory",
    default=_DEFAULTS.compile_cache_directory,
    show_default=True,
    metavar="PATH",
    help="The cache, where the runtime option compile_cache_directory names another.",
)


@click.group()
def cache() -> None:
    """The node's cache of compiled WebAssembly."""


@cache.command("ls")
@_directory_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array, sizes in bytes.")
def list_command(directory: str, as_json: bool) -> None:
    """List what is kept, the last used first."""
    with _opened(directory) as descriptor:
        entries: tuple[Entry, ...] = () if descriptor is None else cache_upkeep.list_entries(descriptor).entries
    kept = CompileCache(directory, 0)
    rows = [_row(each, kept) for each in sorted(entries, key=lambda each: -each.last_used)]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = [("ENGINE", "KEY", "PROGRAM", "SIZE", "LAST USED", "VERIFIED")]
    table += [
        (
            row.engine,
            row.key,
            row.digest[:12] or row.file,
            _human(row.size),
            row.last_used,
            "yes" if row.verified else "no",
        )
        for row in rows
    ]
    _print_table(table)
    click.echo(_total(row.size for row in rows), err=True)


@cache.command("prune")
@_directory_option
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@click.option("--stale", is_flag=True, help="Remove what no engine that is installed here would load any more.")
@click.option(
    "--older-than", metavar="AGE", callback=_parse_age, help="Remove what has not been used for so long: 12h, 7d, 4w."
)
@click.option(
    "--to-bytes",
    metavar="SIZE",
    callback=_parse_size,
    help="Remove what was used longest ago, until so much is left: 500M.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune_command(
    directory: str, everything: bool, stale: bool, older_than: int | None, to_bytes: int | None, dry_run: bool
) -> None:
    """Remove compiled code. Containers that run it are not disturbed; what is missing is compiled when it is needed.

    Whatever one of several options names is removed. Leftovers of processes that were killed go in any case.
    """
    if not (everything or stale or older_than is not None or to_bytes is not None):
        raise click.UsageError("say what is to go: --all, --stale, --older-than AGE or --to-bytes SIZE")
    current = _current_keys() if stale else None
    with _opened(directory) as descriptor:
        if descriptor is None:
            return
        listing = cache_upkeep.list_entries(descriptor)
        chosen = _choose(listing.entries, everything, current, older_than, to_bytes, time.time())
        if not dry_run:
            cache_upkeep.sweep(descriptor, listing.unfinished)
            for entry in chosen:
                cache_upkeep.remove(descriptor, entry.files)
    for entry in chosen:
        click.echo(entry.name.text if entry.name else entry.files[0])
    click.echo(f"{'would remove' if dry_run else 'removed'} {_total(entry.size for entry in chosen)}", err=True)


@cache.command("warm")
@_directory_option
@click.option("--engine", "engine_name", required=True, metavar="NAME", help="An installed engine: wasmtime.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def warm_command(directory: str, engine_name: str, files: tuple[str, ...]) -> None:
    """Compile wasm files ahead, as the shim with default settings would when it first needs them."""
    if os.geteuid():
        raise click.ClickException("compiling gives privileges up, and the cache is root's: run this as root")
    engine = _load_engine(engine_name, directory)
    if engine.can_precompile() is None:
        raise click.ClickException(f"the engine {engine_name} compiles nothing ahead: there is nothing to keep")
    failed = False
    for path in files:
        try:
            click.echo(f"{path}: {_warm(engine, path)}")
        except (ShimError, CacheError, OSError) as error:
            failed = True
            click.echo(f"{path}: {error}", err=True)
    if failed:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True, slots=True)
class _Row:
    engine: str
    key: str
    digest: str
    size: int  # bytes
    last_used: str  # RFC 3339, UTC
    verified: bool  # in this boot
    file: str


def _row(entry: Entry, kept: CompileCache) -> _Row:
    last_used = (
        datetime.fromtimestamp(entry.last_used, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
    if entry.name is None:
        return _Row(_FOREIGN, _FOREIGN, "", entry.size, last_used, False, entry.files[0])
    name = entry.name
    return _Row(name.engine, name.key, name.digest, entry.size, last_used, kept.is_verified(name), name.text + CODE)


def _choose(
    entries: Sequence[Entry],
    everything: bool,
    current: frozenset[tuple[str, str]] | None,
    older_than: int | None,
    to_bytes: int | None,
    now: float,
) -> list[Entry]:
    """Those of *entries* that the options of `prune` name; *current* are the engines' keys that are not stale."""

    def goes(entry: Entry) -> bool:
        # a file of another version of this program may be in use: only --all takes it whatever its age
        is_stale = current is not None and entry.name is not None and (entry.name.engine, entry.name.key) not in current
        return everything or is_stale or (older_than is not None and entry.last_used < now - older_than)

    chosen = [entry for entry in entries if goes(entry)]
    if to_bytes is not None:
        left = [entry for entry in entries if not goes(entry)]
        chosen += cache_upkeep.plan_removal(left, to_bytes, None, now)
    return chosen


def _current_keys() -> frozenset[tuple[str, str]]:
    """Engine and key of everything that an installed engine would load, with default settings.

    Raises: ClickException when one cannot say: its entries must not be taken for stale.
    """
    keys: set[tuple[str, str]] = set()
    for point in entry_points(group=ENGINES_GROUP):
        engine = _load_engine(point.name, _DEFAULTS.compile_cache_directory)
        keys.add((engine.name, engine.can_precompile() or ""))
    return frozenset(keys)


def _load_engine(name: str, directory: str) -> Engine:
    """The installed engine *name*, warm, with default settings but for the cache's *directory*."""
    points = {point.name: point for point in entry_points(group=ENGINES_GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise click.ClickException(
            f"no engine {name!r} is installed beside this program (installed: {known}); pip install "
            f"containerd-shim-{name} into the same environment"
        )
    try:
        kind: type[Engine] = points[name].load()
        engine = kind(kind.settings_type(compile_cache_directory=directory))
        engine.warm()
    except Exception as error:
        raise click.ClickException(f"the engine {name} cannot be loaded: {type(error).__name__}: {error}") from error
    return engine


def _warm(engine: Engine, path: str) -> str:
    """Have the program at *path* in the cache; what had to be done for it. Raises: ShimError, CacheError, OSError."""
    from containerd_shimkit.shim.reaper import run_collecting  # dear, as the next: they import asyncio's world

    from .loader import cache_of, compile_guest, entry_name

    kept = cache_of(engine.settings)
    assert kept is not None, "default settings ask for a cache"
    with open(path, "rb") as file:
        name = entry_name(engine, sha256_of(file.fileno()))
        if kept.is_verified(name):
            return "is there already"
        began = time.monotonic()
        code = run_collecting(compile_guest(engine, file.fileno(), name.digest))
        if code is not None:
            os.close(code)
    if not kept.is_verified(name):
        raise CacheError("was compiled, but could not be kept; the reason is above")
    return f"compiled in {1000 * (time.monotonic() - began):.0f} ms, sha256 {name.digest}"


@contextmanager
def _opened(directory: str) -> Generator[int | None, None, None]:
    """The cache's directory; None when it does not exist, which is an empty cache."""
    try:
        if not os.path.lexists(directory):
            yield None
            return
        with CacheDirectory(directory).opened(make=False) as descriptor:
            yield descriptor
    except CacheError as error:
        raise click.ClickException(str(error)) from error


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _total(sizes: Iterable[int]) -> str:
    each = list(sizes)
    return f"{len(each)} {'entry' if len(each) == 1 else 'entries'}, {_human(sum(each))}"


def _human(size: int) -> str:
    unit, name = next(((unit, name) for unit, name in _HUMAN_UNITS if size >= unit), (1, "B"))
    return f"{size} B" if unit == 1 else f"{size / unit:.1f} {name}"
