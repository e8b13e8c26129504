"""What a figure depends on beside the code: the machine, how busy it is, all versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from .stage import Stage

__all__ = ["describe", "load"]


def describe(stage: Stage) -> dict[str, str]:
    """Say on what the figures were measured, in words; the load is that of before."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "kernel": f"Linux {platform.release()} {platform.machine()}, cgroup {_cgroup_version()}",
        "load before": load(),
        "python": _python(stage.options.shim),
        "ours": _ours(stage),
        "containerd": f"{stage.ctd.install.version}, snapshotter {stage.ctd.snapshotter}",
        "runc": _version(["runc", "--version"]),
        "crun": _version(["crun", "--version"]),
        "native program": stage.programs.native,
    }


def load() -> str:
    """The load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _ours(stage: Stage) -> str:
    """The shim's own words about itself, and the last commit that changed it, where it lies in a checkout of git."""
    words = _output([stage.options.shim, "-v"]).splitlines()
    details = "; ".join(line.strip() for line in words[1:] if "<none>" not in line)
    commit = _output(
        ["git", "-C", stage.options.shim_directory, "log", "-1", "--format=%h", "--", ":/packages"]
    ).strip()
    kind = "a native launcher" if Path(stage.options.shim).read_bytes()[:4] == b"\x7fELF" else "a Python script"
    return f"{details}; {kind}" + (f"; commit {commit}" if commit else "")


def _python(shim: str) -> str:
    """The Python that the shim's script names in its first line; this one, where it is no such script."""
    first = Path(shim).read_bytes().partition(b"\n")[0]
    path = first[2:].decode() if first.startswith(b"#!/") and b"python" in first else sys.executable
    question = "import platform as p; print(p.python_implementation(), p.python_version())"
    return _output([path, "-c", question]).strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _cgroup_version() -> str:
    return "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1"


def _version(command: list[str]) -> str:
    lines = _output(command).splitlines()
    return lines[0].split()[-1] if lines else "not here"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    except FileNotFoundError:
        return ""
