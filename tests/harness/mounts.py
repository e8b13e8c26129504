"""Mounts as the harness needs them: the host's table, overlayfs where it works, unmounting."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MountEntry:
    """A line of mountinfo. Source: proc(5), /proc/pid/mountinfo."""

    id: int
    root: str  # the directory of the file system that is mounted: names the source of a bind mount
    target: str
    kind: str
    options: str  # of the file system: names the layers of an overlay

    def mentions(self, text: str) -> bool:
        """Say whether what is mounted, or where, is below or at a path that holds *text*."""
        return text in self.root or text in self.target or text in self.options


def parse_mountinfo(text: str) -> Iterator[MountEntry]:
    """Parse mountinfo; space, tab, newline and backslash in paths come as octal escapes."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        kind, _, rest = after.partition(" ")
        yield MountEntry(int(fields[0]), _unescape(fields[3]), _unescape(fields[4]), kind, rest)


def _unescape(path: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path


def read_mounts(pid: int | str = "self") -> list[MountEntry]:
    """Read the mounts that a process sees. Raises: OSError, such as ESRCH, when it is gone."""
    return list(parse_mountinfo(Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape")))


def is_overlay_supported(directory: str) -> bool:
    """Try whether an overlay's layers may lie in *directory*; needs root, and leaves nothing."""
    with tempfile.TemporaryDirectory(dir=directory) as trial:
        lower, upper, work, target = (os.path.join(trial, name) for name in ("lower", "upper", "work", "target"))
        for path in (lower, upper, work, target):
            os.mkdir(path)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, target]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        unmount(target)
        return True


def unmount(target: str) -> None:
    """Unmount, lazily where something still uses it."""
    if subprocess.run(["umount", target], capture_output=True, check=False).returncode:
        subprocess.run(["umount", "--lazy", target], capture_output=True, check=True)
