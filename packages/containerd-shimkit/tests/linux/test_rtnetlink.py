"""Interfaces on their way from one network namespace to another: two of them, in a child of their own."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux.namespaces import CLONE_NEWNET, setns, unshare
from containerd_shimkit.linux.rtnetlink import Rtnetlink, move_interface

pytestmark = pytest.mark.root

Work = Callable[[Rtnetlink, Rtnetlink], None]


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def between(in_child: Callable[[Callable[[], object]], None]) -> Callable[[Work], None]:
    """Call a function with two network namespaces, in the second; the first has the interfaces test0 and test1."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("it takes root, and ip(8)")

    def run(work: Work) -> None:
        def alone() -> None:
            unshare(CLONE_NEWNET)
            ip("link", "add", "test0", "type", "veth", "peer", "name", "test1")
            ip("link", "set", "test0", "mtu", "1300", "address", "02:00:00:00:00:07")
            here = Rtnetlink()
            unshare(CLONE_NEWNET)
            there = Rtnetlink()
            work(here, there)
            here.close()
            there.close()

        in_child(alone)

    return run


def in_namespace(where: Rtnetlink, *words: str) -> str:
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        setns(where._namespace, CLONE_NEWNET)
        return ip(*words)
    finally:
        setns(own, CLONE_NEWNET)
        os.close(own)


def test_an_interface_keeps_its_lasting_addresses_and_is_on(between: Callable[[Work], None]) -> None:
    def work(here: Rtnetlink, there: Rtnetlink) -> None:
        in_namespace(here, "addr", "add", "10.9.8.7/24", "broadcast", "10.9.8.255", "dev", "test0")
        in_namespace(here, "addr", "add", "10.9.8.8/32", "scope", "link", "dev", "test0")
        has_ipv6 = Path("/proc/sys/net/ipv6").exists()
        if has_ipv6:
            in_namespace(here, "addr", "add", "2001:db8::7/64", "nodad", "dev", "test0")
            lifetime = ("valid_lft", "900", "preferred_lft", "800")
            in_namespace(here, "addr", "add", "2001:db8::8/64", *lifetime, "dev", "test0")
        assert move_interface(here, there, "test0", "lan") == "lan"
        assert "test0" not in here.interfaces()
        assert set(there.interfaces()) == {"lo", "lan"}
        shown = ip("addr", "show", "dev", "lan")
        assert "mtu 1300" in shown
        assert "02:00:00:00:00:07" in shown
        assert ",UP" in shown.split(">")[0]
        assert "inet 10.9.8.7/24 brd 10.9.8.255 scope global lan" in shown
        assert not has_ipv6 or "inet6 2001:db8::7/64 scope global" in shown
        assert "10.9.8.8" not in shown, "of another scope"
        assert "2001:db8::8" not in shown, "not permanent"

    between(work)


def test_the_kernel_numbers_a_name(between: Callable[[Work], None]) -> None:
    def work(here: Rtnetlink, there: Rtnetlink) -> None:
        names = [move_interface(here, there, name, "net%d") for name in ("test0", "test1")]
        assert names == ["net0", "net1"]

    between(work)


def test_a_name_that_is_taken_or_absent_is_an_error(between: Callable[[Work], None]) -> None:
    def work(here: Rtnetlink, there: Rtnetlink) -> None:
        move_interface(here, there, "test0", "lan")
        for name, new_name, number in (("test1", "lan", errno.EEXIST), ("test0", "x", errno.ENOENT)):
            with pytest.raises(OSError, match=r".") as caught:
                move_interface(here, there, name, new_name)
            assert caught.value.errno == number
        assert "test1" in here.interfaces()

    between(work)


def test_what_cannot_have_its_addresses_comes_back_with_them(between: Callable[[Work], None]) -> None:
    def work(here: Rtnetlink, there: Rtnetlink) -> None:
        in_namespace(here, "addr", "add", "10.9.8.7/24", "dev", "test0")

        class Refusing(Rtnetlink):
            def switch_on(self, index: int) -> None:
                raise PermissionError(errno.EPERM, "no")

        with pytest.raises(PermissionError, match="no"):
            move_interface(here, Refusing(), "test0", "lan")
        assert "lan" not in there.interfaces()
        assert "10.9.8.7/24" in in_namespace(here, "addr", "show", "dev", "test0")

    between(work)
