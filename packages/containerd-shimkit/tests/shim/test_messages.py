from __future__ import annotations

from datetime import datetime, timezone

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.instance import Encoded
from containerd_shimkit.proto import runc_options_pb2, task_pb2
from containerd_shimkit.shim.messages import (
    FEATURES_TYPE,
    MAX_INPUT_BYTES,
    BootstrapParams,
    StartInput,
    encode_bootstrap_result,
    encode_delete_response,
    encode_runtime_info,
    parse_any,
    parse_start_input,
    shim_cgroup_of,
    version_text,
)
from containerd_shimkit.wire import bytes_field, decode_fields, varint_field
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

RUNC = Encoded("containerd.runc.v1.Options", runc_options_pb2.Options(shim_cgroup="/shims").SerializeToString())


def _any(value: Encoded) -> bytes:
    return Any(type_url=value.type_url, value=value.value).SerializeToString()


def _params(*extensions: Encoded, id: str = "c1", namespace: str = "default") -> bytes:  # noqa: A002
    return (
        bytes_field(1, id)
        + bytes_field(2, namespace)
        + varint_field(3, -4)
        + bytes_field(4, "2.3.0")
        + bytes_field(5, "/t.sock")
        + bytes_field(6, "/g.sock")
        + bytes_field(7, "/usr/bin/containerd")
        + b"".join(bytes_field(8, bytes_field(1, _any(each)), keep_empty=True) for each in extensions)
        + bytes_field(9, "/run/s")
    )


def test_nothing_on_standard_input_means_no_options() -> None:
    assert parse_start_input(b"", "c1", "default") == StartInput(Encoded())


def test_older_containerds_send_the_options_bare() -> None:
    assert parse_start_input(_any(RUNC), "c1", "default") == StartInput(RUNC)


def test_an_any_whose_value_is_no_text_is_not_mistaken() -> None:
    options = Encoded("c1", b"\xff\xfe")
    assert parse_start_input(_any(options), "c1", "default") == StartInput(options)


def test_newer_containerds_send_parameters_with_the_options_among_the_extensions() -> None:
    other = Encoded("some.Extension", b"\x01")
    found = parse_start_input(_params(other, RUNC), "c1", "default")
    assert found.options == RUNC
    assert found.bootstrap == BootstrapParams(
        instance_id="c1",
        namespace="default",
        log_level=-4,
        containerd_version="2.3.0",
        containerd_ttrpc_address="/t.sock",
        containerd_grpc_address="/g.sock",
        containerd_binary="/usr/bin/containerd",
        extensions=(other, RUNC),
        socket_dir="/run/s",
    )


def test_parameters_without_options_have_none() -> None:
    found = parse_start_input(_params(Encoded("some.Extension")), "c1", "default")
    assert found.options == Encoded()
    assert found.bootstrap is not None


@pytest.mark.parametrize(("id", "namespace"), [("c2", "default"), ("c1", "other")])
def test_parameters_of_another_container_are_taken_for_an_any(id: str, namespace: str) -> None:  # noqa: A002
    assert parse_start_input(_params(), id, namespace).bootstrap is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff", "standard input of start"),
        (b"\0" * (MAX_INPUT_BYTES + 1), "bytes are more than the"),
        (varint_field(1, 1), "type_url"),
        (varint_field(2, 1), "value is a number"),
        (bytes_field(1, b"\xff"), "type_url"),
        (_params() + bytes_field(3, b"x"), "log_level"),
        (_params() + bytes_field(4, b"\xff"), "containerd_version"),
        (_params() + varint_field(8, 1), "extensions"),
        (_params() + bytes_field(8, b"\xff"), "extensions"),
        (_params() + bytes_field(8, varint_field(1, 1)), "extensions.value"),
        (_params() + bytes_field(8, bytes_field(1, b"\xff")), "extensions.value"),
        (_params() + varint_field(9, 1), "socket_dir"),
    ],
)
def test_malformed_input_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_start_input(data, "c1", "default")


@given(data=st.binary(max_size=48), params=st.sampled_from([b"", _params()]))
def test_garbage_is_read_or_refused_but_nothing_else(data: bytes, params: bytes) -> None:
    try:
        parse_start_input(params + data, "c1", "default")
    except InvalidArgumentError:
        pass


def test_info_reads_an_any() -> None:
    assert parse_any(b"") == Encoded()
    assert parse_any(_any(RUNC)) == RUNC
    with pytest.raises(InvalidArgumentError, match="runtime options"):
        parse_any(b"\xff")


def test_the_shims_own_cgroup_is_read_from_the_options() -> None:
    assert shim_cgroup_of(RUNC) == "/shims"
    assert shim_cgroup_of(Encoded()) == ""


def test_the_bootstrap_result_ends_with_the_protocol() -> None:
    data = encode_bootstrap_result(2, "unix:///run/s/x", "ttrpc")
    assert list(decode_fields(data)) == [(1, 2), (2, b"unix:///run/s/x"), (3, b"ttrpc")]
    assert data.strip() == data


@given(
    pid=st.integers(0, 2**32 - 1),
    exit_status=st.integers(0, 255),
    exited_at=st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(timezone.utc)),
)
def test_the_delete_response_is_protobufs(pid: int, exit_status: int, exited_at: datetime) -> None:
    decoded = task_pb2.DeleteResponse.FromString(encode_delete_response(pid, exit_status, exited_at))
    assert (decoded.pid, decoded.exit_status) == (pid, exit_status)
    assert decoded.exited_at.ToDatetime(timezone.utc) == exited_at


def test_runtime_info_has_only_what_was_given() -> None:
    data = encode_runtime_info("io.containerd.x.v1", "1.0", "abc")
    assert list(decode_fields(data)) == [(1, b"io.containerd.x.v1"), (2, bytes_field(1, "1.0") + bytes_field(2, "abc"))]


def test_runtime_info_carries_options_features_and_annotations() -> None:
    data = encode_runtime_info("n", "", "", options=RUNC, features=b"{}", annotations={"b": "2", "a": ""})
    assert list(decode_fields(data)) == [
        (1, b"n"),
        (2, b""),
        (3, _any(RUNC)),
        (4, _any(Encoded(FEATURES_TYPE, b"{}"))),
        (5, bytes_field(1, "a")),
        (5, bytes_field(1, "b") + bytes_field(2, "2")),
    ]


def test_the_version_is_a_line_each() -> None:
    text = version_text("containerd-shim-x-v1", "io.containerd.x.v1", "0.1", "")
    assert text == "containerd-shim-x-v1:\n  Runtime: io.containerd.x.v1\n  Version: 0.1\n  Revision: <none>\n"
