"""Where the benchmarks run: a private containerd with the image, in a mount namespace with no zygote and no cache.

`/run` is an empty tmpfs there, whatever it is outside, and in it is the state of containerd and of all runtimes: that
is where they keep it on a node.

The directories in which shims of this machine keep their zygote's socket and their compiled code are covered by empty
ones, which nobody else sees. So nothing that others run is used, disturbed or removed, and `cold` can begin with
nothing.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from containerd_shimkit.linux.mounts import mount, umount
from containerd_shimkit.linux.namespaces import unshare
from containerd_shimkit.oci.defaults import default_spec
from harness.containerd import Containerd, Install, find_install

from . import processes
from .containerd_client import ContainerdClient, Sandboxed
from .programs import IMAGE, Contender, Programs, build

__all__ = ["Options", "Stage", "add_options", "options_of", "stage"]

_CLONE_NEWNS: Final = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
_GROUP: Final = "io.containerd.runc.v2.group"
SHIM: Final = "containerd-shim-wasmtime-v1"


@dataclass(frozen=True, slots=True)
class Options:
    """What every benchmark is told."""

    runs: int
    json: Path | None
    shim_directory: str
    install: Install
    zygotes: str
    cache: str

    @property
    def shim(self) -> str:
        """The path of our shim's program."""
        return os.path.join(self.shim_directory, SHIM)


def add_options(parser: argparse.ArgumentParser, runs: int) -> None:
    """Add the options of every benchmark; *runs* is the default."""
    parser.add_argument("--runs", type=int, default=runs, help=f"repetitions of each contender (default {runs})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument(
        "--shim-directory",
        default=os.path.dirname(sys.executable),
        metavar="DIR",
        help=f"where {SHIM} is (default: beside this Python)",
    )
    parser.add_argument("--containerd", default="/usr/bin", metavar="DIR", help="where containerd and ctr are")
    parser.add_argument("--zygotes", default="/run/containerd-shimkit", metavar="DIR", help="where zygotes listen")
    parser.add_argument("--cache", default="/var/cache/containerd-shimkit", metavar="DIR", help="the compiled code's")


def options_of(args: argparse.Namespace) -> Options:
    """Check the options. Raises: SystemExit, saying what is missing."""
    install = find_install(args.containerd)
    if os.geteuid():
        sys.exit(f"benchmarks start a containerd and containers, which needs root; this is user {os.geteuid()}")
    if install is None:
        sys.exit(f"no containerd and ctr in {args.containerd}: scripts/test installs them on Debian; or --containerd")
    if not os.access(os.path.join(args.shim_directory, SHIM), os.X_OK):
        sys.exit(f"no {SHIM} in {args.shim_directory}: name its directory by --shim-directory")
    if args.runs < 1:
        sys.exit(f"--runs is {args.runs}: a figure needs one repetition at least")
    directory = os.path.abspath(args.shim_directory)
    return Options(args.runs, args.json, directory, install, args.zygotes, args.cache)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a benchmark finds when it begins."""

    options: Options
    directory: str  # its own, on a disk
    run_directory: str  # its own, in memory
    programs: Programs
    ctd: Containerd
    client: ContainerdClient

    def spec(self, args: list[str], group: str = "", id: str = "") -> dict[str, Any]:  # noqa: A002
        """The configuration that `ctr run` gives to a container of *args*; in the pod *group*, if one is named."""
        annotations = {_GROUP: group} if group else None
        return default_spec(args, annotations=annotations, cgroups_path=f"/{self.ctd.namespace}/{id}" if id else "")

    def container(self, contender: Contender, args: list[str], group: str = "") -> Sandboxed:
        """A container to be made, with an id that nobody has had."""
        name = f"b{secrets.token_hex(6)}"
        return Sandboxed(name, contender.runtime, self.spec(args, group, name))

    def zygotes(self) -> set[int]:
        """The pids of the zygotes that shims of this stage have started."""
        return processes.private_zygotes(self.options.zygotes)

    def make_cold(self) -> None:
        """End the zygotes, and empty the cache of compiled code. Shims must have gone before."""
        processes.ended(self.zygotes())
        for directory in (self.options.cache, self.options.zygotes):
            for name in os.listdir(directory):
                path = os.path.join(directory, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


@contextmanager
def stage(options: Options, fresh: int = 0) -> Generator[Stage, None, None]:
    """Set all up and take it all down; the image has *fresh* modules that nobody has seen.

    Raises: RuntimeError when containerd does not start, or something of the stage cannot be removed.
    """
    signal.signal(signal.SIGTERM, _exit)  # or nothing would be taken down
    directory = tempfile.mkdtemp(prefix="bench-", dir="/tmp")
    unshare(_CLONE_NEWNS)
    mount("", "/", "", _MS_REC | _MS_PRIVATE)
    mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    try:
        with _covered(options.zygotes, f"{directory}/zygotes"), _covered(options.cache, f"{directory}/cache"):
            yield from _inside(options, fresh, directory, tempfile.mkdtemp(prefix="bench-", dir="/run"))
    finally:
        shutil.rmtree(directory)


def _inside(options: Options, fresh: int, directory: str, run_directory: str) -> Generator[Stage, None, None]:
    try:
        programs = build(directory, f"{directory}/null.sock", fresh)
        path = os.pathsep.join([options.shim_directory, directory])
        ctd = Containerd(options.install, path, log_level="info", state=f"{run_directory}/state")  # as operators run it
        try:
            with _null_shim(programs.null_shim):
                ctd.start()
                _import(ctd, programs, directory)
                client = ContainerdClient(ctd.address, ctd.namespace, ctd.snapshotter, _committed_snapshot(ctd))
                yield Stage(options, directory, run_directory, programs, ctd, client)
                client.close()
                ctd.remove_all()
        finally:
            ctd.destroy()
    finally:
        processes.ended(processes.private_zygotes(options.zygotes))


def _exit(number: int, frame: object) -> NoReturn:
    del frame
    sys.exit(128 + number)


@contextmanager
def _covered(target: str, source: str) -> Generator[None, None, None]:
    """Mount the new, empty directory *source* over *target*, which is made, and removed again, if it is not there."""
    os.makedirs(source, mode=0o700)
    is_new = not os.path.isdir(target)
    os.makedirs(target, mode=0o700, exist_ok=True)
    mount(source, target, "", _MS_BIND)
    try:
        yield
    finally:
        umount(target, _MNT_DETACH)
        if is_new:
            os.rmdir(target)


@contextmanager
def _null_shim(program: str) -> Generator[None, None, None]:
    if not program:
        yield
        return
    daemon = subprocess.Popen([program, "serve"], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        daemon.kill()
        daemon.wait()


def _import(ctd: Containerd, programs: Programs, directory: str) -> None:
    path = f"{directory}/image.tar"
    programs.image().write(path)
    ctd.import_image(path)
    os.unlink(path)
    assert ctd.images() == [IMAGE]


def _committed_snapshot(ctd: Containerd) -> str:
    """The key of the image's unpacked layer, of which containers' snapshots are made."""
    listed = ctd.ctr("snapshots", "--snapshotter", ctd.snapshotter, "ls").stdout.splitlines()[1:]
    return next(line.split()[0] for line in listed if line.split()[-1:] == ["Committed"])
