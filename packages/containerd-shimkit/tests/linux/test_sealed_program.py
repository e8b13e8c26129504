"""What a process knows of its own seal, and how it comes by one."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux import sealed_program
from containerd_shimkit.linux.sealed_program import exposure, is_sealed, open_sealed

_PROGRAM = """
import os, sys
from containerd_shimkit.linux.sealed_program import ensure_sealed, exposure, is_sealed
print("begun", "MARK" in os.environ, sys.argv[1:], sys.executable, sys.prefix)
sys.stdout.flush()
ensure_sealed("MARK")
print(is_sealed(), repr(exposure()), "MARK" in os.environ)
pid = os.fork()
if pid == 0:
    print("child", is_sealed())
    sys.exit()
os.waitpid(pid, 0)
"""


def run(*words: str, before: Callable[[], None] | None = None) -> list[str]:
    command = [sys.executable, "-c", _PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=before, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def without_mounts() -> None:
    assert ctypes.CDLL(None).prctl(24, 21, 0, 0, 0) == 0 or os.geteuid()  # PR_CAPBSET_DROP, CAP_SYS_ADMIN


def without_anything() -> None:
    """Leave nothing to seal with: no mounts, and no file of any length in memory."""
    import resource

    without_mounts()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.parametrize("before", [None, without_mounts], ids=["mount", "copy"])
def test_a_program_begins_anew_once_and_as_it_was_called(before: Callable[[], None] | None) -> None:
    said = run("a", "b c", before=before)
    first = f"begun False ['a', 'b c'] {sys.executable} {sys.prefix}"
    assert said == [first, first.replace("False", "True", 1), "True '' False", "child True"]


def test_where_nothing_can_be_had_it_goes_on_and_knows_why() -> None:
    first, outcome, child = run(before=without_anything)
    assert first.startswith("begun False")
    assert outcome.startswith("False 'open_tree: Operation not permitted; and no copy in memory: File too large: ")
    assert outcome.endswith(f"{sys.executable}' False")
    assert child == "child False"


def test_the_tests_themselves_are_not_sealed() -> None:
    assert not is_sealed()
    exposure.cache_clear()
    assert exposure() == "it was started as an ordinary program"
    exposure.cache_clear()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        open_sealed(str(tmp_path / "nothing"))


def test_what_is_too_long_for_a_copy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate((1 << 28) + 1)
    with path.open("rb") as file, pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        sealed_program._open_copy(file.fileno())


def test_nothing_is_left_open_by_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    path = tmp_path / "program"
    path.write_bytes(b"$ORIGIN")
    monkeypatch.setattr(sealed_program, "set_attributes", fail)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="beside itself"):
        open_sealed(str(path))
    assert sorted(os.listdir("/proc/self/fd")) == before
