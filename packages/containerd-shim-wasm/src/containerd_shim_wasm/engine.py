"""`Engine`: what an engine's package implements. Light to import: an engine's library is imported in `warm`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Final, cast

from containerd_shimkit import InvalidArgumentError

from .binary import HEAD_SIZE, FileKind, file_kind
from .cache_directory import default_directory
from .context import RuntimeContext, WasmLayer

__all__ = [
    "DEFAULT_LAYER_TYPES",
    "HANDLED_BY_DEFAULT",
    "Engine",
    "Settings",
    "is_warm",
    "make_warm",
    "number_of",
    "warm_engine",
]

DEFAULT_LAYER_TYPES: Final = (
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    "application/wasm",
)

HANDLED_BY_DEFAULT: Final = (FileKind.WASM, FileKind.WASM_TEXT)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator can set for every engine, by the runtime's options in containerd's configuration.

    Engines with settings of their own derive from this; every field has a default and is a bool, int, float or str.
    """

    procfs: bool = False  # let wasm guests see /proc: with it they can leave their engine's sandbox by /proc/self/mem
    compile_timeout: float = 300.0  # seconds
    compile_memory_bytes: int = 4 << 30  # address space of the process that compiles
    compile_cache_bytes: int = 2 << 30  # size of the node's cache of compiled code; 0: keep none
    compile_cache_directory: str = default_directory()  # the user's alone, on a disk of this node

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Settings:
        """The settings among the keys of *config*, which holds other people's keys as well.

        Raises: InvalidArgumentError for a value of the wrong type.
        """
        chosen: dict[str, object] = {}
        for field in fields(cls):
            if field.name not in config:
                continue
            value, default = config[field.name], cast("object", field.default)
            is_number = isinstance(default, float) and isinstance(value, int)
            if isinstance(value, bool) is not isinstance(default, bool) or not (
                is_number or isinstance(value, type(default))
            ):
                raise InvalidArgumentError(
                    f"the runtime option {field.name} is {value!r}; it must be a {type(default).__name__}, "
                    f"as its default {default!r}"
                )
            chosen[field.name] = value
        return cls(**chosen)  # type: ignore[arg-type]  # checked above, field by field


class Engine(ABC):
    """Runs WebAssembly. One object serves all containers of a shim that have the same settings.

    `warm` and `precompile` run before and beside the containers, `load` in a container's init while the host is still
    within reach, `run_wasi` inside the container. The shim forks: in it no engine may start a thread, and nothing of
    WASI may exist, for every guest would get the same random numbers.
    """

    name: ClassVar[str]  # the <name> of containerd-shim-<name>-v1
    settings_type: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def run_wasi(self, ctx: RuntimeContext) -> int:
        """Run the guest to its end in this process; its exit status, 0 to 255.

        Whatever is raised is the guest's failure: its text goes to the container's stderr, and the status is 137.
        """

    def can_handle(self, ctx: RuntimeContext) -> bool:
        """Whether this engine runs the file `ctx.guest`. By default: a wasm header, or what looks like wasm text."""
        with open(ctx.guest.descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file_kind(file.read(HEAD_SIZE)) in HANDLED_BY_DEFAULT

    def supported_layers_types(self) -> Sequence[str]:
        """The media types of image layers that hold programs for this engine."""
        return DEFAULT_LAYER_TYPES

    def can_precompile(self) -> str | None:
        """None: it cannot; else a key that changes whenever compiled code would stop being right.

        The engine's version, the CPU's features and every setting that changes code belong into it. Compiled code is
        kept under it: 1 to 120 letters, digits and ``. _ + = , -``, the first a letter or digit. Called for each
        container: compute it in `warm`.
        """
        return None

    def precompile(self, layers: Sequence[WasmLayer]) -> list[bytes | None]:
        """Compile *layers*; as many results, None for one that is to stay as it is.

        Runs in a child without privileges. Raises: ShimError (InvalidArgumentError for a program that is not valid).
        """
        return [None] * len(layers)

    def warm(self) -> None:  # noqa: B027  (most engines have something to do here, but none must)
        """Import and load what guests need, in a process that forks later. Never a store, a guest, a thread."""

    def load(self, ctx: RuntimeContext) -> None:  # noqa: B027
        """Make the guest ready as far as the host's files are needed: deserialize `ctx.guest` when it is compiled.

        Descriptors that this opens and leaves open live as long as the guest.
        """

    def __reduce__(self) -> tuple[object, ...]:
        # sent to a helper, which is a copy of the shim: it has the same engines, as warm as here
        return (warm_engine, (number_of(self),))

    def version_details(self) -> str:
        """One line about the engine itself for `-v`: its name and version. Called without `warm`."""
        return ""


_warm: dict[tuple[type[Engine], Settings], Engine] = {}


def is_warm(kind: type[Engine], settings: Settings) -> bool:
    """Whether `make_warm` would give an engine that is there already."""
    return (kind, settings) in _warm


def make_warm(kind: type[Engine], settings: Settings) -> Engine:
    """The engine of *kind* with *settings*, one for all containers; warmed up when it is asked for the first time."""
    engine = _warm.get((kind, settings))
    if engine is None:
        engine = kind(settings)
        engine.warm()  # before anybody gets it: an engine that failed to warm up is none
        _warm[kind, settings] = engine
    return engine


def number_of(engine: Engine) -> int:
    """The number by which `warm_engine` gives *engine*. Raises: ValueError for one that is not `make_warm`'s."""
    return list(_warm.values()).index(engine)


def warm_engine(number: int) -> Engine:
    """The engine that this process, or the one that it is a fork of, was the *number*th to warm up, from 0.

    Raises: LookupError.
    """
    return list(_warm.values())[number]
