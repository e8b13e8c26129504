from __future__ import annotations

from pathlib import Path

import pytest
from containerd_shimkit.errors import DeadlineExceededError
from containerd_shimkit.linux import mount_helper
from containerd_shimkit.linux.mount_helper import is_helper_type, mount_by_helper


@pytest.mark.parametrize(
    ("fstype", "expected"),
    [
        ("fuse3.fuse-overlayfs", True),
        ("fuse.x", True),
        ("fuse", False),
        ("fuse.", False),
        ("ext4.x", False),
        ("", False),
    ],
)
def test_fuse_types_are_mounted_by_a_program(fstype: str, expected: bool) -> None:
    assert is_helper_type(fstype) is expected


def test_a_helper_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mount.fuse").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "mount.fuse").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mount_helper, "_TIMEOUT", 0.05)
    with pytest.raises(DeadlineExceededError, match=r"mount.fuse did not end within 0.05 s and was killed"):
        mount_by_helper("x", str(tmp_path), "fuse.x", ())
