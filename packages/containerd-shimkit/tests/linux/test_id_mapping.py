from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux import id_mapping, namespaces
from containerd_shimkit.linux.id_mapping import open_mapping
from containerd_shimkit.linux.namespaces import setns, unshare

InChild = Callable[[Callable[[], object]], None]
pytestmark = pytest.mark.root

UIDS = ((0, 100000, 10), (10, 5, 1))
GIDS = ((0, 200000, 20),)


def fields(path: str) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in Path(path).read_text().splitlines()]


def test_the_namespace_has_the_mappings_and_nobody_in_it(in_child: InChild) -> None:
    def work() -> None:
        mapping = open_mapping(UIDS, GIDS)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)
        uid_map, gid_map = "/proc/self/uid_map", "/proc/self/gid_map"
        setns(mapping, namespaces.CLONE_NEWUSER)
        assert fields(uid_map) == [list(each) for each in UIDS]
        assert fields(gid_map) == [list(each) for each in GIDS]

    in_child(work)


def test_a_process_of_another_pid_namespace_than_its_procfs_can_make_one(in_child: InChild) -> None:
    def work() -> None:
        unshare(namespaces.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            try:
                os.close(open_mapping(UIDS, GIDS))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0

    in_child(work)


@pytest.mark.parametrize("gids", [((0, 1, 2), (1, 5, 1)), ((0, 0, 0),)])
def test_what_is_no_mapping_is_an_error_and_nothing_is_left(
    in_child: InChild, gids: tuple[tuple[int, int, int], ...]
) -> None:
    def work() -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match="gid_map") as caught:
            open_mapping(UIDS, gids)
        assert caught.value.errno == errno.EINVAL
        assert os.listdir("/proc/self/fd") == before
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)

    in_child(work)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPERM])
def test_a_kernel_that_has_no_user_namespaces_to_give_says_so(
    in_child: InChild, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(flags: int) -> None:
        raise OSError(number, os.strerror(number))

    def work() -> None:
        with pytest.raises(OSError, match="unshare") as caught:
            open_mapping(UIDS, GIDS)
        assert caught.value.errno == number

    monkeypatch.setattr(id_mapping, "unshare", refuse)
    in_child(work)
