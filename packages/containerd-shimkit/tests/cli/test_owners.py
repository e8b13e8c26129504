from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.cli import owners as module
from containerd_shimkit.cli.owners import package_owning

PackageManager = Callable[[str, Path], None]


@pytest.mark.parametrize("name", ["dpkg", "rpm"])
def test_the_package_manager_says_whose_a_file_is(tmp_path: Path, package_manager: PackageManager, name: str) -> None:
    package_manager(name, tmp_path / "owned")
    assert package_owning(str(tmp_path / "owned")) == f"{name}: theirs: {tmp_path}/owned"
    assert package_owning(str(tmp_path / "other")) == ""


def test_a_file_is_known_by_its_directorys_real_name_too(tmp_path: Path, package_manager: PackageManager) -> None:
    (tmp_path / "usr-lib").mkdir()
    (tmp_path / "lib").symlink_to("usr-lib")
    package_manager("dpkg", tmp_path / "usr-lib" / "owned")
    assert package_owning(str(tmp_path / "lib" / "owned")) == f"dpkg: theirs: {tmp_path}/usr-lib/owned"


def test_a_link_is_not_what_it_points_to(tmp_path: Path, package_manager: PackageManager) -> None:
    package_manager("dpkg", tmp_path / "owned")
    (tmp_path / "link").symlink_to("owned")
    assert package_owning(str(tmp_path / "link")) == ""


def test_a_package_manager_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, package_manager: PackageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    package_manager("rpm", tmp_path / "owned")
    programs = os.environ["PATH"].split(os.pathsep)[0]
    (Path(programs) / "dpkg").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    (Path(programs) / "dpkg").chmod(0o755)
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    assert package_owning(str(tmp_path / "owned")) == f"rpm: theirs: {tmp_path}/owned"


def test_without_a_package_manager_nothing_is_owned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/missing")
    assert package_owning("/usr/bin/env") == ""


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg on this machine")
def test_the_real_dpkg_knows_its_own_program() -> None:
    assert package_owning("/usr/bin/dpkg") == "dpkg: dpkg: /usr/bin/dpkg"
