from __future__ import annotations

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.shim.address import MAX_SOCKET_PATH, group_of, socket_path, strip_scheme

ADDRESS = "/run/containerd/containerd.sock"
NAME = "d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"


def test_the_path_is_the_one_that_go_shims_use() -> None:
    assert socket_path("/run/containerd/s", ADDRESS, "default", "c1") == f"/run/containerd/s/{NAME}"


def test_the_debug_socket_is_named_by_a_longer_path() -> None:
    assert socket_path("/s", ADDRESS, "default", "c1", debug=True) == socket_path("/s", ADDRESS, "default", "c1/debug")


@pytest.mark.parametrize(
    "address",
    ["//run/containerd/containerd.sock", "/run//containerd/./containerd.sock", "/run/x/../containerd/containerd.sock"],
)
def test_addresses_are_cleaned_as_go_cleans_paths(address: str) -> None:
    assert socket_path("/run/containerd/s", address, "default", "c1").endswith(NAME)


def test_an_empty_address_leaves_no_slash_behind() -> None:
    assert socket_path("/s", "", "ns", "id") == socket_path("/s", "ns", "", "id")


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    longest = "/" + "d" * (MAX_SOCKET_PATH - 64 - 2)
    assert len(socket_path(longest, ADDRESS, "n", "c")) == MAX_SOCKET_PATH
    with pytest.raises(InvalidArgumentError, match="more than 107 bytes: give a shorter socket directory"):
        socket_path(longest + "d", ADDRESS, "n", "c")


@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        ({}, "c1"),
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.containerd.runc.v2.group": "g", "io.kubernetes.cri.sandbox-id": "pod"}, "g"),
        ({"io.containerd.runc.v2.group": "", "io.kubernetes.cri.sandbox-id": ""}, "c1"),
    ],
)
def test_the_group_comes_from_the_first_annotation_that_names_one(annotations: dict[str, str], group: str) -> None:
    assert group_of(annotations, "c1") == group


@pytest.mark.parametrize("group", ["../other/c1", "a/b", "/", "..", "."])
def test_a_group_that_would_climb_into_another_namespace_is_refused(group: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"annotation io\.containerd\.runc\.v2\.group is"):
        group_of({"io.containerd.runc.v2.group": group}, "c1")


@pytest.mark.parametrize(
    ("address", "path"), [("unix:///run/a", "/run/a"), ("/run/a", "/run/a"), ("@name", "@name"), ("", "")]
)
def test_the_unix_scheme_is_stripped(address: str, path: str) -> None:
    assert strip_scheme(address) == path


def test_another_scheme_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="'vsock://1:2' is not of a unix socket"):
        strip_scheme("vsock://1:2")
