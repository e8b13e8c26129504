"""A program's way to its code: found, waited for, compiled in a child; and what can go wrong on it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from containerd_shim_wasm import (
    Engine,
    InvalidArgumentError,
    RuntimeContext,
    Settings,
    WasmLayer,
    compile_cache,
    loader,
)
from containerd_shim_wasm.compile_cache import CompileCache
from containerd_shim_wasm.digests import DigestMemory
from containerd_shim_wasm.loader import ProgramDigest, cache_of, compile_guest, entry_name, wants_digest
from containerd_shimkit import AbortedError, DeadlineExceededError, FailedPreconditionError, ResourceExhaustedError
from containerd_shimkit.shim.reaper import Reaper

pytestmark = pytest.mark.root  # the compiler's child gives its privileges up


class Backwards(Engine):
    """Compiles a program by turning it round; does to its compiler what the program's first word says."""

    name = "backwards"
    key: str | None = "backwards-1"

    def run_wasi(self, ctx: RuntimeContext) -> int:
        return 0

    def can_precompile(self) -> str | None:
        return self.key

    def precompile(self, layers: Sequence[WasmLayer]) -> list[bytes | None]:
        return [self._compile(layer.data) for layer in layers]

    def _compile(self, data: bytes) -> bytes | None:
        word, _, rest = data.partition(b" ")
        if word == b"wait":
            time.sleep(float(rest))
        elif word == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif word == b"hog":
            return bytes(1 << 40)
        elif word == b"flood":
            return bytes(300 << 20)
        elif word == b"invalid":
            raise InvalidArgumentError("not a program")
        elif word == b"as-is":
            return None
        return data[::-1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    if os.geteuid():
        pytest.skip("giving privileges up needs some")
    return Settings(compile_cache_directory=str(tmp_path / "modules"), compile_memory_bytes=1 << 30)


@pytest.fixture
def engine(settings: Settings) -> Backwards:
    return Backwards(settings)


@pytest.fixture
def compiled(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """How many programs have been compiled so far."""
    caplog.set_level(logging.INFO)
    return lambda: sum("compiled a program" in record.getMessage() for record in caplog.records)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[bytes], int]:
    numbers = iter(range(1000))

    def make(data: bytes) -> int:
        path = tmp_path / f"program-{next(numbers)}"
        path.write_bytes(data)
        return os.open(path, os.O_RDONLY)

    return make


Program = Callable[[bytes], int]


async def _children_left() -> int:
    """How many children this process has, once those that have done their work have had time to end."""
    for _ in range(200):
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        await asyncio.sleep(0.01)
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return len(file.read().split())


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario, and fail when it leaves children or descriptors behind."""

    async def whole() -> None:
        reaper = Reaper.current()
        before = sorted(os.listdir("/proc/self/fd"))
        try:
            await scenario()
        finally:
            reaper.stop()
        assert await _children_left() == 0
        assert sorted(os.listdir("/proc/self/fd")) == before

    asyncio.run(whole())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def code_of(engine: Engine, descriptor: int, data: bytes) -> bytes | None:
    code = await compile_guest(engine, descriptor, sha256(data))
    if code is None:
        return None
    with open(code, "rb") as file:
        return os.pread(file.fileno(), 1 << 20, 0)


def entries(settings: Settings) -> list[str]:
    return sorted(os.listdir(settings.compile_cache_directory))


def test_the_second_container_of_a_program_does_not_compile(
    engine: Backwards, program: Program, compiled: Callable[[], int]
) -> None:
    descriptor, other = program(b"abc"), program(b"xyz")

    async def scenario() -> None:
        for _ in range(3):
            assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert compiled() == 1
        assert await code_of(engine, other, b"xyz") == b"zyx"
        assert compiled() == 2
        assert len(entries(engine.settings)) == 4

    play(scenario)


def test_what_the_cache_gives_is_a_file_that_every_shim_maps_and_nobody_writes(
    engine: Backwards, program: Program
) -> None:
    descriptor = program(b"abc")

    async def scenario() -> None:
        codes = [await compile_guest(engine, descriptor, sha256(b"abc")) for _ in range(2)]
        inodes = set()
        for code in codes:
            assert code is not None
            inodes.add(os.fstat(code).st_ino)
            with mmap.mmap(code, 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == b"cba"
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(code, b"x")
            os.close(code)
        assert len(inodes) == 1

    play(scenario)


@pytest.mark.parametrize("digest", [sha256(b"abc"), ""])
def test_without_a_cache_or_a_digest_every_container_compiles_for_itself(
    settings: Settings, program: Program, compiled: Callable[[], int], digest: str
) -> None:
    engine = Backwards(replace(settings, compile_cache_bytes=0) if digest else settings)
    assert wants_digest(engine) is not bool(digest)
    descriptor = program(b"abc")

    async def scenario() -> None:
        for _ in range(2):
            code = await compile_guest(engine, descriptor, digest)
            assert code is not None
            with pytest.raises(PermissionError):
                os.write(code, b"x")  # sealed
            os.close(code)
        assert compiled() == 2
        assert not os.path.exists(settings.compile_cache_directory)

    play(scenario)


def test_an_engine_that_cannot_compile_is_never_asked(engine: Backwards, program: Program) -> None:
    engine.key = None
    assert not wants_digest(engine)
    descriptor = program(b"crash")

    async def scenario() -> None:
        assert await code_of(engine, descriptor, b"crash") is None

    play(scenario)


async def _only(scenario: Callable[[], Awaitable[None]]) -> None:
    await scenario()


def test_a_program_that_is_to_stay_as_it_is_is_compiled_once_too(
    engine: Backwards, program: Program, compiled: Callable[[], int]
) -> None:
    descriptor = program(b"as-is")

    async def scenario() -> None:
        for _ in range(2):
            assert await code_of(engine, descriptor, b"as-is") is None
        assert compiled() == 1

    play(scenario)


def test_another_key_is_another_entry(engine: Backwards, program: Program, compiled: Callable[[], int]) -> None:
    descriptor = program(b"abc")

    async def scenario() -> None:
        await code_of(engine, descriptor, b"abc")
        engine.key = "backwards-2"
        await code_of(engine, descriptor, b"abc")
        await code_of(engine, descriptor, b"abc")
        assert compiled() == 2

    play(scenario)


def test_a_key_that_is_no_name_costs_the_cache_and_not_the_container(
    engine: Backwards, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    engine.key = "../../etc"
    descriptor = program(b"abc")

    async def scenario() -> None:
        assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert "'../../etc' cannot be part of a name" in caplog.text

    play(scenario)


def test_many_containers_at_once_compile_once(engine: Backwards, program: Program, compiled: Callable[[], int]) -> None:
    descriptor = program(b"wait 0.2")

    async def scenario() -> None:
        asked = [code_of(engine, descriptor, b"wait 0.2") for _ in range(10)]
        assert set(await asyncio.gather(*asked)) == {b"2.0 tiaw"}
        assert compiled() == 1
        assert [name for name in entries(engine.settings) if name.endswith((".lock", ".tmp"))] == []

    play(scenario)


def test_the_loop_goes_on_while_somebody_compiles_and_others_wait(engine: Backwards, program: Program) -> None:
    descriptor = program(b"wait 0.3")

    async def scenario() -> None:
        asked = [asyncio.ensure_future(code_of(engine, descriptor, b"wait 0.3")) for _ in range(5)]
        slowest, last = 0.0, time.monotonic()
        while not all(each.done() for each in asked):
            await asyncio.sleep(0.001)
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
        assert slowest < 0.15

    play(scenario)


def test_two_processes_at_once_compile_once(settings: Settings, tmp_path: Path) -> None:
    data = b"wait 0.3"
    (tmp_path / "program").write_bytes(data)

    def process() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                with open(tmp_path / "program", "rb") as file:
                    asyncio.run(_only(lambda: _write_code(Backwards(settings), file.fileno(), data, tmp_path)))
                os._exit(0)
            finally:
                os._exit(1)
        return pid

    pids = [process() for _ in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    said = [path.read_text() for path in tmp_path.glob("said-*")]
    assert len(said) == 4
    assert len(set(said)) == 1, "all have the same file"


async def _write_code(engine: Engine, descriptor: int, data: bytes, where: Path) -> None:
    code = await compile_guest(engine, descriptor, sha256(data))
    assert code is not None
    (where / f"said-{os.getpid()}").write_text(str(os.fstat(code).st_ino))


@pytest.mark.parametrize(
    ("data", "change", "kind", "words"),
    [
        (b"invalid", {}, InvalidArgumentError, "not a program"),
        (b"crash", {}, AbortedError, r"status 139: the compiler crashed, .* compile_memory_bytes \(now 1073741824\)"),
        (b"hog", {}, ResourceExhaustedError, r"compiling 3 bytes .* raise the runtime option compile_memory_bytes"),
        (b"flood", {"compile_memory_bytes": 800 << 20}, None, ""),
        (b"wait 60", {"compile_timeout": 0.2}, DeadlineExceededError, r"compile_timeout \(now 0\.2 s\)"),
        (bytes(1 << 20), {"compile_memory_bytes": 1 << 19}, InvalidArgumentError, "has 1048576 bytes, more than may"),
    ],
)
def test_a_compile_that_fails_says_so_with_the_cure_and_leaves_nothing(
    settings: Settings,
    program: Program,
    data: bytes,
    change: dict[str, int],
    kind: type[Exception] | None,
    words: str,
) -> None:
    engine = Backwards(replace(settings, **change))  # type: ignore[arg-type]
    bad, good = program(data), program(b"abc")

    async def scenario() -> None:
        if kind is None:
            code = await compile_guest(engine, bad, sha256(data))
            assert code is not None
            assert os.fstat(code).st_size == 300 << 20
            os.close(code)
            return
        for _ in range(2):
            with pytest.raises(kind, match=words):
                await compile_guest(engine, bad, sha256(data))
        assert not os.path.exists(settings.compile_cache_directory) or entries(settings) == []
        assert await code_of(Backwards(settings), good, b"abc") == b"cba", "only that one has failed"

    play(scenario)


def test_more_code_than_the_compiler_may_write_is_its_own_failure(settings: Settings, program: Program) -> None:
    engine = Backwards(replace(settings, compile_memory_bytes=250 << 20))
    descriptor = program(b"flood")

    async def scenario() -> None:
        with pytest.raises((AbortedError, ResourceExhaustedError), match="compile_memory_bytes"):
            await compile_guest(engine, descriptor, sha256(b"flood"))

    play(scenario)


def test_a_compile_that_is_given_up_leaves_nothing_and_the_next_one_works(engine: Backwards, program: Program) -> None:
    descriptor = program(b"wait 0.4")

    async def scenario() -> None:
        asked = [asyncio.ensure_future(code_of(engine, descriptor, b"wait 0.4")) for _ in range(3)]
        await asyncio.sleep(0.15)
        asked[0].cancel()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [b"4.0 tiaw"] * 2
        assert len(entries(engine.settings)) == 2

    play(scenario)


def test_code_is_never_kept_under_another_programs_digest(engine: Backwards, program: Program) -> None:
    """Whoever can write to a file that is being hashed must not choose the code of everyone who has its old bytes."""
    descriptor = program(b"changed meanwhile")

    async def scenario() -> None:
        with pytest.raises(FailedPreconditionError, match="changed while it was being read"):
            await compile_guest(engine, descriptor, sha256(b"abc"))
        assert entries(engine.settings) == []

    play(scenario)


def _forget(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> CompileCache:
    """Have the same cache seen by a new process."""
    fresh = CompileCache(settings.compile_cache_directory, settings.compile_cache_bytes)
    monkeypatch.setattr(loader, "cache_of", lambda settings: fresh)
    return fresh


@pytest.mark.parametrize("damage", ["code", "truncated", "record", "foreign", "link"])
def test_a_bad_entry_is_rebuilt(
    engine: Backwards,
    program: Program,
    compiled: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    descriptor = program(b"abc")
    stem = Path(engine.settings.compile_cache_directory, entry_name(engine, sha256(b"abc")).text)
    code, record = (Path(f"{stem}.{role}") for role in ("code", "record"))

    def spoil() -> None:
        if damage == "code":
            with open(code, "r+b") as file:
                file.write(b"X")
        elif damage == "truncated":
            os.truncate(code, 1)
        elif damage == "record":
            record.write_bytes(b"nonsense")
        elif damage == "foreign":
            os.chown(code, 1000, 1000)
        else:
            code.rename(code.with_name("elsewhere"))
            code.symlink_to("elsewhere")

    async def scenario() -> None:
        assert await code_of(engine, descriptor, b"abc") == b"cba"
        time.sleep(0.02)
        spoil()
        _forget(engine.settings, monkeypatch)
        for _ in range(2):
            assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert compiled() == 2
        assert sum("compiling anew" in each.getMessage() for each in caplog.records) == 1
        assert code.stat().st_uid == 0
        assert not code.is_symlink()

    play(scenario)


def test_a_boot_later_the_code_is_hashed_once_and_not_compiled(
    engine: Backwards, program: Program, compiled: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = program(b"abc")

    async def scenario() -> None:
        await code_of(engine, descriptor, b"abc")
        monkeypatch.setattr(compile_cache, "boot_id", lambda: b"another boot, 16")
        cache = _forget(engine.settings, monkeypatch)
        found = cache.find(entry_name(engine, sha256(b"abc")))
        assert found is not None
        assert found.record is not None
        os.close(found.descriptor)
        asked = [code_of(engine, descriptor, b"abc") for _ in range(5)]
        assert set(await asyncio.gather(*asked)) == {b"cba"}
        monkeypatch.setattr(CompileCache, "verify", lambda *_: pytest.fail("hashed again"))
        _forget(engine.settings, monkeypatch)
        assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert compiled() == 1

    play(scenario)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: os.chown(path, 1000, 1000), "belongs to user 1000"),
        (lambda path: path.chmod(0o777), "has mode 0777"),
        (lambda path: (path.rmdir(), path.symlink_to("/tmp")), "Not a directory"),
        (lambda path: (path.rmdir(), path.write_text("")), "Not a directory"),
    ],
)
def test_a_directory_that_others_made_is_not_used_and_the_program_runs(
    engine: Backwards,
    program: Program,
    compiled: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
    words: str,
) -> None:
    directory = Path(engine.settings.compile_cache_directory)
    directory.mkdir(mode=0o700)
    spoil(directory)
    descriptor = program(b"abc")

    async def scenario() -> None:
        for _ in range(2):
            assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert compiled() == 2
        assert "compiling without the cache" in caplog.text
        assert words in caplog.text

    play(scenario)


@pytest.fixture
def small_disk(settings: Settings) -> Iterator[Path]:
    directory = Path(settings.compile_cache_directory)
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=8,mode=700", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_costs_the_cache_and_not_the_container(
    engine: Backwards, program: Program, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    big, small, more = os.urandom(100_000), b"abc", b"xyz"
    one, two, three = program(big), program(small), program(more)

    async def scenario() -> None:
        assert await code_of(engine, one, big) == big[::-1]
        assert "not kept for other containers" in caplog.text
        assert "No space left on device" in caplog.text
        assert entries(engine.settings) == []
        assert await code_of(engine, two, small) == b"cba"
        assert len(entries(engine.settings)) == 2
        assert await _children_left() == 0  # a lock that has been removed takes an inode while somebody has it open
        for number in range(5):
            (small_disk / f"filler-{number}").touch()  # no inode is left, not even for a lock
        assert await code_of(engine, three, more) == b"zyx"
        assert "compiling without the cache" in caplog.text

    play(scenario)


def test_what_a_killed_process_left_is_swept_by_the_next_one_that_stores(engine: Backwards, program: Program) -> None:
    directory = Path(engine.settings.compile_cache_directory)
    directory.mkdir(mode=0o700)
    dead = entry_name(engine, sha256(b"dead")).text
    same = entry_name(engine, sha256(b"abc")).text
    for file in (f"{dead}.code.tmp", f"{dead}.lock", f"{same}.code.tmp", f"{same}.code", f"{same}.lock"):
        (directory / file).write_bytes(b"half of it")
    descriptor = program(b"abc")

    async def scenario() -> None:
        assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert entries(engine.settings) == [f"{same}.code", f"{same}.record"]

    play(scenario)


def test_a_lock_that_is_never_released_holds_a_container_up_for_a_while_only(
    settings: Settings, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Backwards(replace(settings, compile_timeout=0.3))
    cache = cache_of(engine.settings)
    assert cache is not None
    name = entry_name(engine, sha256(b"abc"))
    descriptor = program(b"abc")

    async def scenario() -> None:
        lock = cache.try_lock(name)
        assert lock is not None
        assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert "another process has been making" in caplog.text
        cache.unlock(name, lock)

    play(scenario)


def test_an_entry_removed_while_its_code_runs_is_made_anew_for_the_next(
    engine: Backwards, program: Program, compiled: Callable[[], int]
) -> None:
    descriptor = program(b"abc")

    async def scenario() -> None:
        held = await compile_guest(engine, descriptor, sha256(b"abc"))
        assert held is not None
        for name in entries(engine.settings):
            os.unlink(os.path.join(engine.settings.compile_cache_directory, name))
        assert await code_of(engine, descriptor, b"abc") == b"cba"
        assert compiled() == 2
        assert os.pread(held, 10, 0) == b"cba"
        os.close(held)

    play(scenario)


def test_a_digest_is_asked_for_once_per_file_that_has_settled(
    engine: Backwards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_DIGESTS", DigestMemory(10))
    path = tmp_path / "program"
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))
    with open(path, "rb") as file:
        fresh = ProgramDigest()
        assert fresh.recall(engine, file.fileno()) is None
        fresh.learn(file.fileno(), sha256(b"abc"))
        assert ProgramDigest().recall(engine, file.fileno()) is None, "changed a moment ago: it may change unseen"
        monkeypatch.setattr(time, "time_ns", lambda: os.stat(path).st_ctime_ns + 10_000_000_000)
        settled = ProgramDigest()
        assert settled.recall(engine, file.fileno()) is None
        settled.learn(file.fileno(), sha256(b"abc"))
        assert ProgramDigest().recall(engine, file.fileno()) == sha256(b"abc")
        time.sleep(0.02)
        path.write_bytes(b"xyz")
        assert ProgramDigest().recall(engine, file.fileno()) is None
        changed = ProgramDigest()
        changed.recall(engine, file.fileno())
        time.sleep(0.02)
        path.write_bytes(b"while it was hashed")
        changed.learn(file.fileno(), sha256(b"xyz"))
        assert ProgramDigest().recall(engine, file.fileno()) is None
    assert ProgramDigest().recall(Backwards(replace(engine.settings, compile_cache_bytes=0)), -1) == ""
