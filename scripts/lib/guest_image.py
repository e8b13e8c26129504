"""The guest's system: a disk image made of Debian's packages, with its kernel and initial file system beside it.

Usage: guest_image.py CACHE_DIRECTORY. Prints the directory that holds `root.ext4`, `vmlinuz` and `initrd.img`, made now
unless there is one of the same recipe; those of other recipes are removed. Needs root, mmdebstrap and mke2fs; nothing
but the standard library. mmdebstrap makes its mounts in a mount namespace of its own: none is left, whatever happens.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

SUITE = "bookworm"  # whose Python is 3.11, systemd 252 and kernel 6.1
PYTHON_VERSION = "3.11"
PACKAGES = (
    "apparmor",
    "busybox-static",
    "containerd",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "procps",
    "python3",
    "runc",
    "systemd-sysv",
    "udev",
)
PROJECT = "/opt/project"  # where the guest sees the tree under test
SITE_PACKAGES = "/opt/packages"  # and what it imports
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_MEBIBYTE = 1 << 20

_FILES = {
    "etc/fstab": "LABEL=root / ext4 rw 0 0\n"
    f"LABEL=project {PROJECT} ext4 rw,nofail 0 0\n"
    f"LABEL=packages {SITE_PACKAGES} ext4 rw,nofail 0 0\n",
    "etc/hostname": "guest\n",
    "etc/systemd/system/project-tests.service": f"""\
[Unit]
Description=The tests of the project
Requires=dbus.socket
After=dbus.socket basic.target apparmor.service
RequiresMountsFor={PROJECT} {SITE_PACKAGES}
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
Delegate=yes
TimeoutStartSec=infinity
ExecStart=/usr/bin/python3 {PROJECT}/scripts/lib/guest_inside.py
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=project-tests.target
""",
    "etc/systemd/system/project-tests.target": """\
[Unit]
Description=A system for tests
Requires=basic.target project-tests.service
Wants=apparmor.service dbus.service
After=basic.target
""",
}
_LINKS = {
    "etc/systemd/system/default.target": "project-tests.target",
    "etc/systemd/system/containerd.service": "/dev/null",
    "etc/systemd/system/e2scrub_reap.service": "/dev/null",
    "etc/systemd/system/systemd-timesyncd.service": "/dev/null",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what is in the image; *files* and *links* go into the root, by their path there."""

    suite: str = SUITE
    packages: tuple[str, ...] = PACKAGES
    left_out: tuple[str, ...] = _LEFT_OUT
    files: Mapping[str, str] = field(default_factory=lambda: dict(_FILES))
    links: Mapping[str, str] = field(default_factory=lambda: dict(_LINKS))

    def key(self) -> str:
        """A short name, the same for equal recipes only."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def command(self, target: str, sources: str) -> list[str]:
        """The command that makes the root at *target* of what the apt sources in the file *sources* offer."""
        return [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--architectures=amd64",
            f"--include={','.join(self.packages)}",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in self.left_out),
            self.suite,
            target,
            sources,
        ]


def disk_image(directory: str, image: str, *, label: str, free_mebibytes: int) -> None:
    """Write the files below *directory* to a new ext4 file system with the name *label*.

    Raises: CalledProcessError; OSError.
    """
    used = sum(
        os.lstat(os.path.join(top, name)).st_blocks * 512 for top, _, names in os.walk(directory) for name in names
    )
    size = used * 5 // 4 + free_mebibytes * _MEBIBYTE
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", label, "-d", directory, image]
    subprocess.run([*command, f"{size // 1024}k"], stdout=subprocess.DEVNULL, check=True)  # -q leaves some words


def ensure_system(cache: Path, recipe: Recipe) -> Path:
    """The directory of the image made by *recipe*, made now when there is none. Raises: CalledProcessError; OSError."""
    wanted = cache / f"system-{recipe.key()}"
    if not wanted.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="guest-image.") as work:  # where apt's own user can reach it
            os.chmod(work, 0o755)
            made = cache / f".{wanted.name}.{os.getpid()}"
            try:
                _make(recipe, Path(work), made)
                made.rename(wanted)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    for other in cache.glob("system-*"):
        if other != wanted:
            shutil.rmtree(other)
    return wanted


def _make(recipe: Recipe, work: Path, target: Path) -> None:
    root, sources = work / "root", work / "suite.sources"
    with sources.open("w") as file:
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("apt_suite.py")), recipe.suite], stdout=file, check=True
        )
    subprocess.run(recipe.command(str(root), str(sources)), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
    furnish(root, recipe)
    target.mkdir()
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (root / "boot").glob(f"{name}-*")
        shutil.copyfile(found, target / name)
    shutil.rmtree(root / "boot")
    disk_image(str(root), str(target / "root.ext4"), label="root", free_mebibytes=1024)


def furnish(root: Path, recipe: Recipe) -> None:
    """Put the recipe's own files and links into the *root* of the guest."""
    for directory in (PROJECT, SITE_PACKAGES):
        (root / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name, text in recipe.files.items():
        (root / name).write_text(text)
    for name, points_to in recipe.links.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(points_to)


def main(arguments: list[str]) -> int:
    """Print the directory; 1 and a reason when it cannot be made."""
    try:
        print(ensure_system(Path(arguments[0]), Recipe()))
    except subprocess.CalledProcessError as error:
        print(f"the guest's image was not made: {error.cmd[0]} ended with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
