"""Runtime options: what an operator set for this runtime, in either of the two forms that containerd sends.

`containerd.runc.v1.Options` is a message of fields; `runtimeoptions.v1.Options` carries a TOML table, or names a file
that holds one. Both come out as one value. Decoded by hand, since `start` reads them before it may import protobuf.
Source: containerd, api/types/runc/options/oci.proto and api/types/runtimeoptions/v1/api.proto.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final, TypeVar

from ..errors import InvalidArgumentError
from ..instance import Encoded
from ..wire import WireError, decode_fields, text_of
from .identifiers import shorten

__all__ = ["MAX_CONFIG_BYTES", "RUNC_OPTIONS", "RUNTIME_OPTIONS", "RuntimeOptions", "parse_options", "type_name"]

RUNC_OPTIONS: Final = "containerd.runc.v1.Options"
RUNTIME_OPTIONS: Final = "runtimeoptions.v1.Options"
MAX_CONFIG_BYTES: Final = 1 << 20

_RUNC_FIELDS: Final[Mapping[int, tuple[str, type]]] = {
    1: ("no_pivot_root", bool),
    2: ("no_new_keyring", bool),
    3: ("shim_cgroup", str),
    4: ("io_uid", int),
    5: ("io_gid", int),
    6: ("binary_name", str),
    7: ("root", str),
    8: ("criu_path", str),
    9: ("systemd_cgroup", bool),
    10: ("criu_image_path", str),
    11: ("criu_work_path", str),
    12: ("task_api_address", str),
    13: ("task_api_version", int),
}
_KINDS: Final[Mapping[str, type]] = dict(_RUNC_FIELDS.values())
_KIND_NAMES: Final[Mapping[type, str]] = {
    bool: "true or false, without quotes",
    int: "a number of 0 to 4294967295",
    str: "a string",
}
_TOML_MODULE: Final = "tomllib" if sys.version_info >= (3, 11) else "tomli"
_UINT32_MAX: Final = (1 << 32) - 1
_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)  # not to hang on a FIFO that someone named; Windows has neither

_Value = TypeVar("_Value", bound="bool | int | str")
_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """The options that shims share, and all of them as `config`.

    `config` is keyed as the operator wrote it, but for the options below and the rest of runc's: those have their
    snake-case names there, whichever way they were spelled.
    """

    systemd_cgroup: bool = False
    shim_cgroup: str = ""
    root: str = ""
    io_uid: int = 0
    io_gid: int = 0
    binary_name: str = ""
    config: Mapping[str, object] = field(default_factory=lambda: dict[str, object]())


def parse_options(options: Encoded) -> RuntimeOptions:
    """Read the options; none at all, or of a type that is not known, are the defaults.

    Reads a file if they name one and hold no table themselves.
    Raises: InvalidArgumentError, naming the option, its value and what was expected.
    """
    name = type_name(options.type_url)
    if name == RUNC_OPTIONS:
        return _from_config(_runc_fields(options.value))
    if name == RUNTIME_OPTIONS:
        return _from_config(_normalize(_toml_table(options.value)))
    if name:
        _logger.info("ignoring runtime options of the unknown type %s", shorten(name))
    return RuntimeOptions()


def type_name(type_url: str) -> str:
    """The message's full name: *type_url* without what stands before its last slash."""
    return type_url.rpartition("/")[2]


def _from_config(config: Mapping[str, object]) -> RuntimeOptions:
    return RuntimeOptions(
        systemd_cgroup=_typed(config, "systemd_cgroup", False),
        shim_cgroup=_typed(config, "shim_cgroup", ""),
        root=_typed(config, "root", ""),
        io_uid=_typed(config, "io_uid", 0),
        io_gid=_typed(config, "io_gid", 0),
        binary_name=_typed(config, "binary_name", ""),
        config=config,
    )


def _typed(config: Mapping[str, object], name: str, default: _Value) -> _Value:
    value = config.get(name, default)
    kind = type(default)
    if (
        not isinstance(value, kind)
        or type(value) is not kind  # True is an int to isinstance
        or (isinstance(value, int) and not 0 <= value <= _UINT32_MAX)
    ):
        raise InvalidArgumentError(f"runtime option {name} is {shorten(str(value))}: it must be {_KIND_NAMES[kind]}")
    return value


def _runc_fields(data: bytes) -> dict[str, object]:
    config: dict[str, object] = {}
    for number, value in _decoded(RUNC_OPTIONS, data):
        if number in _RUNC_FIELDS:
            name, kind = _RUNC_FIELDS[number]
            config[name] = _converted(f"{RUNC_OPTIONS}.{name}", value, kind)
    return config


def _converted(name: str, value: int | bytes, kind: type) -> object:
    if kind is str:
        return _checked(name, lambda: text_of(value))
    if isinstance(value, bytes):
        raise InvalidArgumentError(f"runtime option {name} holds {len(value)} bytes where a number belongs")
    return bool(value) if kind is bool else value & _UINT32_MAX


def _toml_table(data: bytes) -> Mapping[str, object]:
    fields = dict(_decoded(RUNTIME_OPTIONS, data))
    body = fields.get(3, b"")
    if isinstance(body, int):
        raise InvalidArgumentError(f"runtime option {RUNTIME_OPTIONS}.config_body is a number where bytes belong")
    path = _checked(f"{RUNTIME_OPTIONS}.config_path", lambda: text_of(fields.get(2, b"")))
    if body or not path:
        return _parse_toml(body, "the runtime options' config_body")
    return _parse_toml(_read_config(path), f"the runtime options' config_path {path!r}")


def _decoded(name: str, data: bytes) -> list[tuple[int, int | bytes]]:
    return _checked(name, lambda: list(decode_fields(data)))


def _checked(name: str, decode: Callable[[], _Result]) -> _Result:
    try:
        return decode()
    except WireError as error:
        raise InvalidArgumentError(f"runtime options: {name} cannot be decoded: {error}") from error


def _parse_toml(data: bytes, source: str) -> Mapping[str, object]:
    if not data:
        return {}
    # late: most tasks have no options, and `start` should not pay for the parser
    loads: Callable[[str], dict[str, object]] = import_module(_TOML_MODULE).loads
    try:
        return loads(data.decode())
    except RecursionError as error:
        raise InvalidArgumentError(f"{source} is nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are kinds of it
        raise InvalidArgumentError(f"{source} is not TOML: {error}") from error


def _read_config(path: str) -> bytes:
    if not os.path.isabs(path):
        raise InvalidArgumentError(f"the runtime options' config_path {shorten(path)} is not an absolute path")
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)) as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_CONFIG_BYTES + 1) if is_regular else b""
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"the runtime options' config_path {shorten(path)} cannot be read: {error}"
        ) from error
    if not is_regular:
        raise InvalidArgumentError(f"the runtime options' config_path {shorten(path)} is not a regular file")
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidArgumentError(
            f"the runtime options' config_path {shorten(path)} is larger than {MAX_CONFIG_BYTES} bytes"
        )
    return data


def _normalize(table: Mapping[str, object]) -> dict[str, object]:
    """Give the known options one name each: `SystemdCgroup`, as CRI's table has it, becomes `systemd_cgroup`."""
    config: dict[str, object] = {}
    for key, value in table.items():
        name = _KNOWN_NAMES.get(key, key)
        if name in config and config[name] != value:
            raise InvalidArgumentError(
                f"runtime option {name} is given twice, as {shorten(str(config[name]))} "
                f"and as {shorten(str(value))}: remove one"
            )
        config[name] = value
    return config


def _pascal_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


_KNOWN_NAMES: Final[Mapping[str, str]] = {_pascal_case(name): name for name in _KINDS}
