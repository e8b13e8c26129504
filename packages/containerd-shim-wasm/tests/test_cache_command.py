"""`cache ls`, `prune` and `warm`, as an operator types them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from containerd_shim_wasm import Engine, InvalidArgumentError, RuntimeContext, Settings, WasmLayer, cache_command
from containerd_shim_wasm.cache_command import cache
from containerd_shim_wasm.cache_entry import EntryName
from containerd_shim_wasm.compile_cache import CompileCache
from containerd_shim_wasm.loader import compile_guest
from containerd_shimkit.shim.reaper import run_collecting

DAY = 86400


class Upper(Engine):
    """Compiles a program by shouting it."""

    name = "upper"

    def run_wasi(self, ctx: RuntimeContext) -> int:
        return 0

    def can_precompile(self) -> str | None:
        return "upper-2"

    def precompile(self, layers: Sequence[WasmLayer]) -> list[bytes | None]:
        if any(layer.data.startswith(b"bad") for layer in layers):
            raise InvalidArgumentError("not a program")
        return [layer.data.upper() for layer in layers]


class Broken(Upper):
    name = "broken"

    def warm(self) -> None:
        raise OSError("libbroken.so: cannot open shared object file")


Run = Callable[..., Result]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "modules"


@pytest.fixture
def run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, with one engine installed."""
    _install(monkeypatch, upper=Upper)

    def command(*args: str) -> Result:
        return CliRunner().invoke(cache, [*args, "--directory", str(directory)])

    return command


def _install(monkeypatch: pytest.MonkeyPatch, **engines: type[Engine]) -> None:
    points: list[EntryPoint] = []
    for name, engine in engines.items():
        point = EntryPoint(name, f"{__name__}:{engine.__name__}", cache_command.ENGINES_GROUP)
        points.append(point)
    by_name = dict(engines)
    monkeypatch.setattr(EntryPoint, "load", lambda self: by_name[self.name])
    monkeypatch.setattr(cache_command, "entry_points", lambda group: points if group == points[0].group else [])


def keep(directory: Path, number: int, *, key: str = "upper-2", age: float = 0, size: int = 1000) -> EntryName:
    """Put an entry into the cache, last used *age* seconds ago."""
    name = EntryName("upper", key, f"{number:064x}")
    kept = CompileCache(str(directory), 1 << 30)
    code = os.memfd_create("code")
    os.write(code, bytes(size))
    lock = kept.try_lock(name)
    assert lock is not None
    kept.store(name, code, size, lock)
    kept.unlock(name, lock)
    os.close(code)
    os.utime(directory / f"{name.text}.record", (time.time() - age,) * 2)
    return name


def left(directory: Path) -> list[int]:
    return sorted(int(path.name.partition(".")[0][-64:], 16) for path in directory.glob("v1@*.code"))


def test_what_is_kept_is_listed_for_people_and_for_programs(run: Run, directory: Path) -> None:
    keep(directory, 1, age=3 * DAY)
    keep(directory, 2, age=DAY, size=5 << 20)
    (directory / "v9@upper@k@x.blob").write_bytes(bytes(10))
    os.truncate(directory / f"{EntryName('upper', 'upper-2', f'{1:064x}').text}.code", 5)
    table = run("ls").stdout.splitlines()
    assert table[0].split() == ["ENGINE", "KEY", "PROGRAM", "SIZE", "LAST", "USED", "VERIFIED"]
    assert table[1].split()[:2] == ["-", "-"]
    assert "v9@upper@k@x.blob" in table[1]
    assert table[2].split()[:5] == ["upper", "upper-2", "000000000000", "5.0", "MiB"]
    assert [line.split()[-1] for line in table[1:]] == ["no", "yes", "no"]
    found = json.loads(run("ls", "--json").stdout)
    assert [row["size"] for row in found[:2]] == [10, (5 << 20) + 183]
    assert found[1]["digest"] == f"{2:064x}"
    assert found[1]["verified"] is True
    assert abs(time.time() - DAY - _seconds(found[1]["last_used"])) < 60, "looking is not using"


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_a_cache_that_was_never_made_is_empty_and_stays_so(run: Run, directory: Path) -> None:
    assert json.loads(run("ls", "--json").stdout) == []
    assert run("prune", "--all").exit_code == 0
    assert not directory.exists()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--all"], []),
        (["--older-than", "2d"], [0, 1, 3]),
        (["--older-than", "1h"], [0]),
        (["--to-bytes", "3K"], [0, 1]),
        (["--to-bytes", "2500"], [0, 1]),
        (["--to-bytes", "1G"], [0, 1, 2, 3]),
        (["--stale"], [0, 1, 2]),
        (["--stale", "--older-than", "9d"], [0, 1]),
        (["--all", "--dry-run"], [0, 1, 2, 3]),
    ],
)
def test_what_the_options_name_is_removed(run: Run, directory: Path, options: list[str], kept: list[int]) -> None:
    keep(directory, 0)
    keep(directory, 1, age=DAY)
    keep(directory, 2, age=10 * DAY)
    keep(directory, 3, age=1.5 * DAY, key="upper-1")
    done = run("prune", *options)
    assert done.exit_code == 0, done.output
    assert left(directory) == kept
    assert len(done.stdout.splitlines()) == 4 - (len(kept) if "--dry-run" not in options else 0)
    assert len(list(directory.iterdir())) == 2 * len(kept)


def test_pruning_spares_what_is_being_made_and_sweeps_what_was_left(run: Run, directory: Path) -> None:
    keep(directory, 0)
    kept = CompileCache(str(directory), 1 << 30)
    making, dead = (EntryName("upper", "upper-2", f"{number:064x}") for number in (1, 2))
    lock = kept.try_lock(making)
    assert lock is not None
    for name in (making, dead):
        (directory / f"{name.text}.code.tmp").write_bytes(b"x")
    assert run("prune", "--older-than", "1d").exit_code == 0
    assert [path.name for path in directory.glob("*.tmp")] == [f"{making.text}.code.tmp"]
    kept.unlock(making, lock)


def test_an_engine_that_cannot_say_its_key_keeps_everything(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(directory, 0, key="upper-1")
    _install(monkeypatch, upper=Upper, broken=Broken)
    done = run("prune", "--stale")
    assert done.exit_code == 1
    assert "the engine broken cannot be loaded: OSError: libbroken.so" in done.stderr
    assert left(directory) == [0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["prune"], "say what is to go"),
        (["prune", "--older-than", "3"], "'3' is not an age, such as 12h"),
        (["prune", "--to-bytes", "much"], "'much' is not a size, such as 500M"),
        (["warm", "--engine", "upper"], "Missing argument 'FILE...'"),
    ],
)
def test_a_mistake_of_usage_is_explained(run: Run, args: list[str], words: str) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_directory_that_is_not_the_users_alone_is_not_touched(run: Run, directory: Path) -> None:
    keep(directory, 0)
    directory.chmod(0o777)
    for args in (["ls"], ["prune", "--all"]):
        done = run(*args)
        assert done.exit_code == 1
        assert "has mode 0777" in done.stderr
    assert left(directory) == [0]


@pytest.mark.root
def test_a_program_that_was_warmed_is_not_compiled_by_a_shim(
    run: Run, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _need_root()
    (tmp_path / "a.wasm").write_bytes(b"one")
    (tmp_path / "b.wasm").write_bytes(b"two")
    done = run("warm", "--engine", "upper", *(str(tmp_path / name) for name in ("a.wasm", "b.wasm")))
    assert done.exit_code == 0, done.output
    assert [": compiled in " in line for line in done.stdout.splitlines()] == [True, True]
    again = run("warm", "--engine", "upper", str(tmp_path / "a.wasm"))
    assert again.stdout == f"{tmp_path}/a.wasm: is there already\n"
    monkeypatch.setattr(Upper, "precompile", lambda *_: pytest.fail("compiled again"))
    shim = Upper(Settings(compile_cache_directory=str(directory)))
    with open(tmp_path / "a.wasm", "rb") as file:
        code = run_collecting(compile_guest(shim, file.fileno(), hashlib.sha256(b"one").hexdigest()))
    assert code is not None
    assert os.pread(code, 10, 0) == b"ONE"
    os.close(code)


@pytest.mark.root
def test_a_program_that_cannot_be_warmed_fails_the_command_and_not_the_others(
    run: Run, directory: Path, tmp_path: Path
) -> None:
    _need_root()
    (tmp_path / "bad.wasm").write_bytes(b"bad")
    (tmp_path / "good.wasm").write_bytes(b"good")
    done = run("warm", "--engine", "upper", *(str(tmp_path / name) for name in ("bad.wasm", "none.wasm", "good.wasm")))
    assert done.exit_code == 1
    assert f"{tmp_path}/bad.wasm: not a program" in done.stderr
    assert "No such file or directory" in done.stderr
    assert "good.wasm: compiled in" in done.stdout
    directory.chmod(0o755)
    refused = run("warm", "--engine", "upper", str(tmp_path / "good.wasm"))
    assert refused.exit_code == 1
    assert "has mode 0755" in refused.stderr


def test_only_what_is_installed_can_warm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = run("warm", "--engine", "other", "x")
    assert done.exit_code == 1
    assert "no engine 'other' is installed beside this program (installed: upper)" in done.stderr
    monkeypatch.setattr(Upper, "can_precompile", lambda self: None)
    assert "compiles nothing ahead" in run("warm", "--engine", "upper", "x").stderr
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "run this as root" in run("warm", "--engine", "upper", "x").stderr


def _need_root() -> None:
    if os.geteuid():
        pytest.skip("compiling gives privileges up, which needs some")
