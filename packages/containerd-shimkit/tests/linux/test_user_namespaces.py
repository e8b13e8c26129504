from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux import user_namespaces
from containerd_shimkit.linux.namespaces import CLONE_NEWUSER, unshare
from containerd_shimkit.linux.process import set_dumpable
from containerd_shimkit.linux.user_namespaces import (
    Standing,
    become_root,
    is_own_id,
    own_standing,
    read_id_map,
    what_denies_user_namespaces,
    write_id_maps,
)

InChild = Callable[[Callable[[], object]], None]


def in_new_namespace(work: Callable[[], object]) -> None:
    """Call *work* in a child in a user namespace of its own, whose root is the host's user 100000."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            unshare(CLONE_NEWUSER)
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        os.read(ready[0], 1)
        write_id_maps(pid, [(0, 100000, 10), (10, 200000, 5)], [(0, 100000, 20)])
    finally:
        os.write(go[1], b"1")
        for descriptor in (*ready, *go):
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.root
def test_ids_are_mapped_from_outside() -> None:
    if os.geteuid():
        pytest.skip("mapping others' ids takes root")

    def work() -> None:
        assert read_id_map("/proc/self/uid_map") == ((0, 100000, 10), (10, 200000, 5))
        assert read_id_map("/proc/self/gid_map") == ((0, 100000, 20),)
        assert os.getuid() == 65534
        become_root()
        assert (os.getresuid(), os.getresgid(), os.getgroups()) == ((0, 0, 0), (0, 0, 0), [])
        os.setgroups([7])

    in_new_namespace(work)


def test_a_map_that_the_kernel_does_not_take_is_named() -> None:
    with pytest.raises(OSError, match=f"/proc/{os.getpid()}/gid_map"):
        write_id_maps(os.getpid(), [(0, 0, 1)], [(0, 0, 1)])


@pytest.mark.parametrize(("user", "expected"), [(0, {"uid_map", "gid_map"}), (5, {"uid_map", "gid_map", "setgroups"})])
def test_only_who_is_not_root_gives_setgroups_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, expected: set[str]
) -> None:
    directory = tmp_path / "7"
    directory.mkdir()
    for name in ("uid_map", "gid_map", "setgroups"):
        (directory / name).touch()
    monkeypatch.setattr(os, "geteuid", lambda: user)
    write_id_maps(7, [(0, 1000, 1)], [(0, 1001, 1), (1, 2000, 5)], str(tmp_path))
    texts = {each.name: each.read_text() for each in directory.iterdir() if each.read_text()}
    assert texts.keys() == expected
    assert texts["uid_map"] == "0 1000 1\n"
    assert texts["gid_map"] == "0 1001 1\n1 2000 5\n"
    assert texts.get("setgroups", "deny") == "deny"


def test_a_setting_that_denies_user_namespaces_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr(user_namespaces, "_SETTINGS", ((str(first), "0", "1"), (str(second), "1", "0")))
    assert what_denies_user_namespaces() == "", "settings of other distributions"
    first.write_text("1\n")
    second.write_text("0\n")
    assert what_denies_user_namespaces() == ""
    second.write_text("1\n")
    assert re.fullmatch(r"the host's setting .*second is 1: root can set it to 0 .*", what_denies_user_namespaces())
    second.write_text("0\n")
    third = tmp_path / "third"
    third.write_text("1\n")
    monkeypatch.setattr(user_namespaces, "_PROFILED", ((str(third), "1", "0"),))
    assert what_denies_user_namespaces() == "", "a profile may allow it all the same"
    assert "third is 1" in what_denies_user_namespaces(after_failure=True)


@pytest.mark.root
def test_the_root_of_a_user_namespace_is_not_the_hosts(in_child: InChild) -> None:
    if os.geteuid():
        pytest.skip("this is not root")

    def work() -> None:
        own_standing.cache_clear()
        assert own_standing() == Standing(is_hosts_root=True, has_fixed_groups=False)
        own_standing.cache_clear()
        os.setresuid(1000, 1000, 1000)
        assert own_standing() == Standing(is_hosts_root=False, has_fixed_groups=False)
        own_standing.cache_clear()
        set_dumpable(True)  # changing the user has taken it
        group = os.getegid()
        unshare(CLONE_NEWUSER)
        write_id_maps(os.getpid(), [(0, 1000, 1)], [(0, group, 1)])
        assert os.geteuid() == 0
        assert own_standing() == Standing(is_hosts_root=False, has_fixed_groups=True)
        with pytest.raises(PermissionError):
            become_root()
        become_root(keep_groups=True)

    in_child(work)


@pytest.mark.parametrize(
    ("ranges", "expected"), [([(0, 5, 1)], True), ([(3, 5, 1)], True), ([(0, 5, 2)], False), ([], False)]
)
def test_ones_own_id_is_one(ranges: list[tuple[int, int, int]], expected: bool) -> None:
    assert is_own_id(ranges, 5) is expected
