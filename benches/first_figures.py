"""First figures, beside runc in the same run: `ctr run --rm`, tasks a second, memory of shim and container.

    uv run python benches/first_figures.py [--runs N] [--json FILE]

Needs root, a containerd and runc (scripts/test installs them). Runs of ours and of runc's take turns, so that both see
the same machine; medians are printed with their minimum and maximum. Printed, never asserted: machines differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from harness.containerd import Containerd, find_install
from harness.images import BUSYBOX, NativeImage
from wasi_demo_app.image import WASM_PATH

IMAGE = "docker.io/library/bench:1"
OURS = "io.containerd.wasmtime.v1"
RUNC = "io.containerd.runc.v2"
PARALLEL = 4
# what each contender runs: the demo program as wasm, busybox's echo as native code
CONTENDERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "wasm, ours": (OURS, ("/demo.wasm", "echo", "hello")),
    "native, ours": (OURS, ("/bin/echo", "hello")),
    "native, runc": (RUNC, ("/bin/echo", "hello")),
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of each contender, for each figure (default 10)")
    parser.add_argument("--containerd", default="/usr/bin", help="the directory of containerd and ctr")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args()
    runs: int = args.runs
    install = find_install(args.containerd)
    if install is None or os.geteuid():
        sys.exit(f"needs root and a containerd in {args.containerd}; scripts/test installs one on Debian")
    ctd = Containerd(install, os.path.dirname(sys.executable))
    try:
        ctd.start()
        import_image(ctd)
        figures = {
            "ctr run --rm, ms": interleave(runs, lambda name, n: run_ms(ctd, name, n)),
            f"tasks a second, {PARALLEL} parallel": interleave(3, lambda who, n: throughput(ctd, who, n, 2 * runs)),
            "Pss of shim, kB": interleave(3, lambda name, n: memory(ctd, name, n)[0]),
            "Pss of container, kB": interleave(3, lambda name, n: memory(ctd, name, n)[1]),
        }
    finally:
        ctd.destroy()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"
    print(f"containerd {install.version}, CPython {platform.python_version()}, {machine}\n")
    show(figures)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=1))


def import_image(ctd: Containerd) -> None:
    """One image for all: the demo program and busybox."""
    programs = {"demo.wasm": Path(WASM_PATH).read_bytes(), "bin/busybox": Path(BUSYBOX).read_bytes()}
    links = {"bin/echo": "busybox", "bin/sleep": "busybox"}
    with tempfile.TemporaryDirectory() as directory:
        NativeImage(IMAGE, programs, links).write(f"{directory}/image.tar")
        ctd.import_image(f"{directory}/image.tar")


def interleave(runs: int, measure: Callable[[str, int], float]) -> dict[str, list[float]]:
    """Measure each contender in turn, *runs* times round."""
    figures: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(runs):
        for name in CONTENDERS:
            figures[name].append(measure(name, number))
    return figures


def run_ms(ctd: Containerd, name: str, number: int) -> float:
    """One `ctr run --rm`, from its start to its end."""
    runtime, args = CONTENDERS[name]
    began = time.monotonic()
    done = ctd.ctr("run", "--rm", "--runtime", runtime, IMAGE, f"bench-{number}-{time.monotonic_ns()}", *args)
    assert done.stdout == "hello\n", done
    return (time.monotonic() - began) * 1000


def throughput(ctd: Containerd, name: str, number: int, tasks: int) -> float:
    """*tasks* times `ctr run --rm`, so many at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(lambda _: run_ms(ctd, name, number), range(tasks)))
    return tasks / (time.monotonic() - began)


def memory(ctd: Containerd, name: str, number: int) -> tuple[float, float]:
    """Proportional set sizes of a shim with one sleeping container, and of that container."""
    runtime, args = CONTENDERS[name]
    program = ("/demo.wasm", "sleep", "1000") if args[0].endswith(".wasm") else ("/bin/sleep", "1000")
    task = f"memory-{number}-{time.monotonic_ns()}"
    ctd.ctr("run", "--detach", "--runtime", runtime, IMAGE, task, *program)
    time.sleep(0.3)
    pid = ctd.tasks()[task].pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    sizes = pss(parent), pss(pid)
    ctd.remove_all()
    return sizes


def pss(pid: int) -> float:
    """A process's share of the memory that it maps, in kB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("Pss:")))


def show(figures: Mapping[str, Mapping[str, list[float]]]) -> None:
    """A Markdown table: median (minimum to maximum)."""
    print("| | " + " | ".join(CONTENDERS) + " |")
    print("|---" * (len(CONTENDERS) + 1) + "|")
    for what, measured in figures.items():
        cells = [f"{statistics.median(m):.1f} ({min(m):.1f} to {max(m):.1f})" for m in measured.values()]
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
