from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from containerd_shimkit.cli import handler
from containerd_shimkit.cli.handler import add_handler, block, remove_handler, runtime_class, without_block
from containerd_shimkit.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from hypothesis import given
from hypothesis import strategies as st

NEWEST = Path(__file__).parents[4] / ".cache" / "containerd-2" / "usr" / "bin" / "containerd"
TABLES = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
LINES = st.text()


@given(LINES, LINES)
def test_exactly_what_was_appended_is_taken_away(before: str, after: str) -> None:
    for version in TABLES:
        assert without_block(before + block("wasmtime", version, is_file=False) + after, "wasmtime") == before + after
    assert without_block(before, "wasmtime") == before


def test_a_version_with_other_tables_is_refused() -> None:
    with pytest.raises(FailedPreconditionError, match="has version 9; handlers are known for 2, 3, 4"):
        block("wasmtime", 9, is_file=True)


def test_a_runtime_class_names_the_handler() -> None:
    assert runtime_class("wasmtime").splitlines()[-1] == "handler: wasmtime"


@pytest.fixture(params=["installed", "newest"])
def containerd(request: pytest.FixtureRequest) -> str:
    found = shutil.which("containerd") if request.param == "installed" else str(NEWEST)
    if not found or not os.access(found, os.X_OK):
        pytest.skip(f"no containerd ({request.param}): scripts/test, run as root on Debian, brings it")
    return found


@pytest.fixture
def config(tmp_path: Path, containerd: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with a setting of the CRI's and a handler of somebody else's, and a directory for drop-ins."""
    monkeypatch.setattr(handler, "DEFAULT_CONFIG", str(tmp_path / "default" / "config.toml"))
    version = 3 if containerd == str(NEWEST) else 2
    (tmp_path / "conf.d").mkdir()
    path = tmp_path / "config.toml"
    table = f'plugins."{TABLES[version]}"'
    path.write_text(
        f'version = {version}\nimports = ["{tmp_path}/conf.d/*.toml"]\n[{table}]\nrestrict_oom_score_adj = true\n'
        f'[{table}.containerd.runtimes.other]\nruntime_type = "io.containerd.runc.v2" # the end has no newline'
    )
    path.chmod(0o640)
    return path


def test_a_drop_in_is_used_where_it_replaces_nothing_and_goes_again(
    config: Path, containerd: str, tmp_path: Path
) -> None:
    before = config.read_bytes()
    drop_in = tmp_path / "conf.d" / "50-containerd-shimkit-wasmtime.toml"
    merges = containerd == str(NEWEST)  # 1.x would lose the other handler
    assert add_handler("wasmtime", str(config), containerd) == str(drop_in if merges else config)
    assert drop_in.exists() is merges
    assert (config.read_bytes() == before) is merges
    assert config.stat().st_mode & 0o777 == 0o640
    assert add_handler("wasmtime", str(config), containerd) == "", "a second time changes nothing"
    assert add_handler("second", str(config), containerd)
    assert remove_handler("wasmtime", str(config)) == str(drop_in if merges else config)
    assert remove_handler("wasmtime", str(config)) == ""
    assert remove_handler("second", str(config))
    assert config.read_bytes().rstrip(b"\n") == before
    assert os.listdir(tmp_path / "conf.d") == []


def test_a_file_is_made_where_none_was_and_goes_again(containerd: str, tmp_path: Path) -> None:
    before, config = os.listdir(tmp_path), tmp_path / "config.toml"
    assert add_handler("wasmtime", str(config), containerd) == str(config)
    dumped = subprocess.run(
        [containerd, "--config", config, "config", "dump"], capture_output=True, text=True, check=True
    )
    for kind in ("runc.v2", "wasmtime.v1"):  # 1.x would have the new one alone
        assert re.search(rf"runtime_type = .io\.containerd\.{kind}.$", dumped.stdout, re.MULTILINE)
    assert remove_handler("wasmtime", str(config)) == str(config)
    assert os.listdir(tmp_path) == before


def test_a_handler_of_another_type_is_left_alone(config: Path, containerd: str) -> None:
    before = config.read_bytes()
    with pytest.raises(AlreadyExistsError, match=r"a handler other of the type 'io\.containerd\.runc\.v2'"):
        add_handler("other", str(config), containerd)
    assert config.read_bytes() == before


@pytest.mark.parametrize(("text", "says"), [("version = ", "cannot read"), ("version = 2\n[[", "cannot read")])
def test_what_containerd_cannot_read_is_left_alone(config: Path, containerd: str, text: str, says: str) -> None:
    config.write_text(text)
    with pytest.raises(FailedPreconditionError, match=says):
        add_handler("wasmtime", str(config), containerd)
    assert config.read_text() == text


def test_what_would_change_something_else_is_taken_back(
    config: Path, containerd: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, there = config.read_bytes(), os.listdir(tmp_path / "conf.d")
    monkeypatch.setattr(handler, "_is_added", lambda *_: False)
    with pytest.raises(FailedPreconditionError, match=r"it is as it was: add by hand\n# containerd-shimkit: begin"):
        add_handler("wasmtime", str(config), containerd)
    assert (config.read_bytes(), os.listdir(tmp_path / "conf.d")) == (before, there)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(handler, "_is_added", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_handler("wasmtime", str(config), containerd)
    assert (config.read_bytes(), os.listdir(tmp_path / "conf.d")) == (before, there)


def test_without_containerd_nothing_is_changed(tmp_path: Path) -> None:
    before = os.listdir(tmp_path)
    with pytest.raises(NotFoundError, match="no program /nowhere/containerd"):
        add_handler("wasmtime", str(tmp_path / "config.toml"), "/nowhere/containerd")
    assert os.listdir(tmp_path) == before


def test_install_makes_the_handler_and_uninstall_takes_it_away(
    run: Callable[..., Result], built: Path, script: Path, directory: Path, tmp_path: Path, containerd: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "containerd").symlink_to(containerd)
    config = tmp_path / "config.toml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=os.pathsep)
        done = run("install", "--directory", directory, "--kubernetes", "--config", config, "test")
        assert done.exit_code == 0, done.output
        assert done.stdout.endswith(f"---\n{runtime_class('test')}")
        assert f"the handler test is in {config}; restart containerd" in done.output
        again = run("install", "--directory", directory, "--kubernetes", "--config", config, "test")
        assert f"{config} has a handler test" in again.output
    gone = run("uninstall", "--directory", directory, "--config", config, "--state", tmp_path / "none", "test")
    assert gone.exit_code == 0, gone.output
    assert f"took the handler test out of {config}" in gone.output
    assert not config.exists()
    assert list(directory.iterdir()) == []
