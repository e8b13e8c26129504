"""What `start`, `delete` and `-info` read and print, to the byte, without a protobuf runtime.

`start` gets its options on standard input: a bare `google.protobuf.Any` up to containerd 2.2, BootstrapParams since
2.3. Each of the two decodes as the other, so which one it is shows only in whether it names this very container.
Source: containerd, api/runtime/bootstrap/v1, api/runtime/task/v2, api/types/introspection.proto.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ..errors import InvalidArgumentError
from ..instance import Encoded
from ..task.options import RUNC_OPTIONS, RUNTIME_OPTIONS, parse_options, type_name
from ..task.timestamps import encode_timestamp
from ..wire import WireError, bytes_field, decode_fields, text_of, varint_field

__all__ = [
    "FEATURES_TYPE",
    "MAX_INPUT_BYTES",
    "BootstrapParams",
    "StartInput",
    "encode_bootstrap_result",
    "encode_delete_response",
    "encode_runtime_info",
    "parse_any",
    "parse_start_input",
    "shim_cgroup_of",
    "shim_title",
    "version_text",
]

MAX_INPUT_BYTES: Final = 10 << 20  # containerd's own limit for this input
FEATURES_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


@dataclass(frozen=True, slots=True)
class BootstrapParams:
    """What containerd 2.3 and later tells a shim at its start; `log_level` counts as slog does: DEBUG -4, INFO 0."""

    instance_id: str
    namespace: str
    log_level: int = 0
    containerd_version: str = ""
    containerd_ttrpc_address: str = ""
    containerd_grpc_address: str = ""
    containerd_binary: str = ""
    extensions: tuple[Encoded, ...] = ()
    socket_dir: str = ""


@dataclass(frozen=True, slots=True)
class StartInput:
    """The runtime options, and what came with them; *bootstrap* is None for a containerd before 2.3."""

    options: Encoded
    bootstrap: BootstrapParams | None = None


def parse_start_input(data: bytes, id: str, namespace: str) -> StartInput:  # noqa: A002  (containerd's word)
    """Read what stood on `start`'s standard input, for the container that the flags name.

    Raises: InvalidArgumentError for bytes that are neither message.
    """
    fields = _decode(data, "standard input of start")
    if _last(fields, 1) == id.encode() and _last(fields, 2) == namespace.encode():
        bootstrap = _bootstrap_params(fields)
        return StartInput(_options_among(bootstrap.extensions), bootstrap)
    return StartInput(_any_of(fields, "the runtime options on standard input"))


def parse_any(data: bytes) -> Encoded:
    """Read a `google.protobuf.Any`, as it stands on the standard input of `-info`; empty bytes are an empty one.

    Raises: InvalidArgumentError.
    """
    return _any_of(_decode(data, "runtime options"), "the runtime options")


def shim_cgroup_of(options: Encoded) -> str:
    """The cgroup that the shim itself is to join, empty for none. Raises: InvalidArgumentError."""
    return parse_options(options).shim_cgroup


def encode_bootstrap_result(version: int, address: str, protocol: str) -> bytes:
    """BootstrapResult, the answer of `start` to a BootstrapParams."""
    # early containerd 2.3 strips white space off the bytes before it decodes them: the last must be a letter
    return varint_field(1, version) + bytes_field(2, address) + bytes_field(3, protocol)


def encode_delete_response(pid: int, exit_status: int, exited_at: datetime) -> bytes:
    """DeleteResponse, the answer of `delete`."""
    return (
        varint_field(1, pid)
        + varint_field(2, exit_status)
        + bytes_field(3, encode_timestamp(exited_at), keep_empty=True)
    )


def encode_runtime_info(
    name: str,
    version: str,
    revision: str,
    *,
    options: Encoded | None = None,
    features: bytes = b"",
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """RuntimeInfo, the answer of `-info`; *features* is the JSON of the runtime spec's features document."""
    out = bytes_field(1, name) + bytes_field(2, bytes_field(1, version) + bytes_field(2, revision), keep_empty=True)
    if options is not None:
        out += bytes_field(3, _encode_any(options), keep_empty=True)
    if features:
        out += bytes_field(4, _encode_any(Encoded(FEATURES_TYPE, features)))
    for key, value in sorted((annotations or {}).items()):
        out += bytes_field(5, bytes_field(1, key) + bytes_field(2, value), keep_empty=True)
    return out


def version_text(program: str, runtime: str, version: str, revision: str) -> str:
    """What `-v` prints: the program and, a line each, what it is; `<none>` for what is not known."""
    lines = {"Runtime": runtime, "Version": version, "Revision": revision}
    return f"{program}:\n" + "".join(f"  {key}: {value or '<none>'}\n" for key, value in lines.items())


def shim_title(words: Sequence[str]) -> str:
    """The command line that a shim made for the command *words* shows: as if it had been executed by itself."""
    return " ".join([posixpath.basename(words[0]), *words[1:]])


_Fields = Sequence[tuple[int, int | bytes]]


def _decode(data: bytes, what: str) -> _Fields:
    if len(data) > MAX_INPUT_BYTES:
        raise InvalidArgumentError(f"{what}: {len(data)} bytes are more than the {MAX_INPUT_BYTES} allowed")
    try:
        return list(decode_fields(data))
    except WireError as error:
        raise InvalidArgumentError(f"{what}: its {len(data)} bytes are not a protobuf message: {error}") from error


def _last(fields: _Fields, number: int) -> int | bytes:
    """Field *number* as protobuf sees it: given more than once, the last one counts."""
    return next((value for found, value in reversed(fields) if found == number), b"")


def _text(fields: _Fields, number: int, name: str) -> str:
    try:
        return text_of(_last(fields, number))
    except WireError as error:
        raise InvalidArgumentError(f"{name} cannot be decoded: {error}") from error


def _any_of(fields: _Fields, what: str) -> Encoded:
    value = _last(fields, 2)
    if isinstance(value, int):
        raise InvalidArgumentError(f"{what} cannot be decoded: value is a number where bytes belong")
    return Encoded(_text(fields, 1, f"type_url of {what}"), value)


def _encode_any(value: Encoded) -> bytes:
    return bytes_field(1, value.type_url) + bytes_field(2, value.value)


def _bootstrap_params(fields: _Fields) -> BootstrapParams:
    level = _last(fields, 3) or 0
    if isinstance(level, bytes):
        raise InvalidArgumentError("BootstrapParams.log_level cannot be decoded: it is bytes where a number belongs")
    return BootstrapParams(
        instance_id=_text(fields, 1, "BootstrapParams.instance_id"),
        namespace=_text(fields, 2, "BootstrapParams.namespace"),
        log_level=level - (1 << 64) if level >> 63 else level,
        containerd_version=_text(fields, 4, "BootstrapParams.containerd_version"),
        containerd_ttrpc_address=_text(fields, 5, "BootstrapParams.containerd_ttrpc_address"),
        containerd_grpc_address=_text(fields, 6, "BootstrapParams.containerd_grpc_address"),
        containerd_binary=_text(fields, 7, "BootstrapParams.containerd_binary"),
        extensions=tuple(_extension(value) for number, value in fields if number == 8),
        socket_dir=_text(fields, 9, "BootstrapParams.socket_dir"),
    )


def _extension(value: int | bytes) -> Encoded:
    what = "BootstrapParams.extensions"
    if isinstance(value, int):
        raise InvalidArgumentError(f"{what} cannot be decoded: it is a number where a message belongs")
    inner = _last(_decode(value, what), 1)
    if isinstance(inner, int):
        raise InvalidArgumentError(f"{what}.value cannot be decoded: it is a number where a message belongs")
    return _any_of(_decode(inner, f"{what}.value"), what)


def _options_among(extensions: Sequence[Encoded]) -> Encoded:
    """The runtime options among the *extensions*: the one of a type that holds some."""
    known = (RUNC_OPTIONS, RUNTIME_OPTIONS)
    return next((each for each in extensions if type_name(each.type_url) in known), Encoded())
