"""Labels of AppArmor and SELinux, written to files in the place of a procfs's."""

from __future__ import annotations

from pathlib import Path

import pytest
from containerd_shimkit.linux import labels as module
from containerd_shimkit.linux import procfs


@pytest.fixture
def attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of /proc/self/attr, taken for one."""
    monkeypatch.setattr(module, "_ATTRIBUTES", str(tmp_path))
    monkeypatch.setattr(procfs, "is_on_procfs", lambda descriptor: descriptor >= 0)
    for name in ("exec", "current", "keycreate"):
        (tmp_path / name).touch()
    return tmp_path


def written(directory: Path) -> dict[str, str]:
    files = {str(each.relative_to(directory)): each.read_text() for each in directory.rglob("*") if each.is_file()}
    return {name: text for name, text in files.items() if text}


def write_all(files: tuple[module.LabelFile, ...]) -> None:
    for each in files:
        each.write()


def test_a_program_to_be_executed_gets_its_profile_by_the_file_of_apparmor(attributes: Path) -> None:
    (attributes / "apparmor").mkdir()
    (attributes / "apparmor/exec").touch()
    write_all(module.labels_of_next_program("docker-default", ""))
    assert written(attributes) == {"apparmor/exec": "exec docker-default"}


def test_a_kernel_without_that_has_one_for_all(attributes: Path) -> None:
    write_all(module.labels_of_next_program("docker-default", ""))
    assert written(attributes) == {"exec": "exec docker-default"}


def test_a_process_that_executes_nothing_changes_its_own_profile(attributes: Path) -> None:
    write_all(module.labels_of_this_process("docker-default", ""))
    assert written(attributes) == {"current": "changeprofile docker-default"}


def test_a_context_is_written_as_it_is(attributes: Path) -> None:
    write_all(module.key_labels("u:r:t:s0:c1,c2"))
    write_all(module.labels_of_next_program("", "u:r:t:s0:c1,c2"))
    assert written(attributes) == {"exec": "u:r:t:s0:c1,c2", "keycreate": "u:r:t:s0:c1,c2"}
    write_all(module.labels_of_this_process("", "u:r:t:s0"))
    assert written(attributes)["current"] == "u:r:t:s0"


def test_without_labels_nothing_is_opened(attributes: Path) -> None:
    assert module.key_labels("") == module.labels_of_next_program("", "") == module.labels_of_this_process("", "") == ()
    assert written(attributes) == {}


def test_a_file_that_is_in_no_procfs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ATTRIBUTES", str(tmp_path))
    (tmp_path / "exec").touch()
    with pytest.raises(OSError, match="in no procfs"):
        module.labels_of_next_program("x", "")
    assert written(tmp_path) == {}


def test_a_link_in_its_place_is_not_followed(attributes: Path) -> None:
    (attributes / "exec").unlink()
    (attributes / "exec").symlink_to(attributes / "current")
    with pytest.raises(OSError, match="symbolic link"):
        module.labels_of_next_program("x", "")


@pytest.mark.parametrize(("content", "expected"), [("Y\n", True), ("N\n", False), ("", False), (None, False)])
def test_apparmor_is_there_when_it_says_so(tmp_path: Path, content: str | None, expected: bool) -> None:
    if content is not None:
        (tmp_path / "enabled").write_text(content)
    assert module.has_apparmor(str(tmp_path / "enabled")) is expected


def test_selinux_is_there_when_its_file_system_is(tmp_path: Path) -> None:
    assert not module.has_selinux(str(tmp_path / "enforce"))
    (tmp_path / "enforce").touch()
    assert module.has_selinux(str(tmp_path / "enforce"))
