"""Boot the guest on a copy of the tree, run pytest in it, print what pytest prints and end with its exit status.

Usage: guest.py SYSTEM_DIRECTORY PACKAGES_IMAGE [pytest's arguments]. Nothing that the guest writes stays: its disks are
thrown away, and it has no network. Uses only the standard library.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guest_image import disk_image

ROOT = Path(__file__).parent.parent.parent
DEFAULT_PATHS = (
    "packages/containerd-shimkit/tests/container",
    "packages/containerd-shimkit/tests/linux",
    "tests/guest",
)
DEFAULT_MARKS = "root or guest"
KERNEL_WORDS = (
    "root=/dev/vda",
    "rw",
    "console=ttyS0",
    "loglevel=4",
    "panic=-1",
    "apparmor=1",
    "security=apparmor",
    "systemd.unified_cgroup_hierarchy=1",
    "mitigations=off",
    "random.trust_cpu=on",
)
_INTERNAL_ERROR = 3  # pytest's own word for it
_IGNORED_BUT_WANTED = ("packages/containerd-shimkit/src/containerd_shimkit/launcher/containerd-shim-launcher",)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the guest's instructions, and how long a whole run may take."""

    name: str
    cpu: str
    seconds: int
    test_seconds: int  # pytest's time-out for one test


KVM = Accelerator("kvm", "host", 900, 60)
EMULATION = Accelerator("tcg,thread=multi", "max", 3600, 600)


def choose_accelerator(kvm: str = "/dev/kvm", modules: str = "/sys/module") -> Accelerator:
    """KVM where the processor itself does the work, else qemu's emulation.

    A /dev/kvm behind which is neither Intel's nor AMD's module belongs to a host that is virtual itself and gives no
    virtualization on: what is there then emulates the kernel's instructions, slower than qemu does.
    """
    has_module = any(os.path.isdir(f"{modules}/{name}") for name in ("kvm_intel", "kvm_amd"))
    return KVM if has_module and os.access(kvm, os.R_OK | os.W_OK) else EMULATION


def pytest_arguments(given: Sequence[str], accelerator: Accelerator) -> list[str]:
    """Complete what the user has given: where to look, unless a path is named, and which tests, unless `-m` or a node
    is.
    """
    paths = [
        argument for argument in given if not argument.startswith("-") and (ROOT / argument.partition("::")[0]).exists()
    ]
    arguments = [f"--timeout={accelerator.test_seconds}", *given]
    if not paths:
        arguments += DEFAULT_PATHS
    if not any(argument.startswith("-m") for argument in given) and not any("::" in path for path in paths):
        arguments[:0] = ["-m", DEFAULT_MARKS]
    return arguments


def qemu_command(system: str, disks: Iterable[str], accelerator: Accelerator, run_directory: str) -> list[str]:
    """The command of the guest: its console to `console.log` and its status to `status` in *run_directory*, what the
    tests print to stdout.
    """
    drives = (f"file={disk},format=raw,if=virtio,snapshot=on" for disk in (f"{system}/root.ext4", *disks))
    ports = (("stdio,id=tests,signal=off", "tests"), (f"file,id=status,path={run_directory}/status", "status"))
    return [
        *("setpriv", "--pdeathsig", "KILL"),  # it ends with this script, however that ends
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", f"q35,accel={accelerator.name.partition(',')[0]}" if accelerator is KVM else "q35"),
        *(() if accelerator is KVM else ("-accel", accelerator.name)),
        *("-cpu", accelerator.cpu, "-smp", "2", "-m", "2048"),
        *("-kernel", f"{system}/vmlinuz", "-initrd", f"{system}/initrd.img", "-append", " ".join(KERNEL_WORDS)),
        *(word for drive in drives for word in ("-drive", drive)),
        *("-serial", f"file:{run_directory}/console.log"),
        *("-device", "virtio-serial"),
        *(
            word
            for chardev, name in ports
            for word in ("-chardev", chardev, "-device", f"virtserialport,chardev={name},name={name}")
        ),
    ]


def tree_files(root: Path) -> list[str]:
    """The files that make up the project: those that git knows or would add, and what is built in place.

    Raises: CalledProcessError.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")
    return sorted(name for name in {*listed, *_IGNORED_BUT_WANTED} if name and (root / name).is_file())


def copy_tree(root: Path, names: Iterable[str], target: Path) -> None:
    """Copy the files *names* with their modes."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)


def read_status(path: Path) -> int | None:
    """The exit status that the guest has reported; None when it came to no end."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() else None


def run(system: str, packages: str, given: Sequence[str]) -> int:
    """Boot, test, and end: pytest's exit status, 3 with the console's end when the guest gave none."""
    accelerator = choose_accelerator()
    print(f"==> the guest runs by {accelerator.name.partition(',')[0]}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="guest-run.") as work:
        tree = Path(work) / "tree"
        copy_tree(ROOT, tree_files(ROOT), tree)
        request = {"arguments": pytest_arguments(given, accelerator), "environment": {}}
        (tree / "guest.json").write_text(json.dumps(request))
        disk_image(str(tree), f"{work}/project.ext4", label="project", free_mebibytes=64)
        command = qemu_command(system, (f"{work}/project.ext4", packages), accelerator, work)
        # to qemu a stdin at its end is a port that nobody listens at, and whoever writes to such a one waits
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
            try:
                if not _copy_output(guest, accelerator.seconds):
                    print(f"the guest was ended: it took more than {accelerator.seconds} s", file=sys.stderr)
            finally:
                guest.kill()
        status = read_status(Path(work) / "status")
        if status is None:
            console = Path(work) / "console.log"
            said = console.read_text(errors="replace").splitlines()[-40:] if console.exists() else []
            print("the guest reported no exit status; the end of its console:", *said, sep="\n", file=sys.stderr)
            return _INTERNAL_ERROR
        return status


def _copy_output(guest: subprocess.Popen[bytes], seconds: float) -> bool:
    """Print what the tests print until the guest has ended; False when it has not within *seconds*."""
    assert guest.stdout is not None
    give_up = time.monotonic() + seconds
    while select.select([guest.stdout], [], [], max(0.0, give_up - time.monotonic()))[0]:
        data = os.read(guest.stdout.fileno(), 1 << 16)
        if not data:
            return True
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of what cleans up
    sys.exit(run(sys.argv[1], sys.argv[2], sys.argv[3:]))
