"""The cache's files: who may have made them, what is believed of them, how they come and go."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from containerd_shim_wasm import compile_cache
from containerd_shim_wasm.cache_directory import BadEntryError, CacheError
from containerd_shim_wasm.cache_entry import EntryName, decode_record
from containerd_shim_wasm.compile_cache import CompileCache

NAME = EntryName("toy", "toy-1", "ab" * 32)
OTHER = EntryName("toy", "toy-1", "cd" * 32)
CODE = b"compiled code, more or less" * 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "made" / "modules"


@pytest.fixture
def cache(directory: Path) -> CompileCache:
    return CompileCache(str(directory), 1 << 20)


def store(cache: CompileCache, name: EntryName = NAME, code: bytes = CODE) -> None:
    descriptor = os.memfd_create("code")
    os.write(descriptor, code)
    lock = cache.try_lock(name)
    assert lock is not None
    try:
        cache.store(name, descriptor, 123, lock)
    finally:
        cache.unlock(name, lock)
        os.close(descriptor)


def find(cache: CompileCache, name: EntryName = NAME) -> bytes | str | None:
    """The code; "unverified" for one that is still to be verified."""
    found = cache.find(name)
    if found is None:
        return None
    try:
        return os.pread(found.descriptor, 1 << 20, 0) if found.record is None else "unverified"
    finally:
        os.close(found.descriptor)


def another(cache: CompileCache) -> CompileCache:
    """The same cache as another process sees it: with no memory of its own."""
    return CompileCache(cache.directory, cache.limit_bytes)


def files(cache: CompileCache) -> set[str]:
    return {name.removeprefix(NAME.text) for name in os.listdir(cache.directory)}


def test_what_was_stored_is_found_by_everyone_and_is_exactly_the_engines_bytes(cache: CompileCache) -> None:
    assert find(cache) is None
    store(cache)
    assert find(cache) == find(cache) == find(another(cache)) == CODE
    assert find(cache, OTHER) is None
    assert files(cache) == {".code", ".record"}
    for path in Path(cache.directory).iterdir():
        assert path.stat().st_mode & 0o7777 == 0o644
    assert Path(cache.directory).stat().st_mode & 0o7777 == 0o700
    record = decode_record(Path(cache.directory, f"{NAME.text}.record").read_bytes())
    assert (record.name, record.program_bytes, record.verified.size) == (NAME, 123, len(CODE))


def test_code_of_no_bytes_is_an_entry_too(cache: CompileCache) -> None:
    store(cache, code=b"")
    assert find(another(cache)) == b""


def test_after_a_boot_an_entry_is_verified_once_for_all(cache: CompileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    store(cache)
    monkeypatch.setattr(compile_cache, "boot_id", lambda: b"another boot, 16")
    later = another(cache)
    found = later.find(NAME)
    assert found is not None
    assert found.record is not None
    later.verify(NAME, found)
    os.close(found.descriptor)
    assert find(later) == find(another(cache)) == CODE
    assert files(cache) == {".code", ".record"}


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_one_changed_byte_is_found_also_by_who_has_seen_the_entry_before(cache: CompileCache) -> None:
    store(cache)
    assert find(cache) == CODE
    time.sleep(0.02)  # some ticks of the clock that ctime is taken from
    _overwrite(Path(cache.directory, f"{NAME.text}.code"), 100, b"\xff")
    for each in (cache, another(cache)):
        found = each.find(NAME)
        assert found is not None
        assert found.record is not None
        with pytest.raises(BadEntryError, match="is damaged: its digest is not the record's"):
            each.verify(NAME, found)
        os.close(found.descriptor)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda code, record: os.truncate(code, 10), "has 10 bytes, not 2700 as recorded"),
        (lambda code, record: os.truncate(record, 10), "a record of 10 bytes"),
        (lambda code, record: record.write_bytes(b"x" * 300), "not version 1"),
        (lambda code, record: _overwrite(record, 8, b"\x02"), "not version 1"),
        (lambda code, record: _overwrite(record, record.stat().st_size - 64, b"0"), "is another entry's"),
        (lambda code, record: code.chmod(0o666), "has mode 0666"),
        (lambda code, record: code.chmod(0o600), "has mode 0600, as earlier versions made it"),
        (lambda code, record: record.chmod(0o620), "has mode 0620"),
        (lambda code, record: os.link(code, code.with_suffix(".more")), "is not a regular file with one name"),
        (lambda code, record: (code.rename(code.with_suffix(".x")), code.symlink_to(code.with_suffix(".x"))), "a link"),
        (lambda code, record: (record.rename(record.with_suffix(".x")), record.symlink_to("x")), "a link"),
        (lambda code, record: _make_fifo(code), "is not a regular file"),
        (lambda code, record: (code.unlink(), code.mkdir()), "is not a regular file"),
    ],
)
def test_an_entry_that_is_not_as_it_was_made_is_refused(
    cache: CompileCache, damage: Callable[[Path, Path], object], words: str
) -> None:
    store(cache)
    damage(*(Path(cache.directory, f"{NAME.text}.{role}") for role in ("code", "record")))
    with pytest.raises(BadEntryError) as caught:
        find(another(cache))
    assert words in str(caught.value)
    assert cache.directory in str(caught.value)


@pytest.mark.root
@pytest.mark.parametrize("role", ["code", "record"])
def test_a_file_of_another_user_is_refused(cache: CompileCache, role: str) -> None:
    _need_root()
    store(cache)
    os.chown(Path(cache.directory, f"{NAME.text}.{role}"), 1000, 0)
    with pytest.raises(BadEntryError, match=r"belongs to user 1000 .* no shim has made it"):
        find(another(cache))


def test_an_entry_that_is_half_there_is_none(cache: CompileCache) -> None:
    for role in ("code", "record"):
        store(cache)
        Path(cache.directory, f"{NAME.text}.{role}").unlink()
        assert find(another(cache)) is None


def test_a_discarded_entry_leaves_nothing_and_can_be_made_anew(cache: CompileCache) -> None:
    store(cache)
    held = cache.find(NAME)
    assert held is not None
    cache.discard(NAME)
    cache.discard(NAME)
    assert (files(cache), find(cache)) == (set(), None)
    assert os.pread(held.descriptor, 1 << 20, 0) == CODE, "who has it open keeps it"
    os.close(held.descriptor)
    store(cache, code=b"new")
    assert find(cache) == find(another(cache)) == b"new"


def test_an_entry_is_never_written_in_place(cache: CompileCache) -> None:
    store(cache)
    held = cache.find(NAME)
    assert held is not None
    store(cache, code=b"the next")
    assert os.pread(held.descriptor, 1 << 20, 0) == CODE
    os.close(held.descriptor)
    assert find(cache) == b"the next"


def test_the_limit_is_kept_by_removing_what_was_used_longest_ago(directory: Path) -> None:
    cache = CompileCache(str(directory), 3500)
    now = time.time()
    for number, used in enumerate((now - 20, now - 30, now - 10)):
        name = EntryName("toy", "toy-1", f"{number:064x}")
        store(cache, name, bytes(800))
        os.utime(directory / f"{name.text}.record", (used, used))
    assert find(cache, EntryName("toy", "toy-1", f"{1:064x}")) == bytes(800), "within the hour: not noted"
    store(cache, NAME, bytes(800))
    kept = [number for number in range(3) if find(cache, EntryName("toy", "toy-1", f"{number:064x}"))]
    assert kept == [0, 2]
    assert find(cache) == bytes(800)
    with pytest.raises(CacheError, match=r"4000 bytes .* \(3500\); raise the runtime option compile_cache_bytes"):
        store(cache, OTHER, bytes(4000))
    assert find(cache) == bytes(800), "what cannot be kept drives nothing out"


def test_use_is_noted_once_an_hour_and_does_not_change_what_is_verified(cache: CompileCache) -> None:
    store(cache)
    record = Path(cache.directory, f"{NAME.text}.record")
    os.utime(record, (time.time() - 1800,) * 2)
    assert find(another(cache)) == CODE
    assert time.time() - record.stat().st_mtime > 1700
    os.utime(record, (time.time() - 7200,) * 2)
    process = another(cache)
    assert find(process) == CODE
    assert time.time() - record.stat().st_mtime < 60
    os.utime(record, (time.time() - 7200,) * 2)
    assert find(process) == CODE
    assert time.time() - record.stat().st_mtime > 7000, "a process that has noted it does not look again for an hour"


@contextmanager
def _mounted(path: Path, options: str) -> Iterator[None]:
    _need_root()
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.root
def test_a_full_disk_is_an_error_with_a_cure_and_leaves_nothing(tmp_path: Path) -> None:
    with _mounted(tmp_path / "small", "size=64k,mode=700"):
        cache = CompileCache(str(tmp_path / "small" / "modules"), 1 << 20)
        store(cache)
        with pytest.raises(CacheError, match=r"cannot be written: No space left on device; make room .*_directory"):
            store(cache, OTHER, bytes(100_000))
        assert files(cache) == {".code", ".record"}
        assert find(cache) == CODE


@pytest.mark.root
def test_a_directory_where_code_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    with _mounted(tmp_path / "data", "noexec,mode=700"):
        with pytest.raises(CacheError, match="mounted noexec"):
            CompileCache(str(tmp_path / "data"), 1 << 20).find(NAME)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.chmod(0o755), "has mode 0755"),
        (lambda path: path.chmod(0o1777), "has mode 1777"),
        (lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")), "Not a directory"),
        (lambda path: (path.rmdir(), path.touch()), "Not a directory"),
        (lambda path: (path.rmdir(), path.symlink_to("nowhere")), "cannot be opened"),
        (lambda path: path.parent.chmod(0o777), "which others than root can write to"),
    ],
)
def test_a_directory_that_is_not_ours_alone_is_refused_whenever_it_is_used(
    directory: Path, spoil: Callable[[Path], object], words: str
) -> None:
    directory.mkdir(mode=0o700, parents=True)
    spoil(directory)
    for use in (lambda cache: cache.find(NAME), lambda cache: cache.try_lock(NAME), lambda cache: store(cache)):
        with pytest.raises(CacheError) as caught:
            use(CompileCache(str(directory), 1 << 20))
        assert words in str(caught.value)
        assert "compile_cache_directory" in str(caught.value)


def test_a_directory_is_looked_at_again_after_it_was_found_good(cache: CompileCache) -> None:
    store(cache)
    assert find(cache) == CODE
    os.chmod(cache.directory, 0o777)
    with pytest.raises(CacheError, match="has mode 0777"):
        find(cache)


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    _need_root()
    directory.mkdir(mode=0o700, parents=True)
    os.chown(directory, 1000, 1000)
    with pytest.raises(CacheError, match=r"belongs to user 1000 .* it must be a directory of user 0 with mode 0700"):
        find(CompileCache(str(directory), 1 << 20))
    os.chown(directory, 0, 0)
    os.chown(directory.parent, 1000, 1000)
    with pytest.raises(CacheError, match="which others than root can write to"):
        find(CompileCache(str(directory), 1 << 20))


def test_a_relative_path_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match="has no absolute path"):
        find(CompileCache("modules", 1 << 20))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_was_removed_under_everyone_is_made_again(cache: CompileCache) -> None:
    store(cache)
    lock = cache.try_lock(OTHER)
    assert lock is not None
    for path in Path(cache.directory).iterdir():
        path.unlink()
    os.rmdir(cache.directory)
    cache.unlock(OTHER, lock)
    assert find(cache) is None
    store(cache)
    assert find(cache) == CODE


def test_a_write_that_stops_half_way_leaves_no_entry(cache: CompileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def failing(descriptor: int, data: bytes) -> int:
        if bytes(data[:8]) == b"SHIMCODE":
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(CacheError, match="Input/output error"):
        store(cache)
    monkeypatch.undo()
    assert find(cache) is None
    store(cache)
    assert find(cache) == CODE


def _need_root() -> None:
    if os.geteuid():
        pytest.skip("mounting and giving files away need root")
