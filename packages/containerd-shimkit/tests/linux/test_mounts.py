from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnimplementedError,
)
from containerd_shimkit.instance import Mount
from containerd_shimkit.linux import mounts
from containerd_shimkit.linux.mounts import (
    MountInfo,
    mount,
    mount_rootfs,
    parse_mountinfo,
    pivot_root,
    read_mountinfo,
    shorten_lowerdirs,
    umount,
    unmount_tree,
)
from containerd_shimkit.oci import mount_options as ms
from hypothesis import given
from hypothesis import strategies as st

InNamespaces = Callable[[Callable[[], object]], None]

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue"


def test_a_line_of_mountinfo_has_its_fields() -> None:
    assert parse_mountinfo(LINE + "\n") == [
        MountInfo(
            36, 35, "98:0", "/mnt1", "/mnt2", "rw,noatime", ("shared:1", "master:2"), "ext3", "/dev/root",
            "rw,errors=continue",
        )
    ]  # fmt: skip


def test_the_kernels_escapes_are_undone() -> None:
    line = r"1 2 0:3 /a\040b /c\011d\012e\134f\134040 rw - fuse.x so\040urce rw"
    (found,) = parse_mountinfo(line)
    assert (found.root, found.mount_point, found.source) == ("/a b", "/c\td\ne\\f\\040", "so urce")


@given(st.binary(min_size=1).filter(lambda data: b"\0" not in data))
def test_any_path_comes_back(data: bytes) -> None:
    escaped = "".join(f"\\{byte:03o}" if byte in b" \t\n\\" else os.fsdecode(bytes((byte,))) for byte in data)
    (found,) = parse_mountinfo(f"1 2 0:3 / {escaped} rw - x y z")
    assert os.fsencode(found.mount_point) == data


@pytest.mark.parametrize("text", ["x", "1 2 0:3 / /x - a b c", "1 2 0:3 / /x rw a b c", "a 2 0:3 / /x rw - a b c"])
def test_what_is_no_mountinfo_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mountinfo|invalid literal"):
        parse_mountinfo(text)


def test_this_process_has_a_root() -> None:
    assert "/" in {each.mount_point for each in read_mountinfo()}


def test_mounts_of_one_type_are_those_of_that_type() -> None:
    every = read_mountinfo()
    for fstype in {each.fstype for each in every}:
        assert read_mountinfo(fstype) == [each for each in every if each.fstype == fstype]


@given(count=st.integers(1, 60), parent=st.sampled_from(["/var/lib/snapshots", "/x", ""]))
def test_lower_directories_are_shortened_and_mean_the_same(count: int, parent: str) -> None:
    lowers = [f"{parent}/{number * 7}/fs" for number in range(count)]
    options = ["index=off", f"lowerdir={':'.join(lowers)}", "upperdir=/u", "workdir=/w"]
    directory, words = shorten_lowerdirs(options)
    assert (words[0], *words[2:]) == ("index=off", "upperdir=/u", "workdir=/w")
    short = words[1].removeprefix("lowerdir=").split(":")
    assert [os.path.normpath(os.path.join(directory, each)) for each in short] == lowers
    assert not any(each.startswith("/") for each in short)


@pytest.mark.parametrize(
    "options", [["ro"], ["lowerdir=a:b"], ["lowerdir=/a::/b"], ["lowerdir=/a\\:b:/c"], ["lowerdir="]]
)
def test_lower_directories_that_cannot_be_shortened_stay(options: list[str]) -> None:
    assert shorten_lowerdirs(options) == ("", tuple(options))


def test_options_longer_than_the_kernel_reads_are_refused() -> None:
    with pytest.raises(OSError, match="mount: options of 4096 bytes; the kernel reads 4095: '/nowhere'") as caught:
        mount("x", "/nowhere", "tmpfs", 0, "x" * 4096)
    assert caught.value.errno == errno.E2BIG


def test_a_failed_call_names_what_was_to_be_done(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"mount: .*'none' -> '/does/not/exist'"):
        mount("none", "/does/not/exist", "tmpfs")
    with pytest.raises(OSError, match=r"umount: .*'/does/not/exist'"):
        umount("/does/not/exist")
    with pytest.raises(OSError, match=r"pivot_root: .*'/does/not/exist' -> '/neither'"):
        pivot_root("/does/not/exist", "/neither")


def mounted(path: Path) -> list[MountInfo]:
    return [m for m in read_mountinfo() if m.mount_point == str(path) or m.mount_point.startswith(f"{path}/")]


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    return tmp_path / "rootfs"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Layers to be mounted: `0` to `2`, each with a file of its own and one that the layer above hides."""
    for number in range(3):
        (tmp_path / "layers" / str(number)).mkdir(parents=True)
        (tmp_path / "layers" / str(number) / f"own{number}").write_text(str(number))
        (tmp_path / "layers" / str(number) / "shared").write_text(str(number))
    return tmp_path / "layers"


@pytest.mark.root
def test_the_new_root_is_pivoted_to(in_namespaces: InNamespaces, image: Path) -> None:
    def work() -> None:
        mount(str(image), str(image), "", ms.MS_BIND)
        os.chdir(image)
        pivot_root(".", ".")
        umount(".", mounts.MNT_DETACH)
        os.chdir("/")
        assert sorted(os.listdir("/")) == ["0", "1", "2"]

    in_namespaces(work)


@pytest.mark.root
def test_an_overlay_is_mounted_and_unmounted(in_namespaces: InNamespaces, rootfs: Path, image: Path) -> None:
    def work() -> None:
        (rootfs.parent / "upper").mkdir()
        (rootfs.parent / "work").mkdir()
        lower = f"lowerdir={image}/2:{image}/1:{image}/0"
        options = (f"workdir={rootfs.parent}/work", f"upperdir={rootfs.parent}/upper", lower)
        mount_rootfs([Mount("overlay", "overlay", "", options)], str(rootfs))
        assert (rootfs / "shared").read_text() == "2"
        (rootfs / "new").write_text("x")
        unmount_tree(str(rootfs))
        assert mounted(rootfs) == []
        assert (rootfs.parent / "upper" / "new").read_text() == "x"
        unmount_tree(str(rootfs))

    in_namespaces(work)


@pytest.mark.root
def test_an_overlay_of_more_layers_than_a_page_has_room_for(in_namespaces: InNamespaces, tmp_path: Path) -> None:
    def work() -> None:
        mount("tmpfs", str(tmp_path), "tmpfs")
        layers = tmp_path / ("long" * 20)
        for number in range(100):
            (layers / str(number)).mkdir(parents=True)
            (layers / str(number) / f"own{number}").touch()
        (tmp_path / "rootfs").mkdir()
        os.chdir("/usr")
        lowers = ":".join(f"{layers}/{number}" for number in range(100))
        mount_rootfs([Mount("overlay", "overlay", "", (f"lowerdir={lowers}",))], str(tmp_path / "rootfs"))
        assert len(os.listdir(tmp_path / "rootfs")) == 100
        assert os.getcwd() == "/usr"
        too_many = ":".join(f"{layers}/{'absent' * 3}{number}" for number in range(400))
        with pytest.raises(InvalidArgumentError, match=r"options of .* bytes; the kernel reads 4095"):
            mount_rootfs([Mount("overlay", "overlay", "", (f"lowerdir={too_many}",))], str(tmp_path / "rootfs"))
        assert os.getcwd() == "/usr"
        assert len(mounted(tmp_path / "rootfs")) == 1

    in_namespaces(work)


@pytest.mark.root
def test_a_read_only_bind_mount_keeps_the_flags_it_has(in_namespaces: InNamespaces, rootfs: Path, image: Path) -> None:
    def work() -> None:
        mount("tmpfs", str(image), "tmpfs", ms.MS_NOSUID | ms.MS_NODEV)
        mount_rootfs([Mount("bind", str(image), "", ("rbind", "ro"))], str(rootfs))
        assert {"ro", "nosuid", "nodev"} <= set(mounted(rootfs)[0].options.split(","))
        with pytest.raises(OSError, match="Read-only"):
            (rootfs / "x").touch()
        unmount_tree(str(rootfs))
        mount_rootfs([Mount("bind", str(image), "", ("rbind", "rw", "dev", "noexec", "rshared"))], str(rootfs))
        (found,) = mounted(rootfs)
        assert {"rw", "nosuid", "noexec"} <= set(found.options.split(","))
        assert "nodev" not in found.options
        assert found.optional[0].startswith("shared:")

    in_namespaces(work)


@pytest.mark.root
def test_a_mount_inside_is_resolved_inside(in_namespaces: InNamespaces, rootfs: Path, image: Path) -> None:
    def work() -> None:
        (image / "0" / "escape").symlink_to("/../../../../../../../../../../../../mnt")
        mount_rootfs(
            [
                Mount("bind", str(image / "0"), "", ("rbind",)),
                Mount("tmpfs", "tmpfs", "/escape/inside", ("size=64k", "nosuid")),
            ],
            str(rootfs),
        )
        assert [m.mount_point for m in mounted(rootfs)] == [str(rootfs), str(rootfs / "mnt" / "inside")]
        unmount_tree(str(rootfs))
        assert mounted(rootfs) == []

    in_namespaces(work)


@pytest.mark.root
def test_a_failure_undoes_what_was_done_and_nothing_else(
    in_namespaces: InNamespaces, rootfs: Path, image: Path
) -> None:
    def work() -> None:
        mount("tmpfs", str(rootfs), "tmpfs")
        before = mounted(rootfs)
        good = [Mount("bind", str(image), "", ("rbind",)), Mount("tmpfs", "tmpfs", "/0/deep", ())]
        bad = Mount("ext4", "/dev/none", "/1", ("ro",))
        with pytest.raises(
            InvalidArgumentError, match=r"cannot mount '/dev/none' \(ext4\) at '/1' for the root .*/rootfs"
        ):
            mount_rootfs([*good, bad], str(rootfs))
        assert mounted(rootfs) == before

    in_namespaces(work)


@pytest.mark.parametrize(
    ("wanted", "kind", "says"),
    [
        (
            Mount("bind", "/nowhere", "", ("rbind",)),
            InvalidArgumentError,
            "cannot mount '/nowhere' .bind.* No such file",
        ),
        (Mount("nofs", "x"), InvalidArgumentError, "cannot mount 'x' .nofs.* No such device"),
        (Mount("ext4", "/dev/x", "", ("loop",)), UnimplementedError, "the option 'loop', .* another snapshotter"),
        (
            Mount("ext4", "/dev/x", "", ("uidmap=0:1:2", "gidmap=0:1:2")),
            UnimplementedError,
            "the option 'uidmap=0:1:2', .* another snapshotter",
        ),
        (Mount("bind", "/a\0b", "", ("bind",)), InvalidArgumentError, "a NUL character"),
    ],
)
@pytest.mark.root
def test_what_cannot_be_mounted_is_named(
    in_namespaces: InNamespaces, rootfs: Path, wanted: Mount, kind: type[Exception], says: str
) -> None:
    def work() -> None:
        with pytest.raises(kind, match=says):
            mount_rootfs([wanted], str(rootfs))
        assert mounted(rootfs) == []

    in_namespaces(work)


@pytest.mark.root
def test_without_the_privilege_the_error_is_of_its_kind(in_namespaces: InNamespaces, rootfs: Path) -> None:
    def work() -> None:
        os.chmod(rootfs.parent, 0o755)
        os.chdir("/")
        os.setresuid(1000, 1000, 1000)
        with pytest.raises(PermissionDeniedError, match="cannot mount 'tmpfs'"):
            mount_rootfs([Mount("tmpfs", "tmpfs")], "/mnt")

    in_namespaces(work)


@pytest.mark.root
def test_every_mount_below_goes_also_those_that_others_hide(in_namespaces: InNamespaces, rootfs: Path) -> None:
    def work() -> None:
        for _ in range(2):
            mount("tmpfs", str(rootfs), "tmpfs")
            (rootfs / "a b").mkdir()
            mount("tmpfs", str(rootfs / "a b"), "tmpfs")
            mount("tmpfs", str(rootfs / "a b"), "tmpfs")
        (rootfs.parent / "rootfs2").mkdir()
        mount("tmpfs", str(rootfs.parent / "rootfs2"), "tmpfs")
        assert len(mounted(rootfs)) == 6
        unmount_tree(str(rootfs))
        assert mounted(rootfs) == []
        assert len(mounted(rootfs.parent / "rootfs2")) == 1

    in_namespaces(work)


@pytest.mark.root
def test_links_on_the_way_are_resolved_but_the_last_component_is_not(in_namespaces: InNamespaces, rootfs: Path) -> None:
    def work() -> None:
        (rootfs.parent / "way").symlink_to(rootfs.parent)
        (rootfs.parent / "last").symlink_to(rootfs)
        mount("tmpfs", str(rootfs), "tmpfs")
        unmount_tree(str(rootfs.parent / "last"))
        assert len(mounted(rootfs)) == 1
        unmount_tree(str(rootfs.parent / "way" / "rootfs"))
        assert mounted(rootfs) == []

    in_namespaces(work)


def test_where_nothing_is_mounted_nothing_is_done(tmp_path: Path) -> None:
    unmount_tree(str(tmp_path))
    unmount_tree(str(tmp_path / "missing" / "way"))


@pytest.mark.root
def test_what_stays_busy_is_an_error_or_detached_as_the_last_resort(
    in_namespaces: InNamespaces, rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "_BUSY_SECONDS", 0.05)

    def work() -> None:
        mount("tmpfs", str(rootfs), "tmpfs")
        os.chdir(rootfs)
        with pytest.raises(OSError, match=f"umount: .*busy: '{rootfs}'") as caught:
            unmount_tree(str(rootfs))
        assert caught.value.errno == errno.EBUSY
        assert len(mounted(rootfs)) == 1
        unmount_tree(str(rootfs), detach=True)
        assert mounted(rootfs) == []

    in_namespaces(work)


@pytest.mark.root
def test_what_is_busy_for_a_moment_is_waited_for(in_namespaces: InNamespaces, rootfs: Path) -> None:
    def work() -> None:
        mount("tmpfs", str(rootfs), "tmpfs")
        ready, is_ready = os.pipe()
        if os.fork() == 0:
            os.chdir(rootfs)
            os.write(is_ready, b"x")
            import time

            time.sleep(0.1)
            os._exit(0)
        os.read(ready, 1)
        unmount_tree(str(rootfs))
        assert mounted(rootfs) == []
        os.wait()

    in_namespaces(work)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes `mount.fuse3` a shell script of the given text, first on PATH."""

    def make(script: str) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "mount.fuse3").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "mount.fuse3").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin:/usr/sbin:/sbin")

    return make


FUSE = Mount("fuse3.fuse-overlayfs", "overlay", "", ("lowerdir=/a:/b", "ro"))


@pytest.mark.root
def test_a_fuse_file_system_is_mounted_by_its_program(
    in_namespaces: InNamespaces, rootfs: Path, helper: Callable[[str], None]
) -> None:
    # the daemon that it leaves behind keeps the standard streams open: nobody may wait for their end
    helper('mount -t tmpfs tmpfs "$2" && echo "$@" > "$2"/args && env > "$2"/env && (sleep 5 &)')

    def work() -> None:
        mount_rootfs([FUSE], str(rootfs))
        assert (rootfs / "args").read_text() == f"overlay {rootfs} -o lowerdir=/a:/b,ro -t fuse-overlayfs\n"
        names = {line.partition("=")[0] for line in (rootfs / "env").read_text().splitlines()}
        assert names <= {"PATH", "PWD", "SHLVL", "_", "OLDPWD"}

    in_namespaces(work)


@pytest.mark.root
def test_a_helper_that_fails_is_quoted(
    in_namespaces: InNamespaces, rootfs: Path, helper: Callable[[str], None]
) -> None:
    helper("echo the reason >&2; exit 3")

    def work() -> None:
        with pytest.raises(
            FailedPreconditionError, match=r"mount.fuse3 could not mount 'overlay' .*status 3: the reason"
        ):
            mount_rootfs([FUSE], str(rootfs))

    in_namespaces(work)


@pytest.mark.root
def test_a_helper_that_is_not_installed_is_named(
    in_namespaces: InNamespaces, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    def work() -> None:
        with pytest.raises(
            FailedPreconditionError, match=r"helper mount.fuse3 cannot be run: No such file .* install it"
        ):
            mount_rootfs([FUSE], str(rootfs))

    in_namespaces(work)
