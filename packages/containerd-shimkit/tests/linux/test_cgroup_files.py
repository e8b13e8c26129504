"""Over plain directories, which are as good as groups to what walks through them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from containerd_shimkit.linux import cgroup_files
from containerd_shimkit.linux.cgroup_files import (
    OpenFiles,
    make_directory,
    pids_below,
    read_table,
    remove_tree,
    steps,
    write,
    write_if_there,
)
from containerd_shimkit.linux.cgroup_settings import Setting


def fill(directory: Path, pids: str) -> None:
    make_directory(str(directory))
    (directory / "cgroup.procs").write_text(pids)


def test_processes_are_found_in_every_group_below(tmp_path: Path) -> None:
    for name, pids in (("", "1\n2\n"), ("a", ""), ("a/b", "3\n"), ("a/b/c", "4\n"), ("d", "5\n")):
        fill(tmp_path / name, pids)
    assert pids_below([str(tmp_path)]) == {1, 2, 3, 4, 5}
    assert pids_below([f"{tmp_path}/a", f"{tmp_path}/d"]) == {3, 4, 5}
    assert pids_below([f"{tmp_path}/none"]) == set()


def test_a_group_that_goes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, pids in (("", "1\n"), ("a", "2\n"), ("b", "3\n")):
        fill(tmp_path / name, pids)
    nested = cgroup_files._nested
    monkeypatch.setattr(cgroup_files, "_nested", lambda descriptor: [*nested(descriptor), "gone"])
    assert pids_below([str(tmp_path)]) == {1, 2, 3}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    fill(tmp_path / "group", "1\n")
    fill(tmp_path / "group" / "real", "2\n")
    fill(tmp_path / "elsewhere", "3\n")
    (tmp_path / "group" / "link").symlink_to(tmp_path / "elsewhere")
    assert pids_below([f"{tmp_path}/group"]) == {1, 2}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_another_error_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fill(tmp_path / "a", "1\n")

    def fails(path: object, *_args: object, **_options: object) -> int:
        raise OSError(number, os.strerror(number), path)

    for name in ("open", "stat", "scandir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(OSError, match=os.strerror(number)):
                pids_below([str(tmp_path)])


def test_a_tree_is_removed_from_its_leaves(tmp_path: Path) -> None:
    make_directory(f"{tmp_path}/group/a/b/c")
    make_directory(f"{tmp_path}/group/d")
    assert remove_tree(f"{tmp_path}/group")
    assert remove_tree(f"{tmp_path}/group")
    assert os.listdir(tmp_path) == []


def test_a_file_is_opened_once_and_an_absent_one_has_a_substitute_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    opened: list[str] = []
    real = os.open

    def counting(path: str, *args: int) -> int:
        opened.append(os.path.basename(path))
        return real(path, *args)

    monkeypatch.setattr(os, "open", counting)
    with OpenFiles({"x": str(tmp_path)}.get) as files:
        files.write(Setting("x", "a", "1", "f"))
        files.write(Setting("x", "a", "2", "f"))
        files.write(Setting("x", "none", "3", "f", instead=("b", "4")))
        files.write(Setting("x", "none", "5", "f", may_lack=True))
        with pytest.raises(FileNotFoundError):
            files.write(Setting("x", "none", "6", "f"))
        with pytest.raises(FileNotFoundError):
            files.write(Setting("y", "c", "7", "f"))
        files.write(Setting("y", "c", "8", "f", may_lack=True))
    assert opened == ["a", "none", "b", "none", "none"]
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("12", "4")


def test_files_are_read_and_written(tmp_path: Path) -> None:
    path = f"{tmp_path}/file"
    assert not write_if_there(path, "x")
    Path(path).write_text("oom_kill 3\nodd\nother x\n")
    assert read_table(path) == {"oom_kill": 3}
    assert write_if_there(path, "OOM")
    with pytest.raises(IsADirectoryError):
        write(str(tmp_path), "x")


def test_moments_of_trying_again_end_in_time() -> None:
    assert 2 <= sum(1 for _ in steps(0.02)) <= 20
