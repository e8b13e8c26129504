"""What a hostile image or a hostile neighbour tries, in whole containers by the command line. See docs/security.md."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.linux.mounts import read_mountinfo
from harness.oci import PROGRAM, Bundle, lay_out

pytestmark = pytest.mark.root

_ADD_KEY = {"x86_64": 248, "aarch64": 217}
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_SESSION_KEYRING = -3
_JOIN_SESSION_KEYRING, _SETPERM = 1, 5


@pytest.fixture
def group() -> Iterator[str]:
    """The control group of a test's containers."""
    name = f"oci-{secrets.token_hex(4)}"
    yield name
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        parent = hierarchy / name
        if parent.is_dir():
            parent.rmdir()  # fails when a container's own is left in it


@pytest.fixture
def bundle(tmp_path: Path, group: str) -> Iterator[Bundle]:
    yield from _bundle(tmp_path, "bundle", group)


@pytest.fixture
def neighbour(tmp_path: Path, group: str) -> Iterator[Bundle]:
    """A container that runs beside the one under test."""
    yield from _bundle(tmp_path, "neighbour", group)


def _bundle(directory: Path, name: str, group: str) -> Iterator[Bundle]:
    if os.geteuid():
        pytest.skip("containers need root")
    made = lay_out(directory / name, directory / f"{name}-root", cgroups_path=f"/{group}/{name}")
    yield made
    made.end()
    assert not [each for each in read_mountinfo() if str(directory / name) in each.mount_point]


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A directory of the host's beside the bundles, which no container may reach."""
    directory = tmp_path / "hosts"
    directory.mkdir()
    (directory / "secret").write_text("the host's")
    (directory / "victim").write_text("the host's")
    os.chown(directory / "victim", 4242, 4242)
    return directory


def contents(directory: Path) -> dict[str, tuple[str, int, int]]:
    """Names, contents, modes and owners of the files in *directory*, none of which is a link."""
    found = {each.name: (each.read_text(), each.lstat().st_mode, each.lstat().st_uid) for each in directory.iterdir()}
    assert all(stat.S_ISREG(mode) for _text, mode, _uid in found.values()), found
    return found


def up_to(path: Path) -> str:
    """A link's text that leads from any depth of a root to the *path* of the host, if nothing holds it in."""
    return "../" * 24 + str(path).lstrip("/")


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "it did not come about in 20 s"
        time.sleep(0.02)


# Paths of the image


def test_links_of_the_image_lead_nothing_out_of_it(bundle: Bundle, hosts: Path, tmp_path: Path) -> None:
    """CVE-2019-18837, CVE-2021-30465, CVE-2024-45310: targets of mounts, what is masked, the working directory."""
    rootfs, volume = bundle.directory / "rootfs", tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("the volume's")
    before = contents(hosts)
    for name in ("absolute", "relative"):
        (rootfs / name).symlink_to(str(hosts) if name == "absolute" else up_to(hosts))

    def change(spec: dict[str, Any]) -> None:
        targets = ("/absolute/a", "/relative/b", "/absolute/deep/c")
        spec["mounts"] += [
            {"destination": each, "type": "bind", "source": str(volume), "options": ["rbind"]} for each in targets
        ]
        spec["mounts"] += [
            {"destination": "/relative/f", "type": "bind", "source": str(volume / "file"), "options": ["bind"]}
        ]
        spec["linux"]["maskedPaths"] += ["/absolute/secret", "/relative/secret"]
        spec["linux"]["readonlyPaths"] += ["/absolute/victim"]
        spec["linux"]["devices"] = [{"path": "/relative/null", "type": "c", "major": 1, "minor": 3}]
        spec["process"]["cwd"] = "/relative/cwd"

    bundle.change(change)
    done = bundle.run(
        "cat /absolute/a/file /relative/b/file /absolute/deep/c/file /relative/f; readlink /proc/self/cwd"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{'the volume' + chr(39) + 's'}" * 4 + f"{hosts}/cwd\n"
    assert contents(hosts) == before
    assert sorted(each.name for each in Path(f"{rootfs}{hosts}").iterdir()) == ["a", "b", "cwd", "deep", "f", "null"]


def test_links_in_the_place_of_dev_and_of_its_files_lead_nothing_out_of_it(bundle: Bundle, hosts: Path) -> None:
    """CVE-2026-41579, CVE-2026-47766, CVE-2026-88265, CVE-2025-31133: in an image /dev is a link, or /dev/null."""
    before, rootfs = contents(hosts), bundle.directory / "rootfs"
    bundle.change(
        lambda spec: spec.update(mounts=[each for each in spec["mounts"] if not each["destination"].startswith("/dev")])
    )
    bundle.change(lambda spec: spec["linux"].update(maskedPaths=["/masked"]))
    (rootfs / "masked").write_text("hidden")
    (rootfs / "dev").symlink_to(up_to(hosts))
    done = bundle.run("cat /masked; ls /dev/; echo x >/dev/null")
    assert (done.returncode, done.stderr) == (0, "")
    assert "null" in done.stdout.split()
    assert "hidden" not in done.stdout
    assert contents(hosts) == before
    (rootfs / "dev").unlink()
    (rootfs / "dev").mkdir()
    for name in ("null", "ptmx", "stdin", "console"):
        (rootfs / "dev" / name).symlink_to(up_to(hosts / "victim"))
    done = bundle.run("cat /masked; test -c /dev/null && test -c /masked && echo x >/dev/null; echo $?")
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert contents(hosts) == before


@pytest.mark.parametrize("way", ["the path itself", "a link of the image"])
def test_no_descriptor_of_the_maker_can_be_the_working_directory(bundle: Bundle, hosts: Path, way: str) -> None:
    """CVE-2024-21626: whatever is open while a container is made, of the maker's own or of its caller's."""
    descriptor = os.open(hosts, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in (*range(3, 12), descriptor):
            cwd, link = f"/proc/self/fd/{number}", bundle.directory / "rootfs" / f"link-{number}"
            if way != "the path itself":
                link.symlink_to(cwd)
                cwd = f"/{link.name}"
            bundle.change(lambda spec, cwd=cwd: spec["process"].update(cwd=cwd))  # type: ignore[misc]
            done = bundle.run("ls -a; cat secret ../../secret", pass_fds=(descriptor,))
            assert done.returncode != 0, (number, done.stdout)
            assert "the host's" not in done.stdout
            assert "cannot set the container up" in done.stderr
    finally:
        os.close(descriptor)


def test_a_masked_path_can_be_uncovered_by_no_link(bundle: Bundle) -> None:
    """CVE-2019-16884, CVE-2023-28642, CVE-2025-54867: /proc and /sys as links, and volumes in their place."""
    rootfs = bundle.directory / "rootfs"
    (rootfs / "elsewhere").mkdir()
    for name in ("proc", "sys"):
        (rootfs / name).symlink_to("elsewhere")
        done = bundle.run("true")
        assert done.returncode == 1
        assert f"'/{name}'" in done.stderr
        (rootfs / name).unlink()
    options = {"type": "bind", "source": str(rootfs / "elsewhere"), "options": ["rbind"]}
    bundle.change(lambda spec: spec["mounts"].append({"destination": "/proc", **options}))
    assert "only /proc itself may be mounted" in bundle.run("true").stderr
    (rootfs / "way").symlink_to("proc/self/attr")
    bundle.change(lambda spec: spec["mounts"][-1].update(destination="/way"))
    assert "leads to /proc" in bundle.run("true").stderr


# What a container's processes have


def test_a_program_has_no_descriptor_key_group_or_capability_of_its_makers(bundle: Bundle, hosts: Path) -> None:
    """CVE-2016-9962, CVE-2022-24769, CVE-2022-29162: all of it as the program itself sees it."""
    inherited = os.open(hosts, os.O_RDONLY | os.O_DIRECTORY)

    def prepare() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(ctypes.c_long(_KEYCTL[platform.machine()]), _JOIN_SESSION_KEYRING, None)
        key = (ctypes.c_char_p(b"user"), ctypes.c_char_p(b"makers-key"), ctypes.c_char_p(b"s"), ctypes.c_size_t(1))
        serial = libc.syscall(ctypes.c_long(_ADD_KEY[platform.machine()]), *key, ctypes.c_int(_SESSION_KEYRING))
        only_possessors = (ctypes.c_long(_SETPERM), ctypes.c_int(serial), ctypes.c_uint(0x3F000000))
        libc.syscall(ctypes.c_long(_KEYCTL[platform.machine()]), *only_possessors)  # who else has its user sees no name
        os.setgroups([0, 4242])

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["maskedPaths"] = []
        del spec["process"]["user"]["additionalGids"]

    script = "ls /proc/self/fd; cat /proc/keys; grep -E '^(Groups|CapInh|CapAmb|NoNewPrivs)' /proc/self/status"
    try:
        bundle.change(change)
        done = bundle.run(script, pass_fds=(inherited,), preexec_fn=prepare)
        kept = bundle.run(script, "--no-new-keyring", preexec_fn=prepare)
    finally:
        os.close(inherited)
    assert done.returncode == 0, done.stderr
    descriptors, others = done.stdout.split()[:4], done.stdout
    assert descriptors == ["0", "1", "2", "3"], "3 is the directory that ls lists"
    assert "makers-key" not in others
    if "makers-key" not in kept.stdout:
        pytest.skip("this kernel has no keyrings, or shows none")
    values = dict(line.split(":", 1) for line in others.splitlines() if line.split(":")[0] in _CLEAN)
    assert {name: value.strip() for name, value in values.items()} == _CLEAN


_CLEAN = {
    "Groups": "",
    "CapInh": "0000000000000000",
    "CapAmb": "0000000000000000",
    "NoNewPrivs": "1",
}


def test_a_user_is_a_number_whatever_the_image_says(bundle: Bundle) -> None:
    """CVE-2016-3697 and CVE-2026-30892: a passwd file in which the name `1000` is root."""
    etc = bundle.directory / "rootfs" / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("1000:x:0:0::/:/bin/sh\n")
    (etc / "group").write_text("1001:x:0:1000\n")
    bundle.change(lambda spec: spec["process"].update(user={"uid": 1000, "gid": 1001}))
    done = bundle.run("grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/self/status")
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert {name: value.split() for name, value in lines.items()} == {
        "Uid": ["1000"] * 4,
        "Gid": ["1001"] * 4,
        "Groups": [],
        "CapPrm": ["0" * 16],
        "CapEff": ["0" * 16],
    }


@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("number", [(1 << 32) - 1, 1 << 32, -1, "0"])
def test_a_number_that_is_no_users_is_refused(bundle: Bundle, field: str, number: object) -> None:
    """CVE-2024-40635: a number that the kernel, or an integer of 32 bits, takes for another is not run as root."""
    bundle.change(lambda spec: spec["process"].update(user={"uid": 1000, "gid": 1000, field: number}))
    done = bundle.run("id")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"process.user.{field} is {number!r}" in done.stderr


@pytest.mark.parametrize("number", [(1 << 31) - 1, 1 << 31, (1 << 32) - 2])
def test_the_highest_users_are_themselves(bundle: Bundle, number: int) -> None:
    bundle.change(lambda spec: spec["process"].update(user={"uid": number, "gid": number, "additionalGids": [number]}))
    done = bundle.run("grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status")
    assert set(done.stdout.split()) == {"Uid:", "Gid:", "Groups:", str(number), "CapEff:", "0" * 16}


def test_what_the_tools_write_asks_for_no_inheritable_capabilities(tmp_path: Path) -> None:
    """CVE-2022-29162: neither for root nor for others."""
    for rootless in ((), ("--rootless",)):
        directory = tmp_path / f"bundle{len(rootless)}"
        directory.mkdir()
        subprocess.run([PROGRAM, "spec", *rootless, "--bundle", str(directory)], check=True)
        spec = json.loads((directory / "config.json").read_text())
        assert not spec["process"]["capabilities"].get("inheritable")
        assert spec["process"]["noNewPrivileges"] is True


# Neighbours


_LOOK = """
while :; do
    if test -e /go; then
        rm /go
        for each in /proc/[0-9]*; do
            test $each = /proc/1 && continue
            for file in exe cwd root fd/0; do readlink $each/$file >/dev/null && echo $file; done
            for file in environ maps auxv; do cat $each/$file >/dev/null && echo $file; done
        done >/seen.new 2>/dev/null
        busybox mv /seen.new /seen
    fi
    busybox usleep 20000
done
"""


def looked_into(neighbour: Bundle) -> set[str]:
    """What the neighbour can see of other processes in its pid namespace; its own shell's children excepted."""
    rootfs = neighbour.directory / "rootfs"
    (rootfs / "seen").unlink(missing_ok=True)
    (rootfs / "go").touch()
    wait_for((rootfs / "seen").exists)
    return set((rootfs / "seen").read_text().split())


def test_an_init_that_waits_cannot_be_looked_into_by_a_neighbour(
    bundle: Bundle, neighbour: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2016-9962, CVE-2019-5736: in one pid namespace, as the same user, before the init is its program."""
    monkeypatch.setenv("OF_THE_MAKER", "hushed")
    neighbour.change(lambda spec: spec["process"].update(args=["sh", "-c", _LOOK]))
    other = neighbour.create()
    neighbour.call("start", other)
    pid = neighbour.state(other)["pid"]

    def share(spec: dict[str, Any]) -> None:
        kinds = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]
        spec["linux"]["namespaces"] = [*kinds, {"type": "pid", "path": f"/proc/{pid}/ns/pid"}]
        spec["process"].update(env=["PATH=/bin", "OF_THE_SPEC=told"])

    bundle.change(share)
    assert looked_into(neighbour) == set()
    id = bundle.create()  # noqa: A001
    init = bundle.state(id)["pid"]
    environment = Path(f"/proc/{init}/environ")
    assert environment.read_bytes().strip(b"\0") == b"", "not even the host's root is shown the maker's"
    assert looked_into(neighbour) == set()
    bundle.call("start", id)
    wait_for(lambda: b"OF_THE_SPEC=told" in environment.read_bytes())
    assert looked_into(neighbour) >= {"exe", "environ", "maps"}, "the neighbour does look"
    assert b"OF_THE_MAKER" not in environment.read_bytes()


# Code


_LOUD = "open('/pwned', 'w').close(); raise SystemExit(99)\n"


def fill_with_modules(rootfs: Path) -> None:
    """Put a module of every name that could be imported, and libraries, where this program's own are on the host."""
    places = [Path(place) for place in sys.path if place and not place.endswith(".zip")]
    names = {name.partition(".")[0] for name in (*sys.modules, *sys.stdlib_module_names, "containerd_shimkit")}
    for place in (Path("/"), *places):
        inside = rootfs / str(place).lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (inside / name).exists():
                (inside / f"{name}.py").write_text(_LOUD)
    for library in ("libnss_files.so.2", "libnss_evil.so.2", "libgcc_s.so.1"):
        for directory in ("lib/x86_64-linux-gnu", "usr/lib"):
            (rootfs / directory).mkdir(parents=True, exist_ok=True)
            (rootfs / directory / library).write_bytes(b"\x7fELF")
    (rootfs / "etc").mkdir(exist_ok=True)
    (rootfs / "etc" / "nsswitch.conf").write_text("passwd: evil\ngroup: evil\nhosts: evil\n")


def test_an_image_full_of_this_programs_modules_changes_nothing(bundle: Bundle) -> None:
    """CVE-2019-14271 and its like: also when something goes wrong after the pivot, and has to be told."""
    rootfs = bundle.directory / "rootfs"
    fill_with_modules(rootfs)
    assert bundle.run("echo fine").stdout == "fine\n"
    bundle.change(lambda spec: spec["process"].update(args=["sleep", "1000"]))
    id = bundle.create()  # noqa: A001
    bundle.call("start", id)
    assert bundle.call("exec", id, "echo", "fine").stdout == "fine\n"
    bundle.call("delete", "--force", id)
    (rootfs / "bin" / "script").write_text("#!/nowhere\n")
    (rootfs / "bin" / "script").chmod(0o755)
    bundle.change(lambda spec: spec["process"].update(args=["script"]))
    failed = bundle.call("run", bundle.new_id(), check=False)
    assert (failed.returncode, "its ELF or #! interpreter is missing" in failed.stderr) == (1, True)
    assert not (rootfs / "pwned").exists()


_IMPORTING = """
import sys
from containerd_shimkit.container import executor
from containerd_shimkit.runtime.main import main

def run(self, line):
    import antigravity
    raise AssertionError("it has been imported")

executor.LinuxExecutor.run = run
main(sys.argv[1:])
"""


@pytest.mark.parametrize("by", ["run", "exec"])
def test_an_import_after_the_pivot_finds_nothing(bundle: Bundle, by: str) -> None:
    fill_with_modules(bundle.directory / "rootfs")
    words = ["run", bundle.new_id()]
    if by == "exec":
        id = bundle.create()  # noqa: A001
        bundle.call("start", id)
        words = ["exec", id, "true"]
    command = [sys.executable, "-c", _IMPORTING, "--root", str(bundle.root), *words]
    done = subprocess.run(command, cwd=bundle.directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "imports are closed in a shim, so antigravity cannot be imported now" in done.stderr
    assert not (bundle.directory / "rootfs" / "pwned").exists()


# What is kept of a container


@pytest.mark.parametrize("id", ["..", ".", "../x", "/etc", "a/b", ".hidden", "a\n", "", "x" * 1025])
def test_ids_that_are_paths_are_refused_by_every_command(bundle: Bundle, id: str) -> None:  # noqa: A002
    (bundle.directory.parent / "x").mkdir()
    (bundle.directory.parent / "x" / "record.json").write_text("{}")
    for command in (("create",), ("run",), ("start",), ("state",), ("kill",), ("delete", "--force"), ("ps",)):
        done = bundle.call(*command, id, check=False)
        assert done.returncode == 1, command
        assert "cannot be a container's name" in done.stderr
    assert not bundle.root.exists() or os.listdir(bundle.root) == []
    assert (bundle.directory.parent / "x" / "record.json").exists()


def test_what_is_kept_of_a_container_is_for_its_owner_alone(bundle: Bundle) -> None:
    bundle.root.mkdir(mode=0o755)  # as others may have made it
    bundle.change(lambda spec: spec["process"].update(env=["PATH=/bin", "PASSWORD=hushed"]))
    id = bundle.create(preexec_fn=lambda: os.umask(0))  # noqa: A001
    kept = list((bundle.root / id).iterdir())
    assert {each.name for each in kept} >= {"config.json", "record.json", "shim-state.json"}
    assert {each.name: oct(each.lstat().st_mode & 0o777) for each in kept if each.lstat().st_mode & 0o077} == {}


@pytest.mark.parametrize("path", ["/../../outside", "/a/../../../tmp/outside", "..", "/", "a:b:../../c"])
def test_a_cgroup_is_never_outside_of_the_cgroups(bundle: Bundle, path: str) -> None:
    bundle.change(lambda spec: spec["linux"].update(cgroupsPath=path))
    refused = bundle.call("create", bundle.new_id(), check=False)
    assert refused.returncode == 1
    assert "linux.cgroupsPath" in refused.stderr or "systemd" in refused.stderr
    assert not bundle.root.exists() or os.listdir(bundle.root) == []
