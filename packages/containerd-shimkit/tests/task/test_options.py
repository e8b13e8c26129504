from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.instance import Encoded
from containerd_shimkit.proto import runc_options_pb2, runtime_options_pb2
from containerd_shimkit.task.options import MAX_CONFIG_BYTES, RuntimeOptions, parse_options
from containerd_shimkit.wire import bytes_field, varint_field
from hypothesis import given
from hypothesis import strategies as st

RUNC = "containerd.runc.v1.Options"
TOML = "runtimeoptions.v1.Options"


def _toml(body: str, path: str = "") -> Encoded:
    message = runtime_options_pb2.Options(type_url="x", config_path=path, config_body=body.encode())
    return Encoded(TOML, message.SerializeToString())


def test_no_options_are_the_defaults() -> None:
    assert parse_options(Encoded()) == RuntimeOptions()
    assert parse_options(Encoded(TOML)) == RuntimeOptions()
    assert parse_options(Encoded(RUNC)) == RuntimeOptions()


@pytest.mark.parametrize("prefix", ["", "/", "type.googleapis.com/", "a/b/"])
def test_runc_options_are_read_by_field_whatever_stands_before_their_name(prefix: str) -> None:
    message = runc_options_pb2.Options(
        shim_cgroup="/shims",
        io_uid=1000,
        io_gid=4_294_967_295,
        binary_name="crun",
        root="/run/x",
        systemd_cgroup=True,
        no_pivot_root=True,
        task_api_version=3,
    )
    options = parse_options(Encoded(prefix + RUNC, message.SerializeToString()))
    assert options == RuntimeOptions(
        systemd_cgroup=True,
        shim_cgroup="/shims",
        root="/run/x",
        io_uid=1000,
        io_gid=4_294_967_295,
        binary_name="crun",
        config={
            "no_pivot_root": True,
            "shim_cgroup": "/shims",
            "io_uid": 1000,
            "io_gid": 4_294_967_295,
            "binary_name": "crun",
            "root": "/run/x",
            "systemd_cgroup": True,
            "task_api_version": 3,
        },
    )


def test_fields_that_runc_may_add_one_day_are_ignored() -> None:
    assert parse_options(Encoded(RUNC, varint_field(99, 1) + bytes_field(98, b"x"))) == RuntimeOptions()


@pytest.mark.parametrize("key", ["SystemdCgroup", "systemd_cgroup"])
def test_toml_options_may_be_spelled_either_way_and_unknown_keys_are_kept(key: str) -> None:
    options = parse_options(_toml(f'{key} = true\nRoot = "/r"\nIoUid = 5\nmine = [1, 2]\n[table]\nKey = "v"\n'))
    assert options.systemd_cgroup is True
    assert (options.root, options.io_uid) == ("/r", 5)
    assert options.config == {
        "systemd_cgroup": True,
        "root": "/r",
        "io_uid": 5,
        "mine": [1, 2],
        "table": {"Key": "v"},
    }


def test_toml_without_the_cgroup_key_is_fine() -> None:
    assert parse_options(_toml('other = "x"')) == RuntimeOptions(config={"other": "x"})


def test_one_option_in_two_spellings_must_agree() -> None:
    assert parse_options(_toml("SystemdCgroup = true\nsystemd_cgroup = true")).systemd_cgroup
    with pytest.raises(InvalidArgumentError, match="systemd_cgroup is given twice"):
        parse_options(_toml("SystemdCgroup = true\nsystemd_cgroup = false"))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('systemd_cgroup = "true"', "systemd_cgroup"),
        ("SystemdCgroup = 1", "systemd_cgroup"),
        ("Root = 3", "root"),
        ("IoUid = true", "io_uid"),
        ("io_gid = -1", "io_gid"),
        ("io_gid = 4294967296", "io_gid"),
        ("BinaryName = [1]", "binary_name"),
        ("ShimCgroup = {}", "shim_cgroup"),
    ],
)
def test_a_toml_option_of_the_wrong_type_is_refused_by_name(body: str, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"runtime option {name} is "):
        parse_options(_toml(body))


@pytest.mark.parametrize("body", [b"a = ", b"\xff = 1", b"a = 1\na = 2", b"[" * 100])
def test_what_is_no_toml_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="config_body is not TOML"):
        parse_options(Encoded(TOML, bytes_field(3, body)))


def test_bottomless_toml_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"config_body is (nested too deeply|not TOML)"):
        parse_options(_toml("a = " + "[" * 100_000))


def test_options_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text("SystemdCgroup = true")
    assert parse_options(_toml("", str(path))).systemd_cgroup


def test_a_table_sent_along_is_taken_before_the_file() -> None:
    assert parse_options(_toml("a = 1", "/nowhere")).config == {"a": 1}


def test_an_options_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    fifo, large, bad = tmp_path / "fifo", tmp_path / "large", tmp_path / "bad"
    os.mkfifo(fifo)
    large.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    bad.write_text("a = ")
    for path, reason in [
        ("relative.toml", "is not an absolute path"),
        (str(tmp_path / "none"), "cannot be read"),
        (str(tmp_path), "cannot be read.*Is a directory"),
        (str(fifo), "is not a regular file"),
        (str(large), "is larger than"),
        (str(bad), "is not TOML"),
        ("/a\0b", "cannot be read"),
    ]:
        with pytest.raises(InvalidArgumentError, match=reason) as caught:
            parse_options(_toml("", path))
        assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (Encoded(RUNC, b"\xff"), RUNC),
        (Encoded(TOML, b"\x08"), TOML),
        (Encoded(RUNC, varint_field(3, 1)), "shim_cgroup"),
        (Encoded(RUNC, bytes_field(7, b"\xff")), "root"),
        (Encoded(RUNC, bytes_field(9, b"x")), "systemd_cgroup"),
        (Encoded(TOML, varint_field(3, 1)), "config_body"),
        (Encoded(TOML, varint_field(2, 1)), "config_path"),
        (Encoded(TOML, bytes_field(2, b"\xff")), "config_path"),
    ],
)
def test_malformed_options_are_refused_by_name(options: Encoded, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        parse_options(options)


def test_options_of_an_unknown_type_are_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert parse_options(Encoded("prefix/some.Options", b"\xff\xff")) == RuntimeOptions()
    assert "'some.Options'" in caplog.text


@given(data=st.binary(max_size=64), type_url=st.sampled_from([RUNC, TOML]))
def test_garbage_is_read_or_refused_but_nothing_else(data: bytes, type_url: str) -> None:
    try:
        parse_options(Encoded(type_url, data))
    except InvalidArgumentError:
        pass
