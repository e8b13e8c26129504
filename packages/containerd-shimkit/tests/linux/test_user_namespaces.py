from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux.namespaces import CLONE_NEWUSER, unshare
from containerd_shimkit.linux.user_namespaces import become_root, read_id_map, write_id_maps

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
