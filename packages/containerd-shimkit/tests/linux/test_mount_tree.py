from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux.mount_tree import copy_mount, move_mount, set_attributes
from containerd_shimkit.linux.mounts import mount, read_mountinfo
from containerd_shimkit.oci import mount_options as ms

InNamespaces = Callable[[Callable[[], object]], None]


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere/at/all"):
        copy_mount("/nowhere/at/all", recursive=False)
    with pytest.raises(OSError, match="mount_setattr") as caught:
        set_attributes(1 << 20, ms.MOUNT_ATTR_RDONLY)
    assert caught.value.errno == errno.EBADF


@pytest.mark.root
def test_a_copy_is_nowhere_until_it_is_moved_and_gone_without(in_namespaces: InNamespaces, tmp_path: Path) -> None:
    def work() -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        source.mkdir()
        target.mkdir()
        mount("tmpfs", str(source), "tmpfs")
        (source / "below").mkdir()
        mount("tmpfs", str(source / "below"), "tmpfs")
        (source / "below" / "file").touch()
        before = read_mountinfo()
        os.close(copy_mount(str(source), recursive=True))
        assert read_mountinfo() == before
        place = os.open(target, os.O_PATH)
        for recursive in (False, True):
            made = copy_mount(str(source), recursive=recursive)
            move_mount(made, place)
            os.close(made)
            assert (target / "below" / "file").exists() is recursive
        assert len(read_mountinfo()) == len(before) + 3

    in_namespaces(work)


@pytest.mark.root
def test_attributes_are_of_one_mount_or_of_all_below_it(in_namespaces: InNamespaces, tmp_path: Path) -> None:
    def work() -> None:
        mount("tmpfs", str(tmp_path), "tmpfs")
        (tmp_path / "below").mkdir()
        mount("tmpfs", str(tmp_path / "below"), "tmpfs")
        top = os.open(tmp_path, os.O_PATH)

        def found() -> list[set[str]]:
            return [set(each.options.split(",")) for each in read_mountinfo()[-2:]]

        set_attributes(top, ms.MOUNT_ATTR_RDONLY)
        assert [each & {"ro", "nosuid"} for each in found()] == [{"ro"}, set()]
        set_attributes(top, ms.MOUNT_ATTR_NOSUID, ms.MOUNT_ATTR_RDONLY, recursive=True)
        assert [each & {"ro", "nosuid"} for each in found()] == [{"nosuid"}, {"nosuid"}]

    in_namespaces(work)
