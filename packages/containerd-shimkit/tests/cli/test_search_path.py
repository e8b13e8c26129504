"""Where containerd looks: a tree like /proc with the containerds that a test wants to run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.cli.search_path import SearchPath, containerd_search_paths, same_directory

SUPPOSED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
AddProcess = Callable[..., Path]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    path = tmp_path / "proc"
    (path / "sys").mkdir(parents=True)
    return path


@pytest.fixture
def add_process(proc: Path) -> AddProcess:
    def add(pid: int, environ: bytes, comm: str = "containerd", exe: str = "/opt/containerd/bin/containerd") -> Path:
        process = proc / str(pid)
        process.mkdir()
        (process / "comm").write_text(f"{comm}\n")
        (process / "environ").write_bytes(environ)
        (process / "exe").symlink_to(exe)
        return process

    return add


def test_its_own_path_then_beside_its_program(proc: Path, add_process: AddProcess) -> None:
    add_process(42, b"HOME=/\0NO_PATH=/x\0PATH=/usr/bin:/opt/\xff\0")
    (found,) = containerd_search_paths(str(proc))
    assert found.owner == "containerd (pid 42)"
    assert found.directories == ("/usr/bin", os.fsdecode(b"/opt/\xff"), "/opt/containerd/bin")


def test_relative_directories_are_none(proc: Path, add_process: AddProcess) -> None:
    # Go refuses a program that it finds in one of them
    add_process(42, b"PATH=:.:bin:/usr/bin:\0")
    assert containerd_search_paths(str(proc))[0].directories == ("/usr/bin", "/opt/containerd/bin")


def test_one_without_path_looks_beside_its_program_only(proc: Path, add_process: AddProcess) -> None:
    add_process(42, b"HOME=/\0")
    assert containerd_search_paths(str(proc))[0].directories == ("/opt/containerd/bin",)


def test_every_containerd_counts_and_nothing_else(proc: Path, add_process: AddProcess) -> None:
    for pid in (100, 9):
        add_process(pid, b"PATH=/usr/bin\0")
    for pid, comm in ((10, "containerd-shim"), (11, "dockerd"), (12, "containerd\nx")):
        add_process(pid, b"PATH=/other\0", comm=comm)
    (proc / "13").mkdir()  # a process that has just ended
    assert [each.owner for each in containerd_search_paths(str(proc))] == ["containerd (pid 9)", "containerd (pid 100)"]


def test_a_containerd_in_a_container_has_other_directories_of_the_same_names(
    proc: Path, add_process: AddProcess, tmp_path: Path
) -> None:
    for pid, root in ((1, "/"), (2, str(tmp_path))):
        (add_process(pid, b"PATH=/usr/bin\0") / "root").symlink_to(root)
    assert [each.owner for each in containerd_search_paths(str(proc))] == ["containerd (pid 1)"]


def test_a_containerd_that_only_root_may_look_at_has_systemds_default(proc: Path, add_process: AddProcess) -> None:
    (add_process(42, b"PATH=/usr/bin\0") / "exe").unlink()
    assert containerd_search_paths(str(proc)) == [
        SearchPath("containerd (pid 42), supposing systemd's default PATH", SUPPOSED)
    ]


def test_without_a_containerd_systemds_default_is_supposed(proc: Path) -> None:
    assert containerd_search_paths(str(proc)) == [SearchPath("containerd as systemd starts it", SUPPOSED)]


def test_the_real_proc_can_be_read() -> None:
    assert all(each.directories for each in containerd_search_paths())


def test_the_first_that_can_be_executed_is_found(tmp_path: Path) -> None:
    for name in ("missing", "directory", "text", "first", "second"):
        path = tmp_path / name / "shim"
        if name == "directory":
            path.mkdir(parents=True)
        elif name != "missing":
            path.parent.mkdir()
            path.touch(0o755 if name in ("first", "second") else 0o644)
    directories = ("missing", "directory", "text", "first", "second")
    search_path = SearchPath("x", tuple(str(tmp_path / name) for name in directories))
    assert search_path.finds("shim") == f"{tmp_path}/first/shim"
    assert search_path.finds("other") is None


def test_a_directory_is_known_by_each_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "usr-lib").mkdir()
    (tmp_path / "lib").symlink_to("usr-lib")
    search_path = SearchPath("x", (f"{tmp_path}/lib", "/missing/one"))
    assert search_path.has(f"{tmp_path}/usr-lib/")
    assert search_path.has("/missing/two/../one")
    assert not search_path.has(str(tmp_path))
    assert same_directory(os.path.dirname(sys.executable), f"{os.path.dirname(sys.executable)}/.")
