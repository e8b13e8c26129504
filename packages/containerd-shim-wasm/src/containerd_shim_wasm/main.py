"""`run_shim`: the whole `main` of an engine's package."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from containerd_shimkit.shim.bootstrap import Shim, main

from .engine import Engine, make_warm

if TYPE_CHECKING:
    from containerd_shimkit import Instance, InstanceConfig

__all__ = ["run_shim", "shim_for"]


def run_shim(engine: type[Engine]) -> None:
    """Be `containerd-shim-<engine.name>-v1`: do what the command line asks for, and leave the process."""
    sys.exit(main(shim_for(engine)))


def shim_for(engine: type[Engine]) -> Shim:
    """The shim of *engine*, as shimkit wants it: one engine object for all containers with the same settings."""

    def warm() -> None:
        importlib.import_module(f"{__package__}.instance")  # imports are closed after this
        make_warm(engine, engine.settings_type())

    def make_instance(id: str, config: InstanceConfig) -> Instance:  # noqa: A002
        from .instance import WasmInstance, engine_of_shim  # dear: only the serving process pays for it

        return WasmInstance(id, config, engine_of_shim(engine, engine.settings_type.from_config(config.config)))

    return Shim(
        name=engine.name,
        version=lambda: _version_of(engine),
        make_instance=make_instance,
        warm=warm,
        details=lambda: engine(engine.settings_type()).version_details(),
    )


def _version_of(engine: type[Engine]) -> str:
    """The version of the distribution that the engine's class comes from."""
    from importlib.metadata import PackageNotFoundError, version  # dear, and only -v and -info want it

    try:
        return version(engine.__module__.partition(".")[0].replace("_", "-"))
    except PackageNotFoundError:
        return "0+unknown"
