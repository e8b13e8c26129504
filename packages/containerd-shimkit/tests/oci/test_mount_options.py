from __future__ import annotations

import os

import pytest
from containerd_shimkit.oci import mount_options as ms
from containerd_shimkit.oci.mount_options import MountOptions, flags_of_statvfs, parse_options
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], MountOptions()),
        (["rbind", "ro"], MountOptions(flags=ms.MS_BIND | ms.MS_REC | ms.MS_RDONLY)),
        (["ro", "rw"], MountOptions(cleared=ms.MS_RDONLY)),
        (["rw", "ro"], MountOptions(flags=ms.MS_RDONLY)),
        (["nosuid", "mode=755", "size=64k"], MountOptions(flags=ms.MS_NOSUID, data="mode=755,size=64k")),
        (["rbind", "rslave"], MountOptions(ms.MS_BIND | ms.MS_REC, 0, (ms.MS_SLAVE | ms.MS_REC,))),
        (["idmap", "ro"], MountOptions(flags=ms.MS_RDONLY, unsupported=("idmap",))),
        (["rro"], MountOptions(unsupported=("rro",))),
        (["defaults", ""], MountOptions()),
    ],
)
def test_each_word_goes_where_the_kernel_wants_it(options: list[str], expected: MountOptions) -> None:
    assert parse_options(options) == expected


@given(st.lists(st.sampled_from(sorted(ms.KNOWN_OPTIONS))))
def test_no_flag_is_both_set_and_cleared(options: list[str]) -> None:
    parsed = parse_options(options)
    assert not parsed.flags & parsed.cleared
    assert parsed.data == ""
    assert not parsed.unsupported


def test_statvfs_flags_are_the_mounts_own() -> None:
    assert flags_of_statvfs(os.ST_RDONLY | os.ST_NOSUID) == ms.MS_RDONLY | ms.MS_NOSUID
    assert flags_of_statvfs(os.ST_RELATIME) == ms.MS_RELATIME
    assert flags_of_statvfs(0) == 0
