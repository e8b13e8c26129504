from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from containerd_shimkit.linux import paths
from containerd_shimkit.linux.paths import (
    RESOLVE_NO_SYMLINKS,
    make_directory_in_root,
    make_file_in_root,
    open_in_root,
    openat2,
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the root, with a file that must never be reached."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path / "outside"


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "passwd").write_text("inside")
    return tmp_path / "root"


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield descriptor
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"
    os.close(descriptor)


def place_of(descriptor: int) -> str:
    """The path that *descriptor* is of; closes it."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "path", ["etc/passwd", "/etc/passwd", "../../etc/passwd", "/../etc/./passwd", "link", "/up", "chain", "etc/../link"]
)
def test_every_way_leads_to_the_file_inside(root: Path, root_fd: int, path: str) -> None:
    (root / "link").symlink_to("/etc/passwd")
    (root / "up").symlink_to("../../../../etc/passwd")
    (root / "chain").symlink_to("link")
    assert place_of(open_in_root(root_fd, path, os.O_PATH)) == str(root / "etc" / "passwd")


def test_no_link_leads_outside(root: Path, root_fd: int, outside: Path) -> None:
    (root / "absolute").symlink_to(outside / "secret")
    (root / "relative").symlink_to("../outside/secret")
    (root / "directory").symlink_to(outside)
    for path in ("absolute", "relative", "directory/secret", "../outside/secret", str(outside / "secret")):
        with pytest.raises(FileNotFoundError, match="openat2: No such file or directory"):
            open_in_root(root_fd, path, os.O_RDONLY)


def test_a_loop_of_links_is_an_error(root: Path, root_fd: int) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        open_in_root(root_fd, "a", os.O_PATH)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        make_directory_in_root(root_fd, "a/b")
    assert caught.value.errno == errno.ELOOP


def test_dead_links_are_followed_as_far_as_the_kernel_would(root: Path, root_fd: int) -> None:
    for number in range(60):
        (root / f"l{number}").symlink_to(f"l{number + 1}")
    for make in (make_directory_in_root, make_file_in_root):
        with pytest.raises(OSError) as caught:
            make(root_fd, "l0")
        assert caught.value.errno == errno.ELOOP
    assert place_of(make_directory_in_root(root_fd, "l30")) == str(root / "l60")


@pytest.mark.root
def test_a_magic_link_is_not_followed(in_namespaces: Callable[[Callable[[], object]], None], root: Path) -> None:
    from containerd_shimkit.linux.mounts import mount

    def work() -> None:
        (root / "proc").mkdir()
        mount("proc", str(root / "proc"), "proc")
        host = os.open("/", os.O_PATH)
        root_fd = os.open(root, os.O_PATH)
        for path in (f"proc/self/fd/{host}/etc/hostname", "proc/self/root/etc", f"proc/{os.getpid()}/cwd"):
            with pytest.raises(OSError) as caught:
                open_in_root(root_fd, path, os.O_PATH)
            assert caught.value.errno == errno.ELOOP
            with pytest.raises(OSError) as caught:
                make_directory_in_root(root_fd, path + "/new")
            assert caught.value.errno == errno.ELOOP

    in_namespaces(work)


def test_a_missing_directory_is_made_with_its_parents(root: Path, root_fd: int) -> None:
    assert place_of(make_directory_in_root(root_fd, "/a/b//./c", 0o711)) == str(root / "a/b/c")
    assert place_of(make_directory_in_root(root_fd, "a/b/c")) == str(root / "a/b/c")
    assert place_of(make_directory_in_root(root_fd, "/")) == str(root)
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o711


@pytest.mark.parametrize("target", ["/var/run/deep", "var/run/deep", "../../var/run/deep"])
def test_a_dead_link_is_followed_inside_and_what_it_means_is_made(root: Path, root_fd: int, target: str) -> None:
    (root / "run").symlink_to(target)
    assert place_of(make_directory_in_root(root_fd, "run/x")) == str(root / "var/run/deep/x")
    (root / "file").symlink_to(target + "/f")
    assert place_of(make_file_in_root(root_fd, "file")) == str(root / "var/run/deep/f")


def test_a_dead_link_in_a_directory_counts_from_there(root: Path, root_fd: int) -> None:
    (root / "etc" / "rel").symlink_to("sub/dir")
    (root / "etc" / "up").symlink_to("../opt")
    assert place_of(make_directory_in_root(root_fd, "etc/rel/x")) == str(root / "etc/sub/dir/x")
    assert place_of(make_file_in_root(root_fd, "etc/up/f")) == str(root / "opt/f")


def test_nothing_is_ever_made_outside(root: Path, root_fd: int, outside: Path) -> None:
    (root / "evil").symlink_to(outside)
    (root / "worse").symlink_to(f"../../outside{outside}")
    for path in ("evil/new", "worse/new", "../outside/new", f"{outside}/new"):
        assert place_of(make_directory_in_root(root_fd, path)).startswith(f"{root}/")
        assert place_of(make_file_in_root(root_fd, f"{path}.txt")).startswith(f"{root}/")
    assert os.listdir(outside) == ["secret"]
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


@pytest.mark.parametrize("path", ["missing/../../../outside/new", "m/../../new", "link"])
def test_the_parent_of_what_is_missing_is_nowhere(root: Path, root_fd: int, path: str) -> None:
    (root / "link").symlink_to("gone/../../../outside/x")
    with pytest.raises(FileNotFoundError) as caught:
        make_directory_in_root(root_fd, path)
    assert caught.value.filename == path
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


def test_what_is_in_the_way_is_named_by_its_whole_path(root: Path, root_fd: int) -> None:
    with pytest.raises(NotADirectoryError) as caught:
        make_directory_in_root(root_fd, "etc/passwd/x")
    assert caught.value.filename == "etc/passwd/x"
    with pytest.raises(IsADirectoryError) as directory:
        make_file_in_root(root_fd, "etc")
    assert directory.value.filename == "etc"
    for nameless in ("", "/", "etc/none/.."):
        with pytest.raises((IsADirectoryError, FileNotFoundError)):
            make_file_in_root(root_fd, nameless)


def test_a_file_is_made_empty_and_one_that_is_there_is_left_alone(root: Path, root_fd: int) -> None:
    assert place_of(make_file_in_root(root_fd, "/a/b")) == str(root / "a/b")
    assert (root / "a/b").read_bytes() == b""
    assert place_of(make_file_in_root(root_fd, "etc/passwd")) == str(root / "etc/passwd")
    assert (root / "etc/passwd").read_text() == "inside"


def test_what_is_no_file_and_no_directory_is_opened_without_effect(root: Path, root_fd: int) -> None:
    os.mkfifo(root / "fifo")
    assert place_of(make_file_in_root(root_fd, "fifo")) == str(root / "fifo")


def test_descriptors_are_closed_by_an_execve(root: Path, root_fd: int) -> None:
    for descriptor in (
        open_in_root(root_fd, "etc", os.O_PATH),
        make_directory_in_root(root_fd, "new"),
        make_file_in_root(root_fd, "new/file"),
    ):
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_the_resolve_bits_are_the_kernels(root: Path, root_fd: int) -> None:
    (root / "link").symlink_to("etc")
    with pytest.raises(OSError) as caught:
        openat2(root_fd, "link", os.O_RDONLY, resolve=RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP


def test_a_disturbed_lookup_is_tried_again_and_in_the_end_given_up(
    root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def disturbed(dir_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
        calls.append(path)
        if len(calls) == 3:
            return openat2(dir_fd, path, flags, mode, resolve)
        raise BlockingIOError(errno.EAGAIN, "again")

    monkeypatch.setattr(paths, "openat2", disturbed)
    os.close(open_in_root(root_fd, "etc", os.O_PATH))
    assert len(calls) == 3
    with pytest.raises(BlockingIOError):
        open_in_root(root_fd, "etc", os.O_PATH)
    assert len(calls) < 1000


def test_nothing_is_made_outside_while_others_exchange_links_and_directories(
    root: Path, root_fd: int, outside: Path
) -> None:
    """CVE-2021-30465 and CVE-2024-45310: for half a second, as fast as two processes can."""
    volume = root / "volume"
    (volume / "way" / "deep").mkdir(parents=True)
    (volume / "link").symlink_to("../" * 16 + str(outside).lstrip("/"))
    libc = ctypes.CDLL(None)
    names = [ctypes.c_char_p(str(volume / name).encode()) for name in ("way", "link")]
    child = os.fork()
    if child == 0:
        while os.getppid() != 1:
            libc.renameat2(-100, names[0], -100, names[1], 2)  # RENAME_EXCHANGE
        os._exit(0)
    made = 0
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for make, path in ((make_directory_in_root, "a/b"), (make_file_in_root, "c/d"), (make_file_in_root, "e")):
                with suppress(OSError):
                    place = place_of(make(root_fd, f"/volume/way/{path}{made % 50}"))
                    assert place.startswith(f"{root}/"), place
                    made += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert made > 100
    assert sorted(each.name for each in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
