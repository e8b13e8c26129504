from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from containerd_shim_wasm.digests import DigestMemory, FileIdentity, sha256_of

SECOND = 1_000_000_000
FILE = FileIdentity(device=1, inode=2, size=3, mtime_ns=100 * SECOND, ctime_ns=200 * SECOND)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_digest_is_that_of_the_whole_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    with open(tmp_path / "f", "rb") as file:
        file.seek(size // 2)  # where others read does not matter
        assert sha256_of(file.fileno()) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("identity", "now", "settled"),
    [
        (FILE, 203 * SECOND, True),
        (FILE, 201 * SECOND, False),  # a write in the same tick of the clock would not show
        (FILE, 150 * SECOND, False),  # the clock was set back
        (replace(FILE, mtime_ns=FILE.ctime_ns), 300 * SECOND, False),  # a file system without change times
        (replace(FILE, mtime_ns=0, ctime_ns=0), 300 * SECOND, False),
    ],
)
def test_an_identity_counts_when_a_change_would_show(identity: FileIdentity, now: int, settled: bool) -> None:
    assert identity.is_settled(now) is settled


def test_every_way_to_change_a_file_changes_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    seen = [FileIdentity.of(path.stat())]

    def changed() -> bool:
        time.sleep(0.02)  # some ticks of the kernel's clock
        seen.append(FileIdentity.of(path.stat()))
        return seen[-1] != seen[-2]

    time.sleep(0.02)
    path.write_bytes(b"two")
    assert changed()
    os.utime(path, ns=(seen[0].mtime_ns, seen[0].mtime_ns))  # the trick that hides a write from its mtime
    assert changed()
    (tmp_path / "g").write_bytes(b"six")
    os.replace(tmp_path / "g", path)
    assert changed()


def test_the_memory_forgets_what_was_used_longest_ago() -> None:
    memory = DigestMemory(2)
    one, two, three = (replace(FILE, inode=inode) for inode in (1, 2, 3))
    memory.remember(one, "1")
    memory.remember(two, "2")
    assert memory.recall(one) == "1"
    memory.remember(three, "3")
    assert [memory.recall(each) for each in (one, two, three)] == ["1", "", "3"]
    assert memory.recall(replace(one, size=4)) == ""
