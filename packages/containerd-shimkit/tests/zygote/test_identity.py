from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from containerd_shimkit.zygote.identity import Identity


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("RECORD", "library.so"):
        (tmp_path / name).write_text("old")
        os.utime(tmp_path / name, (1, 1))
    return tmp_path / "RECORD", tmp_path / "library.so"


def identity_of(paths: tuple[Path, Path]) -> Identity:
    identity = Identity([])
    for path in paths:
        identity.add(str(path))
    return identity


def test_nothing_has_changed(installed: tuple[Path, Path]) -> None:
    assert identity_of(installed).check().is_current


def test_a_file_that_was_replaced_just_now_is_seen_and_may_be_followed_by_more(installed: tuple[Path, Path]) -> None:
    identity = identity_of(installed)
    installed[0].write_text("new")
    verdict = identity.check()
    assert (verdict.is_current, verdict.is_settled) == (False, False)


def test_an_upgrade_is_over_when_nothing_has_changed_for_a_while(
    installed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = identity_of(installed)
    installed[0].write_text("new")
    later = os.stat(installed[0]).st_ctime + 3
    monkeypatch.setattr("containerd_shimkit.zygote.identity.time.time", lambda: later)
    verdict = identity.check()
    assert (verdict.is_current, verdict.is_settled) == (False, True)


def test_a_file_that_is_gone_is_a_change(installed: tuple[Path, Path]) -> None:
    identity = identity_of(installed)
    installed[1].unlink()
    assert not identity.check().is_current


def test_the_same_content_in_another_file_is_a_change(installed: tuple[Path, Path]) -> None:
    identity = identity_of(installed)
    replacement = installed[0].with_suffix(".new")
    replacement.write_text("old")
    os.utime(replacement, (1, 1))
    replacement.replace(installed[0])
    assert not identity.check().is_current


def test_a_look_is_good_for_a_moment_and_no_longer(
    installed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = identity_of(installed)
    assert identity.check().is_current
    installed[0].write_text("new")
    assert identity.check().is_current, "just looked at"
    soon = time.monotonic() + 0.2
    monkeypatch.setattr("containerd_shimkit.zygote.identity.time.monotonic", lambda: soon)
    assert not identity.check().is_current


def test_another_installation_in_a_package_directory_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "a-1.dist-info").mkdir()
    (tmp_path / "a-1.dist-info" / "RECORD").write_text("a")
    identity = Identity([str(tmp_path)])
    (tmp_path / "a-1.dist-info" / "RECORD").write_text("a, and more")
    assert not identity.check().is_current


def test_a_link_that_leads_to_another_installation_now_is_a_change(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version / f"a-{version}.dist-info").mkdir(parents=True)
        (tmp_path / version / f"a-{version}.dist-info" / "RECORD").write_text("a")
    (tmp_path / "current").symlink_to("1")
    identity = Identity([str(tmp_path / "current")])
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").replace(tmp_path / "current")
    assert not identity.check().is_current


def test_a_process_knows_what_it_was_loaded_from() -> None:
    identity = Identity()
    identity.add_loaded()
    paths = set(identity._marks)
    assert os.path.realpath(sys.executable) in paths
    assert any(path.endswith(".dist-info/RECORD") for path in paths)
    assert any("libc.so" in path for path in paths)
    assert identity.check().is_current
