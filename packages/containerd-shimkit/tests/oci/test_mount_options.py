from __future__ import annotations

import os

import pytest
from containerd_shimkit.oci import mount_options as ms
from containerd_shimkit.oci.mount_options import (
    MountOptions,
    flags_of_statvfs,
    parse_options,
    recursive_attributes,
    remount_flags,
)
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
        (["rbind", "rshared"], MountOptions(ms.MS_BIND | ms.MS_REC, 0, (ms.MS_SHARED | ms.MS_REC,))),
        (["idmap", "ro"], MountOptions(flags=ms.MS_RDONLY, extensions=("idmap",))),
        (["rro", "rexec"], MountOptions(extensions=("rro", "rexec"))),
        (["nosymfollow", "lazytime"], MountOptions(flags=ms.MS_NOSYMFOLLOW | ms.MS_LAZYTIME)),
        (["nosymfollow", "symfollow", "loud"], MountOptions(cleared=ms.MS_NOSYMFOLLOW | ms.MS_SILENT)),
        (["loop", "size=1"], MountOptions(data="size=1", extensions=("loop",))),
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


# every word of the specification's table of options
_SPECIFIED = """
    async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
    noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime
    relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate
    rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid
    symfollow sync tmpcopyup unbindable idmap ridmap
"""


def test_every_word_of_the_specification_is_known() -> None:
    assert set(_SPECIFIED.split()) <= ms.KNOWN_OPTIONS
    assert parse_options(_SPECIFIED.split()).data == ""


@pytest.mark.parametrize(
    ("words", "cleared", "chosen"),
    [
        ([], 0, 0),
        (["idmap", "tmpcopyup"], 0, 0),
        (["rro"], 0, ms.MOUNT_ATTR_RDONLY),
        (["rro", "rrw"], ms.MOUNT_ATTR_RDONLY, 0),
        (["rrw", "rro"], 0, ms.MOUNT_ATTR_RDONLY),
        (["rnosuid", "rdev"], ms.MOUNT_ATTR_NODEV, ms.MOUNT_ATTR_NOSUID),
        (["rnoatime"], ms.MOUNT_ATTR__ATIME, ms.MOUNT_ATTR_NOATIME),
        (["rnoatime", "rstrictatime"], ms.MOUNT_ATTR__ATIME, ms.MOUNT_ATTR_STRICTATIME),
        (["rnoatime", "rrelatime"], ms.MOUNT_ATTR__ATIME, 0),
        (["rstrictatime", "ratime"], ms.MOUNT_ATTR__ATIME, 0),
        (["rnodiratime", "rnorelatime"], 0, ms.MOUNT_ATTR_NODIRATIME),
    ],
)
def test_recursive_words_clear_and_set_and_the_later_counts(words: list[str], cleared: int, chosen: int) -> None:
    assert recursive_attributes(words) == (cleared, chosen)


@given(st.lists(st.sampled_from([word for word in _SPECIFIED.split() if word.startswith("r")])))
def test_the_kernel_gets_no_attributes_that_contradict_each_other(words: list[str]) -> None:
    cleared, chosen = recursive_attributes(parse_options(words).extensions)
    assert not cleared & chosen & ~ms.MOUNT_ATTR__ATIME
    assert cleared & ms.MOUNT_ATTR__ATIME in (0, ms.MOUNT_ATTR__ATIME), "the kernel wants the field whole"
    assert chosen & ms.MOUNT_ATTR__ATIME in (0, ms.MOUNT_ATTR_NOATIME, ms.MOUNT_ATTR_STRICTATIME)


@pytest.mark.parametrize(
    ("there", "flags", "cleared", "expected"),
    [
        (ms.MS_NOSUID | ms.MS_RELATIME, ms.MS_RDONLY, 0, ms.MS_NOSUID | ms.MS_RELATIME | ms.MS_RDONLY),
        (ms.MS_NOSUID | ms.MS_RELATIME, 0, ms.MS_NOSUID, ms.MS_RELATIME),
        (ms.MS_RELATIME, ms.MS_NOATIME, 0, ms.MS_NOATIME),
        (ms.MS_NOATIME, ms.MS_RELATIME, 0, ms.MS_RELATIME),
        (ms.MS_NOATIME, 0, ms.MS_NOATIME, ms.MS_RELATIME),
        (ms.MS_NOATIME, ms.MS_RDONLY, ms.MS_RELATIME, ms.MS_NOATIME | ms.MS_RDONLY),
        (ms.MS_NODIRATIME, ms.MS_RDONLY, 0, ms.MS_NODIRATIME | ms.MS_RDONLY | ms.MS_STRICTATIME),
        (0, 0, ms.MS_STRICTATIME, ms.MS_RELATIME),
    ],
)
def test_a_remount_repeats_what_is_to_stay(there: int, flags: int, cleared: int, expected: int) -> None:
    assert remount_flags(there, flags, cleared) == expected


def test_statvfs_flags_are_the_mounts_own() -> None:
    assert flags_of_statvfs(os.ST_RDONLY | os.ST_NOSUID) == ms.MS_RDONLY | ms.MS_NOSUID
    assert flags_of_statvfs(os.ST_RELATIME) == ms.MS_RELATIME
    assert flags_of_statvfs(0x2000) == ms.MS_NOSYMFOLLOW
    assert flags_of_statvfs(0) == 0
