from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.instance import Mount
from containerd_shimkit.linux.mapped_rootfs import Mapping, split_mapping
from containerd_shimkit.linux.mounts import mount_rootfs, read_mountinfo, unmount_tree
from hypothesis import given
from hypothesis import strategies as st

InNamespaces = Callable[[Callable[[], object]], None]
MAPPING = ("uidmap=0:1000:100", "gidmap=0:2000:100")
NUMBERS = st.integers(0, 2**32 - 1)
RANGES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=5)


@given(RANGES, RANGES, st.lists(st.sampled_from(["ro", "index=off", "lowerdir=/a", "userxattr"]), max_size=3))
def test_a_mapping_is_told_from_the_other_options(
    uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]], others: list[str]
) -> None:
    words = [",".join(":".join(map(str, each)) for each in ranges) for ranges in (uids, gids)]
    options = [f"uidmap={words[0]}", *others, f"gidmap={words[1]}"]
    assert split_mapping(options) == (Mapping(tuple(uids), tuple(gids)), tuple(others))
    assert split_mapping(others) == (None, tuple(others))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("uidmap=0:1:2",), "'uidmap' alone"),
        (("gidmap=0:1:2",), "'gidmap' alone"),
        (("uidmap=", "gidmap=0:1:2"), "uidmap=''; it must be ranges"),
        (("uidmap=0:1:2", "gidmap=0:1"), "gidmap='0:1'; it must be ranges"),
        (("uidmap=0:-1:2", "gidmap=0:1:2"), "uidmap='0:-1:2'; it must be ranges"),
        (("uidmap=0:1:2,", "gidmap=0:1:2"), "uidmap='0:1:2,'; it must be ranges"),
    ],
)
def test_a_mapping_that_cannot_be_read_is_refused(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        split_mapping(options)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    for name in ("rootfs", "upper", "work", "layers/1:one", "layers/2"):
        (tmp_path / name).mkdir(parents=True)
    for name, uid in (("1:one", 0), ("2", 7)):
        (tmp_path / "layers" / name / f"of{uid}").write_text("x")
        os.chown(tmp_path / "layers" / name / f"of{uid}", uid, uid)
    return tmp_path / "rootfs"


def overlay(rootfs: Path, *mapping: str) -> Mount:
    top = rootfs.parent
    lower = f"lowerdir={top}/layers/2:{top}/layers/1\\:one"
    return Mount("overlay", "overlay", "", (f"workdir={top}/work", f"upperdir={top}/upper", lower, *mapping))


def owners(rootfs: Path) -> dict[str, tuple[int, int]]:
    return {name: ((rootfs / name).stat().st_uid, (rootfs / name).stat().st_gid) for name in os.listdir(rootfs)}


def nothing_is_left(rootfs: Path) -> None:
    assert [each for each in read_mountinfo() if each.mount_point.startswith(str(rootfs.parent))] == []
    assert sorted(os.listdir(rootfs.parent)) == ["layers", "rootfs", "upper", "work"]


@pytest.mark.root
def test_the_layers_of_an_overlay_are_mapped_and_what_is_changed_stays_so(
    in_namespaces: InNamespaces, rootfs: Path
) -> None:
    def work() -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        mount_rootfs([overlay(rootfs, *MAPPING)], str(rootfs))
        assert owners(rootfs) == {"of0": (1000, 2000), "of7": (1007, 2007)}
        (rootfs / "of7").write_text("changed")  # copied up: as who it was seen
        assert owners(rootfs)["of7"] == (1007, 2007)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert [each.mount_point for each in read_mountinfo() if str(rootfs.parent) in each.mount_point] == [
            str(rootfs)
        ]
        unmount_tree(str(rootfs))
        nothing_is_left(rootfs)

    in_namespaces(work)


@pytest.mark.root
def test_a_bind_mount_is_mapped_with_what_is_below_it_and_may_be_read_only(
    in_namespaces: InNamespaces, rootfs: Path
) -> None:
    def work() -> None:
        source = str(rootfs.parent / "layers" / "2")
        mount_rootfs([Mount("bind", source, "", ("rbind", "ro", *MAPPING))], str(rootfs))
        assert owners(rootfs) == {"of7": (1007, 2007)}
        with pytest.raises(OSError, match="Read-only"):
            (rootfs / "new").write_text("x")
        unmount_tree(str(rootfs))
        nothing_is_left(rootfs)

    in_namespaces(work)


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("lowerdir=/nowhere", *MAPPING), "'/nowhere'"),
        (("lowerdir={layers}/2:/nowhere", *MAPPING), "'/nowhere'"),
        (("lowerdir=relative", *MAPPING), "not paths from the root"),
        (("lowerdir={layers}/2::{layers}/2", *MAPPING), "not paths from the root"),
        (("upperdir=/x", *MAPPING), "no option lowerdir"),
        (("lowerdir={layers}/2", "nonsense=1", *MAPPING), "cannot mount 'overlay'"),
        (("lowerdir={layers}/2", "uidmap=0:1:2,1:5:2", "gidmap=0:1:2"), "cannot mount 'overlay'"),
    ],
)
def test_what_cannot_be_mapped_leaves_nothing(
    in_namespaces: InNamespaces, rootfs: Path, options: tuple[str, ...], says: str
) -> None:
    def work() -> None:
        words = tuple(each.format(layers=rootfs.parent / "layers") for each in options)
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(InvalidArgumentError, match=says):
            mount_rootfs([Mount("overlay", "overlay", "", words)], str(rootfs))
        nothing_is_left(rootfs)
        assert len(os.listdir("/proc/self/fd")) == descriptors

    in_namespaces(work)
