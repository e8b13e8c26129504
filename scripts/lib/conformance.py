"""runtime-tools' validation suite: built, run against our command line and against runc, and the two compared.

    python scripts/lib/conformance.py [--build-only] [--write-docs] [--programs NAME,...] DIRECTORY

DIRECTORY is where the suite's programs are, or are built by the Go command on PATH. Both runtimes run each program, in
turns. The exit status is 0 when our command line passes all that runc passes; with --write-docs the table goes into
docs/conformance.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PINS = Path(__file__).parent / "runtime-tools"
MODULE = "github.com/opencontainers/runtime-tools"
ROOTFS = "rootfs-amd64.tar.gz"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
RACES = ("pidfile",)  # kills a program that ends by itself: whether it is there still, no runtime decides
_TIMEOUT = 300  # seconds for one program
_RESULT = re.compile(r"^\s*(not )?ok \d+(?: - (.*?))?\s*(# SKIP.*)?$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Result:
    """What one program said of one runtime: points that hold, points that do not, and how the program ended."""

    passed: int
    failed: tuple[str, ...]
    status: int

    @property
    def is_clean(self) -> bool:
        return not self.failed and self.status == 0

    def __str__(self) -> str:
        if self.status and not self.passed and not self.failed:
            return "gives up"
        words = f"{self.passed}" if not self.failed else f"{self.passed}, not {len(self.failed)}"
        return words if self.status == 0 else f"{words}, then gives up"


def parse_tap(output: str, status: int) -> Result:
    """The points of a program's output, in the Test Anything Protocol; what is skipped counts for neither."""
    passed, failed = 0, list[str]()
    for is_not, description, skipped in _RESULT.findall(output):
        if skipped:
            continue
        if is_not:
            failed.append(description or "(a point without a description)")
        else:
            passed += 1
    return Result(passed, tuple(failed), status)


def falls_short(ours: Result, theirs: Result) -> bool:
    """Whether a program finds more to complain of in ours than in theirs."""
    if theirs.is_clean:
        return not ours.is_clean
    if theirs.status != 0:  # what it would have said of the rest nobody knows
        return ours.passed < theirs.passed
    gives_up = ours.status != 0 and theirs.status == 0
    return gives_up or ours.passed < theirs.passed or len(ours.failed) > len(theirs.failed)


def build(directory: Path) -> None:
    """Build the suite's programs into *directory*, unless they are there. Raises: CalledProcessError, OSError."""
    stamp = directory / "built"
    pins = "".join((PINS / name).read_text() for name in ("go.mod", "go.sum"))
    if stamp.is_file() and stamp.read_text() == pins:
        return
    shutil.rmtree(directory, ignore_errors=True)
    module = directory / "module"
    module.mkdir(parents=True)
    for name in ("go.mod", "go.sum"):
        shutil.copy(PINS / name, module / name)
    source = Path(_go(module, "list", "-mod=mod", "-m", "-f", "{{.Dir}}", MODULE) or _downloaded(module))
    folders = sorted(each for each in (source / "validation").iterdir() if any(each.glob("*.go")))
    packages = [f"{MODULE}/validation/{each.name}" for each in folders if each.name != "util"]
    _go(module, "build", "-mod=mod", "-o", f"{directory}/", *packages, f"{MODULE}/cmd/runtimetest")
    shutil.copy(source / ROOTFS, directory / ROOTFS)
    stamp.write_text(pins)


def _downloaded(module: Path) -> str:
    _go(module, "mod", "download", MODULE)
    return _go(module, "list", "-mod=mod", "-m", "-f", "{{.Dir}}", MODULE)


def _go(module: Path, *args: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw"}
    done = subprocess.run(["go", *args], cwd=module, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def programs(directory: Path) -> list[str]:
    """The suite's programs in *directory*."""
    return sorted(
        each.name
        for each in directory.iterdir()
        if each.is_file() and os.access(each, os.X_OK) and each.name != "runtimetest"
    )


def run(directory: Path, program: str, runtime: str) -> Result:
    """Run one program against one runtime, which is named by its path."""
    try:
        done = subprocess.run(
            ["unshare", "--mount", f"./{program}"],  # where a runtime leaves mounts, they go with this
            cwd=directory,
            env={**os.environ, "RUNTIME": runtime},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return parse_tap(said if isinstance(said, str) else said.decode(errors="replace"), -1)
    return parse_tap(done.stdout, done.returncode)


def compare(directory: Path, chosen: Sequence[str], ours: str, theirs: str) -> Iterator[tuple[str, Result, Result]]:
    """Run each of *chosen* against both runtimes."""
    for program in chosen:
        yield program, run(directory, program, ours), run(directory, program, theirs)


def table(found: Mapping[str, tuple[Result, Result]], versions: tuple[str, str]) -> str:
    """The results as a table of Markdown."""
    lines = [f"| program | {versions[0]} | {versions[1]} |", "|---|---|---|"]
    for name, (ours, theirs) in sorted(found.items()):
        lines.append(f"| {name} | {ours} | {theirs} |")
    clean = [sum(each[side].is_clean for each in found.values()) for side in (0, 1)]
    points = [sum(each[side].passed for each in found.values()) for side in (0, 1)]
    lines.append(f"| {len(found)} programs, clean | {clean[0]} | {clean[1]} |")
    lines.append(f"| points that hold | {points[0]} | {points[1]} |")
    return "\n".join(lines)


def write_docs(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put *text* between the marks of the page. Raises: ValueError when it has none."""
    page = path.read_text()
    if begin not in page or end not in page:
        raise ValueError(f"{path} lacks the lines {begin} and {end}")
    before, after = page.partition(begin)[0], page.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--programs", default="")
    args = parser.parse_args()
    build(args.directory)
    if args.build_only:
        return 0
    ours, theirs = shutil.which("containerd-shimkit-oci"), shutil.which("runc")
    if ours is None or theirs is None:
        print("containerd-shimkit-oci and runc must both be on PATH", file=sys.stderr)
        return 2
    chosen = args.programs.split(",") if args.programs else programs(args.directory)
    found: dict[str, tuple[Result, Result]] = {}
    behind: list[str] = []
    began = time.monotonic()
    for name, own, other in compare(args.directory, chosen, ours, theirs):
        found[name] = own, other
        mark = ""
        if name not in RACES and falls_short(own, other):
            behind.append(name)
            mark = "  <- falls short of runc: " + "; ".join(own.failed[:3])
        print(f"{name:40} ours: {own!s:24} runc: {other}{mark}", flush=True)
    text = table(found, (version_of(ours), version_of(theirs)))
    if args.write_docs:
        write_docs(ROOT / "docs" / "conformance.md", text)
    print("\n".join(text.splitlines()[-2:]))
    outcome = f"falls short of runc: {', '.join(behind)}" if behind else "none falls short of runc"
    print(f"{time.monotonic() - began:.0f} s; {outcome}")
    return 1 if behind else 0


def version_of(runtime: str) -> str:
    """`NAME VERSION`, as the runtime gives it."""
    first = subprocess.run([runtime, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return first.replace(" version", "")


if __name__ == "__main__":
    sys.exit(main())
