"""Mounts of a container, made by a plan's own steps and looked at by the kernel's own table."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, PermissionDeniedError, ShimError
from containerd_shimkit.container import apply_mounts
from containerd_shimkit.linux import mount_tree, mounts, paths
from containerd_shimkit.oci import mount_options as ms

from .conftest import Host, OnHost, Root

pytestmark = pytest.mark.root

PROC = {"destination": "/proc", "type": "proc", "source": "proc"}
InChild = Callable[[Callable[[], object]], None]


def bind(source: Path | str, *options: str, to: str = "/x", **more: Any) -> dict[str, Any]:
    return {"destination": to, "type": "bind", "source": str(source), "options": ["rbind", *options], **more}


def tmpfs(*options: str, to: str = "/x") -> dict[str, Any]:
    return {"destination": to, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def mapped(*hosts: int) -> dict[str, Any]:
    """Mappings of one range each: ids of the disk from 0 on appear from each of *hosts* on."""
    uid, gid = hosts
    return {
        "uidMappings": [{"containerID": 0, "hostID": uid, "size": 1000}],
        "gidMappings": [{"containerID": 0, "hostID": gid, "size": 1000}],
    }


def volume(host: Host, *, shared: bool = True) -> Path:
    """A directory of the host's that is a mount, with a mount below it."""
    directory = host.directory / "volume"
    directory.mkdir()
    mounts.mount("tmpfs", str(directory), "tmpfs", 0, "mode=755")
    if not shared:
        mounts.mount("", str(directory), "", ms.MS_PRIVATE)
    (directory / "below").mkdir()
    mounts.mount("tmpfs", str(directory / "below"), "tmpfs")
    (directory / "file").touch()
    (directory / "below" / "file").touch()
    return directory


def points(host: Host) -> list[str]:
    return sorted(each.mount_point for each in host.mounted())


# Propagation


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"master"}),  # the host's tree is a slave's, and a bind mount of it too
        (("private",), set[str]()),
        (("rprivate",), set[str]()),
        (("slave",), {"master"}),
        (("rslave",), {"master"}),
        (("shared",), {"shared", "master"}),
        (("rshared",), {"shared", "master"}),
        (("unbindable",), {"unbindable"}),
        (("runbindable",), {"unbindable"}),
        (("rprivate", "shared"), {"shared"}),
        (("rshared", "rprivate"), set[str]()),
    ],
)
def test_a_bind_mounts_propagation_is_what_its_words_say(
    on_host: OnHost, words: tuple[str, ...], expected: set[str]
) -> None:
    def work(host: Host) -> None:
        root = host.container(bind(volume(host), *words))
        root.build()
        assert root.options("/x") & {"shared", "master", "unbindable"} == expected
        if words and words[-1].startswith("r"):
            assert root.options("/x/below") & {"shared", "master", "unbindable"} == expected

    on_host(work)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("rprivate", set[str]()), ("shared", {"shared"}), ("rshared", {"shared"}), ("runbindable", {"unbindable"})],
)
def test_so_is_that_of_a_file_system_of_its_own(on_host: OnHost, word: str, expected: set[str]) -> None:
    def work(host: Host) -> None:
        root = host.container(tmpfs(word))
        root.build()
        assert root.options("/x") & {"shared", "master", "unbindable"} == expected

    on_host(work)


PROPAGATIONS = ["", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"]


@pytest.mark.parametrize("rootfs_is_mount", [False, True])
@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_no_mount_of_a_container_reaches_the_host(
    on_host: OnHost, in_child: InChild, propagation: str, rootfs_is_mount: bool
) -> None:
    def work(host: Host) -> None:
        if rootfs_is_mount:
            mounts.mount("tmpfs", str(host.rootfs), "tmpfs", 0, "mode=755")
        entries = [PROC, tmpfs(), bind(volume(host), "rprivate", to="/y"), tmpfs(to="/y/below")]
        before = mounts.read_mountinfo()

        def live() -> None:
            root = host.container(*entries, rootfsPropagation=propagation)
            root.build()
            root.enter()
            mounts.mount("tmpfs", "/x", "tmpfs")
            os.mkdir("/later")
            mounts.mount("tmpfs", "/later", "tmpfs")
            assert len([each for each in mounts.read_mountinfo() if each.mount_point == "/later"]) == 1
            assert not any("bundle" in each.mount_point for each in mounts.read_mountinfo()), "the host's tree is gone"

        in_child(live)
        assert mounts.read_mountinfo() == before

    on_host(work)


@pytest.mark.parametrize(
    ("propagation", "expected"),
    [
        ("", set[str]()),
        ("private", set[str]()),
        ("rprivate", set[str]()),
        ("slave", {"master"}),
        ("rslave", {"master"}),
        ("shared", {"shared"}),
        ("rshared", {"shared"}),
        ("unbindable", {"unbindable"}),
        ("runbindable", {"unbindable"}),
    ],
)
def test_the_roots_propagation_is_the_specs(on_host: OnHost, propagation: str, expected: set[str]) -> None:
    def work(host: Host) -> None:
        mounts.mount("tmpfs", str(host.rootfs), "tmpfs", 0, "mode=755")
        root = host.container(PROC, tmpfs(), rootfsPropagation=propagation)
        root.build()
        root.enter()
        assert root.own_options("/") & {"shared", "master", "unbindable"} == expected
        below = expected if propagation.startswith("r") and propagation != "rslave" else set[str]()
        assert root.own_options("/x") & {"shared", "master", "unbindable"} == below

    on_host(work)


@pytest.mark.parametrize(("propagation", "arrives"), [("", False), ("rprivate", False), ("slave", True)])
def test_what_the_host_mounts_in_the_root_later_comes_only_to_a_slave(
    on_host: OnHost, in_child: InChild, propagation: str, arrives: bool
) -> None:
    def work(host: Host) -> None:
        mounts.mount("tmpfs", str(host.rootfs), "tmpfs", 0, "mode=755")
        (host.rootfs / "later").mkdir()
        ready, built = os.pipe()
        mounted, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(ready, 1)
            mounts.mount("tmpfs", str(host.rootfs / "later"), "tmpfs")
            os.write(go, b"x")
            os._exit(0)

        def live() -> None:
            root = host.container(PROC, rootfsPropagation=propagation)
            root.build()
            root.enter()
            os.write(built, b"x")
            os.read(mounted, 1)
            assert any(each.mount_point == "/later" for each in mounts.read_mountinfo()) is arrives

        in_child(live)
        assert os.waitpid(pid, 0)[1] == 0

    on_host(work)


@pytest.mark.parametrize("propagation", ["shared", "rshared"])
def test_a_shared_volume_gives_the_host_what_the_container_mounts_in_it(
    on_host: OnHost, in_child: InChild, propagation: str
) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        mounts.mount("tmpfs", str(host.rootfs), "tmpfs", 0, "mode=755")
        (directory / "here").mkdir()
        before = points(host)

        def live() -> None:
            root = host.container(bind(directory, "rshared"), rootfsPropagation=propagation)
            root.build()
            root.enter()
            mounts.mount("tmpfs", "/x/here", "tmpfs")

        in_child(live)
        assert points(host) == sorted([*before, str(directory / "here")])

    on_host(work)


@pytest.mark.parametrize("propagation", ["", "rslave", "rprivate"])
def test_else_a_shared_volume_is_shared_within_the_container_only(
    on_host: OnHost, in_child: InChild, propagation: str
) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        (directory / "here").mkdir()
        before = points(host)

        def live() -> None:
            root = host.container(PROC, bind(directory, "rshared"), rootfsPropagation=propagation)
            root.build()
            root.enter()
            assert "shared" in root.own_options("/x")
            mounts.mount("tmpfs", "/x/here", "tmpfs")

        in_child(live)
        assert points(host) == before

    on_host(work)


# Flags, of one mount and of all below it


@pytest.mark.parametrize(
    ("words", "top", "below"),
    [
        (("ro",), {"ro"}, {"rw"}),
        (("rro",), {"ro"}, {"ro"}),
        (("rro", "rrw"), {"rw"}, {"rw"}),
        (("ro", "rrw"), {"rw"}, {"rw"}),
        (("nosuid", "rsuid"), set[str](), set[str]()),
        (("rnosuid", "rnodev"), {"nosuid", "nodev"}, {"nosuid", "nodev"}),
        (("nodev", "rdev", "noexec", "rexec"), set[str](), set[str]()),
        (("rnoexec",), {"noexec"}, {"noexec"}),
        (("rnodiratime",), {"nodiratime"}, {"nodiratime"}),
        (("nodiratime", "rdiratime"), set[str](), set[str]()),
        (("rnoatime",), {"noatime"}, {"noatime"}),
        (("noatime", "ratime"), {"relatime"}, {"relatime"}),
        (("noatime", "rrelatime"), {"relatime"}, {"relatime"}),
        (("noatime", "rnorelatime"), {"noatime"}, {"relatime"}),
        (("rstrictatime",), set[str](), set[str]()),
        (("strictatime", "rnostrictatime"), {"relatime"}, {"relatime"}),
        (("rnosymfollow",), {"nosymfollow"}, {"nosymfollow"}),
        (("nosymfollow",), {"nosymfollow"}, set[str]()),
        (("nosymfollow", "rsymfollow"), set[str](), set[str]()),
        (("strictatime",), set[str](), {"relatime"}),
        (("nodiratime", "strictatime", "ro"), {"ro", "nodiratime"}, {"relatime"}),
    ],
)
def test_flags_reach_as_far_as_their_word_says(
    on_host: OnHost, words: tuple[str, ...], top: set[str], below: set[str]
) -> None:
    flags = {"ro", "nosuid", "nodev", "noexec", "noatime", "relatime", "nodiratime", "nosymfollow"}

    def expect(wanted: set[str]) -> set[str]:
        # where times are not spoken of they are as they were
        mentions_times = any("atime" in word and "dir" not in word for word in words)
        return wanted | (set() if mentions_times or wanted & {"noatime", "relatime"} else {"relatime"})

    def work(host: Host) -> None:
        root = host.container(bind(volume(host), *words))
        root.build()
        assert root.options("/x") & flags == expect(top) - {"rw"}
        assert root.options("/x/below") & flags == expect(below) - {"rw"}

    on_host(work)


def test_a_mount_without_symbolic_links_follows_none(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        (directory / "link").symlink_to("file")
        root = host.container(bind(directory, "nosymfollow"), tmpfs("nosymfollow", to="/y"))
        root.build()
        with pytest.raises(OSError, match="link") as caught:
            (host.rootfs / "x" / "link").read_text()
        assert caught.value.errno == errno.ELOOP
        assert "nosymfollow" in root.options("/y")

    on_host(work)


def test_recursive_flags_are_for_any_file_system(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        root = host.container(tmpfs("rro", "rnoatime"))
        root.build()
        assert {"ro", "noatime"} <= root.options("/x")

    on_host(work)


def test_a_read_only_dev_is_so_recursively_in_the_end(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        root = host.container(tmpfs("rro", to="/dev"), tmpfs(to="/dev/shm"), PROC)
        root.build()
        assert "ro" not in root.options("/dev")
        root.enter()
        assert "ro" in root.own_options("/dev")
        assert "ro" in root.own_options("/dev/shm")

    on_host(work)


def test_masked_and_readonly_paths_hold_in_any_mount(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        (directory / "secret").write_text("x")
        (directory / "hidden").mkdir()
        (directory / "hidden" / "file").touch()
        (directory / "config").mkdir()
        paths: dict[str, Any] = {"maskedPaths": ["/x/secret", "/x/hidden"], "readonlyPaths": ["/x/config", "/x/below"]}
        root = host.container(PROC, bind(directory, "rshared", "rnosuid"), rootfsPropagation="rshared", **paths)
        mounts.mount("tmpfs", str(host.rootfs), "tmpfs", 0, "mode=755")
        root.build()
        root.enter()
        assert os.listdir("/x/hidden") == []
        assert stat.S_ISCHR(os.stat("/x/secret").st_mode)
        for readonly in ("/x/config", "/x/below"):
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(f"{readonly}/new")
        assert {"ro", "nosuid"} <= root.own_options("/x/config")

    on_host(work)


@pytest.mark.parametrize("word", ["unbindable", "runbindable"])
def test_what_cannot_be_bound_can_be_read_only_as_a_whole_and_masked_in_part(on_host: OnHost, word: str) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        masked: dict[str, Any] = {"maskedPaths": ["/x/file", "/x/below"], "readonlyPaths": ["/x"]}
        dev = {**tmpfs("ro", word, to="/dev"), "source": "dev"}
        root = host.container(PROC, dev, bind(directory, word), **masked)
        root.build()
        root.enter()
        assert {"ro", "unbindable"} <= root.own_options("/dev")
        assert {"ro", "unbindable"} <= root.own_options("/x")
        assert stat.S_ISCHR(os.stat("/x/file").st_mode)
        assert os.listdir("/x/below") == []

    on_host(work)


def test_a_part_of_what_cannot_be_bound_is_an_error_that_says_why(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        (directory / "part").mkdir()
        root = host.container(bind(directory, "unbindable"), readonlyPaths=["/x/part"])
        root.build()
        with pytest.raises(InvalidArgumentError, match=r"ReadonlyPath.*unbindable: leave that option out"):
            root.enter()

    on_host(work)


# Mapped ids


def test_a_mapped_mount_shows_the_files_of_others(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        os.chown(directory / "file", 5, 6)
        os.chown(directory / "below" / "file", 5, 6)
        root = host.container(
            bind(directory, "idmap", "ro", to="/one", **mapped(100000, 200000)),
            bind(directory, "ridmap", "rprivate", to="/all", **mapped(300000, 400000)),
            bind(directory / "file", "idmap", to="/a/file", **mapped(1000, 2000)),
        )
        root.build()
        for path, owner in {
            "one/file": (100005, 200006),
            "one/below/file": (5, 6),
            "all/file": (300005, 400006),
            "all/below/file": (300005, 400006),
            "a/file": (1005, 2006),
        }.items():
            found = (host.rootfs / path).stat()
            assert (found.st_uid, found.st_gid) == owner, path
        assert {"ro", "idmapped"} <= root.options("/one")
        assert not root.options("/all") & {"shared", "master"}
        os.chown(host.rootfs / "all" / "file", 300007, 400008)
        assert ((directory / "file").stat().st_uid, (directory / "file").stat().st_gid) == (7, 8)

    on_host(work)


def test_a_file_system_that_maps_no_ids_is_named_and_nothing_is_left(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        root = host.container(bind("/sys", "idmap", **mapped(100000, 200000)))
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(InvalidArgumentError, match="file system of /sys may be one that cannot map ids"):
            root.build()
        opened = set(os.listdir("/proc/self/fd")) - before - {str(root.site.root_fd)}
        assert not [each for each in opened if os.path.exists(f"/proc/self/fd/{each}")]
        assert [each.mount_point for each in host.mounted() if "/x" in each.mount_point] == []
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)

    on_host(work)


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("open_mapping", errno.ENOSPC, r"OpenMappedMount.*user\.max_user_namespaces"),
        ("copy_mount", errno.ENOSYS, r"OpenMappedMount.*Linux 5\.12"),
        ("set_attributes", errno.ENOSYS, r"OpenMappedMount.*Linux 5\.12"),
        ("move_mount", errno.EPERM, "MappedBindMount"),
    ],
)
def test_what_a_kernel_does_not_do_is_named(
    on_host: OnHost, monkeypatch: pytest.MonkeyPatch, name: str, number: int, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    def work(host: Host) -> None:
        directory = volume(host)
        before = points(host)
        root = host.container(bind(directory, "idmap", to="/sub/x", **mapped(100000, 200000)))
        with pytest.raises(ShimError, match=words):
            root.build()
        assert [each for each in points(host) if "/sub" in each] == []
        assert [each for each in points(host) if "rootfs" not in each] == before

    monkeypatch.setattr(apply_mounts, name, refuse)
    on_host(work)


# A tmpfs with what it hides


def test_a_tmpfs_keeps_what_it_hides(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        hidden = host.rootfs / "etc"
        (hidden / "sub" / "deep").mkdir(parents=True)
        (hidden / "file").write_text("content")
        (hidden / "sub" / "deep" / "set").write_text("x" * 100_000)
        os.chown(hidden / "sub" / "deep" / "set", 3, 4)
        (hidden / "sub" / "deep" / "set").chmod(0o4711)
        (hidden / "out").symlink_to("/etc/passwd")
        os.mkfifo(hidden / "fifo", 0o640)
        os.utime(hidden / "file", ns=(10**18, 10**18 + 5))
        os.chown(hidden, 7, 8)
        hidden.chmod(0o2750)
        root = host.container(tmpfs("tmpcopyup", "ro", "rprivate", to="/etc"))
        root.build()
        assert {"ro"} <= root.options("/etc")
        shown = host.rootfs / "etc"
        for path in (".", "file", "sub/deep/set", "out", "fifo"):
            found = (shown / path).lstat()
            with_mount = (found.st_mode, found.st_uid, found.st_gid)
            assert (
                with_mount
                == {
                    ".": (stat.S_IFDIR | 0o2750, 7, 8),
                    "file": (stat.S_IFREG | 0o666, 0, 0),
                    "sub/deep/set": (stat.S_IFREG | 0o4711, 3, 4),
                    "out": (stat.S_IFLNK | 0o777, 0, 0),
                    "fifo": (stat.S_IFIFO | 0o640, 0, 0),
                }[path]
            ), path
        assert (shown / "file").read_text() == "content"
        assert (shown / "file").stat().st_mtime_ns == 10**18 + 5
        assert (shown / "sub" / "deep" / "set").read_text() == "x" * 100_000
        assert os.readlink(shown / "out") == "/etc/passwd"

    on_host(work)


def test_what_is_said_of_the_tmpfs_counts_more_than_what_it_hides(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        (host.rootfs / "etc").mkdir(mode=0o700)
        host.container(tmpfs("tmpcopyup", "mode=1777", "uid=5", to="/etc")).build()
        found = (host.rootfs / "etc").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o1777, 5)

    on_host(work)


def test_a_tmpfs_that_is_too_small_for_it_is_an_error(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        (host.rootfs / "etc").mkdir()
        (host.rootfs / "etc" / "large").write_bytes(bytes(1 << 20))
        with pytest.raises(ShimError, match=r"CopiedTmpfs.*No space left"):
            host.container(tmpfs("tmpcopyup", "size=64k", to="/etc")).build()

    on_host(work)


@pytest.mark.parametrize(("options", "mode"), [((), 0o751), (("mode=700",), 0o700)])
def test_a_tmpfs_has_the_mode_of_the_directory_that_it_hides(
    on_host: OnHost, options: tuple[str, ...], mode: int
) -> None:
    def work(host: Host) -> None:
        (host.rootfs / "there").mkdir()
        (host.rootfs / "there").chmod(0o751)
        host.container(tmpfs(*options, to="/there"), tmpfs(to="/made")).build()
        assert stat.S_IMODE((host.rootfs / "there").stat().st_mode) == mode
        assert stat.S_IMODE((host.rootfs / "made").stat().st_mode) == 0o1777

    on_host(work)


# Places


def test_mounts_are_made_in_their_order_and_one_may_stand_in_another(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        directory = volume(host)
        root = host.container(
            tmpfs(to="/a"),
            bind(directory, to="/a/b/c"),
            bind(directory / "file", "ro", to="a/d/file"),
            tmpfs(to="/a/b/c/below"),
            bind(directory, type="", to="/n"),
        )
        root.build()
        assert sorted(os.listdir(host.rootfs / "a")) == ["b", "d"]
        assert os.listdir(host.rootfs / "a" / "b" / "c" / "below") == []
        assert (host.rootfs / "a" / "d" / "file").is_file()
        assert "ro" in root.options("/a/d/file")
        assert (host.rootfs / "n" / "below" / "file").is_file()

    on_host(work)


def _entries(host: Host, to: str) -> dict[str, dict[str, Any]]:
    source = volume(host)
    return {
        "mapped": bind(source, "idmap", to=to, **mapped(100000, 200000)),
        "copied": tmpfs("tmpcopyup", to=to),
        "cgroup": {"destination": to, "type": "cgroup", "source": "cgroup"},
        "recursive": bind(source, "rro", to=to),
    }


KINDS = ["mapped", "copied", "cgroup", "recursive"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_of_the_image_is_followed_in_its_root(on_host: OnHost, kind: str) -> None:
    def work(host: Host) -> None:
        outside = host.directory / "outside"
        outside.mkdir()
        (host.rootfs / "link").symlink_to(f"/../../..{outside}")
        root = host.container(_entries(host, "/link/x")[kind])
        root.build()
        assert os.listdir(outside) == []
        assert root.options(f"{outside}/x")

    on_host(work)


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_of_the_image_leads_none_of_them_over_proc(on_host: OnHost, kind: str) -> None:
    def work(host: Host) -> None:
        (host.rootfs / "proc").mkdir()
        (host.rootfs / "link").symlink_to("/proc")
        root = host.container(PROC, _entries(host, "/link")[kind])
        with pytest.raises(PermissionDeniedError, match="leads to /proc"):
            root.build()

    on_host(work)


def test_a_source_that_is_not_there_is_named(on_host: OnHost) -> None:
    def work(host: Host) -> None:
        for extra in ((), ("idmap",)):
            root: Root = host.container(bind("/nowhere", *extra, **(mapped(1, 1) if extra else {})))
            with pytest.raises(InvalidArgumentError, match="make sure that /nowhere exists on the host"):
                root.build()

    on_host(work)


# Others who write to a volume at the same time


def swapper(volume: Path, leads_to: str) -> Callable[[], None]:
    """What has another process, of the host's mounts, put a link in the place of `data` in the *volume*."""
    reader, writer = os.pipe()
    done_reader, done_writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)
        os.rename(volume / "data", volume / "moved")
        os.symlink(leads_to, volume / "data")
        os.write(done_writer, b"x")
        os._exit(0)
    os.close(reader)

    def swap() -> None:
        os.write(writer, b"x")
        assert os.read(done_reader, 1) == b"x"

    return swap


@pytest.mark.parametrize(
    ("words", "precious", "expected"),
    [(["rw"], "ro", {"rw"}), (["ro"], "rw", {"ro"}), (["rro"], "rw", {"ro"}), (["rrw"], "ro", {"rw"})],
)
def test_a_path_that_changes_under_a_mount_leads_its_flags_to_no_other(
    on_host: OnHost, monkeypatch: pytest.MonkeyPatch, words: list[str], precious: str, expected: set[str]
) -> None:
    """CVE-2021-30465 and its like, after the mount itself: what was to be read-only is, and what was stays so."""

    def work(host: Host) -> None:
        shared, source = host.directory / "shared", host.directory / "source"
        for each in (shared, source, shared / "data"):
            each.mkdir()
        swap = swapper(shared, "/precious")
        put = mount_tree.move_mount

        def put_and_swap(mount: int, target: int) -> None:
            found = os.readlink(f"/proc/self/fd/{target}")
            put(mount, target)
            if found.endswith("/data"):
                swap()

        monkeypatch.setattr(apply_mounts, "move_mount", put_and_swap)
        root = host.container(
            tmpfs(precious, to="/precious"), bind(shared, to="/vol"), bind(source, *words, to="/vol/data")
        )
        root.build()
        assert precious in root.options("/precious")
        assert expected <= root.options("/vol/moved")

    on_host(work)


def test_a_link_that_comes_and_goes_leads_no_sysfs_elsewhere(on_host: OnHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2019-19921 and CVE-2023-27561: what has been seen to be no link is what the file system is put on."""

    def work(host: Host) -> None:
        shared = host.directory / "shared"
        for each in (shared, shared / "data", shared / "decoy"):
            each.mkdir()
        make = paths.make_directory_in_root

        def make_misled(root_fd: int, path: str, mode: int = 0o755) -> int:
            return make(root_fd, "/vol/decoy" if path == "/vol/data" else path, mode)  # there was a link just then

        monkeypatch.setattr(paths, "make_directory_in_root", make_misled)
        sysfs = {"destination": "/vol/data", "type": "sysfs", "source": "sysfs"}
        root = host.container(bind(shared, to="/vol"), sysfs)
        root.build()
        found = [each.mount_point for each in mounts.read_mountinfo("sysfs")]
        assert f"{host.rootfs}/vol/data" in found
        assert f"{host.rootfs}/vol/decoy" not in found

    on_host(work)
