"""An ordinary user: the programs under test, run as somebody who is not root, from where that user can read them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 60
_ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = "import sys; print(*sys.version_info[:2])"


@dataclass(frozen=True, slots=True)
class Ordinary:
    """A user without a name, and a directory of that user's that everybody can read."""

    uid: int
    home: Path
    programs: Path  # the directory of the programs under test

    @property
    def runtime_directory(self) -> Path:
        return self.home / "run"

    def words(self, *words: str, **environment: str) -> list[str]:
        """What root executes to run *words* as this user."""
        paths = f"{_ENVIRONMENT}:{self.programs}"
        values = (paths, f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.runtime_directory}", "PYTHONDONTWRITEBYTECODE=1")
        more = (f"{name}={value}" for name, value in environment.items())
        number = str(self.uid)
        become = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups"]
        return [*become, "env", "-i", *values, *more, *words]

    def call(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run *words*, in the home; with *check* it must end with 0."""
        given = {"cwd": self.home, "stdin": subprocess.DEVNULL, **options}
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=TIMEOUT, check=False, **given)
        if check:
            assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def script(self, name: str, words: str) -> str:
        """The path of a program, for root to run, that is *words* as this user with whatever arguments it gets."""
        path = self.home.parent / f"{name}-{self.uid}"
        path.write_text(f'#!/bin/sh\nexec {" ".join(self.words())} {words} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def give(self, path: Path) -> None:
        """Make *path*, and all that is in it, this user's."""
        for each in (path, *path.rglob("*")):
            os.chown(each, self.uid, self.uid, follow_symlinks=False)

    def processes(self) -> Mapping[int, str]:
        """This user's processes that have not ended: what /proc says they are, by pid."""
        found: dict[int, str] = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = dict(
                    line.split(":\t", 1) for line in (path / "status").read_text().splitlines() if ":\t" in line
                )
            except OSError:
                continue  # it has ended
            if str(self.uid) in fields["Uid"].split() and not fields["State"].startswith("Z"):
                found[int(path.name)] = fields["Name"]
        return found

    def assert_nothing_runs(self) -> None:
        until = time.monotonic() + 10
        while self.processes():
            assert time.monotonic() < until, f"left running: {self.processes()}"
            time.sleep(0.05)


@contextmanager
def ordinary_users(*uids: int) -> Generator[list[Ordinary], None, None]:
    """Users with these numbers; nothing of theirs may run afterwards. Skips where there can be none."""
    if os.geteuid():
        pytest.skip("becoming somebody else needs root")
    # not below pytest's own directory, which is closed to others; and short, for sockets
    base = Path(tempfile.mkdtemp(prefix="ordinary-", dir="/tmp"))
    try:
        base.chmod(0o755)
        programs = _install(base, uids[0])
        users = [Ordinary(uid, base / str(uid), programs) for uid in uids]
        for user in users:
            user.runtime_directory.mkdir(parents=True)
            user.give(user.home)
        _require_user_namespaces(users[0])
        yield users
        for user in users:
            user.assert_nothing_runs()
    finally:
        shutil.rmtree(base)


def _install(base: Path, uid: int) -> Path:
    """Put the programs into *base*: a Python that the user may run, and the modules of the one that runs the tests."""
    python = _find_python(uid)
    places = [path for path in sys.path if os.path.isdir(path) and path.startswith(sys.prefix)]
    places += [str(each) for each in Path(__file__).parents[2].glob("packages/*/src")]
    programs = base / "venv" / "bin"
    subprocess.run([python, "-m", "venv", "--without-pip", str(programs.parent)], check=True, timeout=TIMEOUT)
    (site_packages,) = (programs.parent / "lib").glob("python*/site-packages")
    (site_packages / "under_test.pth").write_text("\n".join(places))
    for name in ("containerd-shimkit-oci", "containerd-shim-wasmtime-v1", "wasi-demo-app"):
        text = Path(os.path.dirname(sys.executable), name).read_text().split("\n", 1)[1]
        (programs / name).write_text(f"#!{programs}/python\n{text}")
        (programs / name).chmod(0o755)
    if not _can_run(uid, str(programs / "containerd-shimkit-oci"), "--version"):
        pytest.skip("the checkout, or its environment, is closed to others than root")
    return programs


def _find_python(uid: int) -> str:
    wanted = "{} {}".format(*sys.version_info[:2])
    name = "python{}.{}".format(*sys.version_info[:2])
    for path in (os.path.realpath(sys.executable), f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        if os.path.exists(path) and _can_run(uid, path, "-c", _VERSION) == wanted:
            return path
    pytest.skip(f"no Python {wanted} that others than root may run")


def _can_run(uid: int, *words: str) -> str:
    # env(1), as setpriv(1) itself executes what only root could reach
    become = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "env", "-i"]
    done = subprocess.run([*become, *words], capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd="/")
    return done.stdout.strip() if done.returncode == 0 else ""


def _require_user_namespaces(user: Ordinary) -> None:
    done = user.call("unshare", "--user", "--map-root-user", "--mount", "true", check=False)
    if done.returncode != 0:
        pytest.skip(f"this host has no user namespaces for others than root: {done.stderr.strip()}")
