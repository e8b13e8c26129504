"""What the guest's service does: make a Python environment of the disks it finds, run pytest, report its exit status.

The request is `guest.json` at the root of the project: {"arguments": [pytest's], "environment": {name: value}}. Output
goes to the port `tests`, the exit status, in decimal digits, to the port `status`. Uses only the standard library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
SITE_PACKAGES = Path("/opt/packages")
ENVIRONMENT = Path("/opt/environment")
PORTS = Path("/dev/virtio-ports")


def import_paths(project: Path, packages: Path) -> list[str]:
    """What is to be importable: the sources of each package, then what is installed for them."""
    return [*(str(path) for path in sorted(project.glob("packages/*/src"))), str(packages)]


def make_environment() -> Path:
    """Make the virtual environment; its interpreter. Children that are started with -I and -E see the same modules."""
    venv.create(ENVIRONMENT, symlinks=True)
    (site_packages,) = ENVIRONMENT.glob("lib/python3.*/site-packages")
    (site_packages / "project.pth").write_text("\n".join(import_paths(PROJECT, SITE_PACKAGES)) + "\n")
    return ENVIRONMENT / "bin" / "python3"


def run(request_file: Path, output: int) -> int:
    """Run what is asked for; pytest's exit status."""
    request = json.loads(request_file.read_text())
    python = make_environment()
    path = f"{python.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", *request["arguments"]]
    finished = subprocess.run(
        command,
        cwd=PROJECT,
        env={"HOME": "/root", "LANG": "C.UTF-8", "PATH": path, **request["environment"]},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        check=False,
    )
    return finished.returncode


def main() -> int:
    """Report 3, pytest's own word for an internal error, when there was no run."""
    status = 3
    output = os.open(PORTS / "tests", os.O_WRONLY)
    try:
        # systemd mounts it noexec, and the tests' root file systems are in it
        subprocess.run(["mount", "-o", "remount,exec", "/run"], check=True)
        status = run(PROJECT / "guest.json", output)
    except Exception as error:
        os.write(output, f"the guest cannot run the tests: {error!r}\n".encode())
        raise
    finally:
        (PORTS / "status").write_text(f"{status}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
