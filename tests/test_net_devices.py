"""Interfaces of the host that become a container's."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from containerd_shimkit import AlreadyExistsError, InvalidArgumentError, NotFoundError
from harness.native import Change, run_in_pod
from harness.pod import Play, Pod

pytestmark = pytest.mark.root

SHOW = "/bin/busybox ip addr show"


def ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two interfaces of the host, ends of one cable; the first has an address."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("it takes root, and ip(8)")
    first, second = (f"t{secrets.token_hex(4)}" for _ in range(2))
    ip("link", "add", first, "type", "veth", "peer", "name", second)
    ip("addr", "add", "192.0.2.7/32", "dev", first)
    yield first, second
    for name in (first, second):
        ip("link", "del", name, check=False)


def moving(devices: dict[str, Any], *more: Change) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["netDevices"] = devices
        for each in more:
            each(spec)

    return change


def in_user_namespace(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]


@pytest.mark.parametrize("more", [(), (in_user_namespace,)])
def test_an_interface_is_the_containers_with_its_address(
    play: Play, pair: tuple[str, str], more: tuple[Change, ...]
) -> None:
    async def scenario(pod: Pod) -> None:
        shown = await run_in_pod(pod, SHOW, moving({pair[0]: {"name": "lan"}, pair[1]: {}}, *more))
        assert " lan@" in shown
        assert "inet 192.0.2.7/32" in shown
        assert f" {pair[1]}@" in shown

    play(scenario)


def test_what_cannot_be_moved_is_named_and_nothing_is(play: Play, pair: tuple[str, str]) -> None:
    first, second = pair

    async def scenario(pod: Pod) -> None:
        with pytest.raises(NotFoundError, match=r"linux\.netDevices: 'absent0' cannot be moved as 'absent0': there"):
            await run_in_pod(pod, SHOW, moving({first: {}, "absent0": {}}))
        assert "192.0.2.7/32" in ip("addr", "show", "dev", first)
        with pytest.raises(AlreadyExistsError, match=f"'{second}' cannot be moved as 'lo': .*; its name is taken"):
            await run_in_pod(pod, SHOW, moving({first: {"name": "x"}, second: {"name": "lo"}}))
        assert "192.0.2.7/32" in ip("addr", "show", "dev", first)
        assert second in ip("link", "show", "dev", second)
        with pytest.raises(InvalidArgumentError, match=r"'lo' cannot be moved as 'x': .*; the kernel does not let"):
            await run_in_pod(pod, SHOW, moving({"lo": {"name": "x"}}))

    play(scenario)


def test_the_hosts_own_namespace_is_no_containers(play: Play, pair: tuple[str, str]) -> None:
    async def scenario(pod: Pod) -> None:
        def joined(spec: dict[str, Any]) -> None:
            namespaces = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]
            spec["linux"]["namespaces"] = [*namespaces, {"type": "network", "path": f"/proc/{os.getpid()}/ns/net"}]

        def without(spec: dict[str, Any]) -> None:
            spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]

        with pytest.raises(InvalidArgumentError, match="that the container joins is the host's"):
            await run_in_pod(pod, SHOW, moving({pair[0]: {"name": "lan"}}, joined))
        with pytest.raises(InvalidArgumentError, match=r"linux\.namespaces has no `network`"):
            await run_in_pod(pod, SHOW, moving({pair[0]: {"name": "lan"}}, without))
        assert "192.0.2.7/32" in ip("addr", "show", "dev", pair[0])

    play(scenario)
