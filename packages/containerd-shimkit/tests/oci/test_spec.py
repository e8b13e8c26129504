from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.oci import spec as oci
from containerd_shimkit.oci.attributes import IoPriority, Scheduler
from containerd_shimkit.oci.hooks import Hook
from containerd_shimkit.oci.resources import HugepageLimit, parse_resources
from containerd_shimkit.oci.spec import parse_spec, read_spec
from containerd_shimkit.oci.strict_json import MAX_SIZE
from hypothesis import given
from hypothesis import strategies as st

FULL: dict[str, Any] = {
    "ociVersion": "1.2.1",
    "unknown": {"deep": [1]},
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4]},
        "args": ["sh", "-c", "x y"],
        "env": ["A=b", "PATH=/bin"],
        "cwd": "/tmp",
        "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_CHOWN", "CAP_NEW"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}],
        "noNewPrivileges": True,
        "oomScoreAdj": -998,
        "apparmorProfile": "p",
        "selinuxLabel": "l",
        "scheduler": {"policy": "SCHED_OTHER"},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "h",
    "domainname": "d",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "ro"]},
        {
            "destination": "/data",
            "source": "/srv",
            "options": ["rbind"],
            "uidMappings": [{"containerID": 0, "hostID": 7, "size": 9}],
            "gidMappings": [],
        },
    ],
    "annotations": {"k": "v"},
    "hooks": {"prestart": [{"path": "/x"}], "poststop": None, "createRuntime": []},
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 5}],
        "devices": [
            {"path": "/dev/x", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 7},
            {"path": "/dev/p", "type": "p"},
        ],
        "cgroupsPath": "/default/c1",
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
                {"allow": True, "type": "b", "major": -1, "minor": -1, "access": "m"},
            ],
            "memory": {"limit": 1 << 20, "swap": -1, "kernelTCP": 3, "swappiness": 60, "disableOOMKiller": True},
            "cpu": {"shares": 1024, "quota": -1, "period": 100000, "cpus": "0-1", "mems": "0", "idle": 1},
            "pids": {"limit": 32},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "unified": {"memory.high": "1"},
        },
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "rootfsPropagation": "rslave",
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "netDevices": {"eth1": {}},
    },
}


def test_every_field_arrives_where_it_belongs() -> None:
    spec = parse_spec(json.dumps(FULL))
    assert spec.process == oci.Process(
        args=("sh", "-c", "x y"),
        cwd="/tmp",
        env=("A=b", "PATH=/bin"),
        user=oci.User(1, 2, 0o22, (3, 4)),
        terminal=True,
        console_size=(25, 80),
        capabilities=oci.Capabilities(bounding=("CAP_KILL",), ambient=("CAP_CHOWN", "CAP_NEW")),
        rlimits=(oci.Rlimit("RLIMIT_NOFILE", 10, (1 << 64) - 1),),
        no_new_privileges=True,
        oom_score_adj=-998,
        apparmor_profile="p",
        selinux_label="l",
        scheduler=Scheduler("SCHED_OTHER"),
        io_priority=IoPriority("IOPRIO_CLASS_IDLE"),
    )
    assert spec.mounts == (
        oci.Mount("/proc", "proc", "proc", ("nosuid", "ro")),
        oci.Mount("/data", "", "/srv", ("rbind",), uid_mappings=(oci.IdMapping(0, 7, 9),)),
    )
    assert (spec.oci_version, spec.hostname, spec.domainname, spec.root) == (
        "1.2.1",
        "h",
        "d",
        oci.Root("rootfs", True),
    )
    assert spec.hooks == {"prestart": (Hook("/x"),)}
    assert spec.annotations == {"k": "v"}
    assert spec.raw == FULL


def test_every_field_of_linux_arrives_where_it_belongs() -> None:
    resources = oci.Resources(
        devices=(
            oci.DeviceRule(False, "", None, None, "rwm"),
            oci.DeviceRule(True, "c", 1, 3, "rw"),
            oci.DeviceRule(True, "b", None, None, "m"),
        ),
        memory=oci.Memory(limit=1 << 20, swap=-1, kernel_tcp=3, swappiness=60, disable_oom_killer=True),
        cpu=oci.Cpu(shares=1024, quota=-1, period=100000, cpus="0-1", mems="0", idle=1),
        pids=oci.Pids(32),
        hugepage_limits=(HugepageLimit("2MB", 1),),
        unified=(("memory.high", "1"),),
    )
    assert parse_spec(json.dumps(FULL)).linux == oci.Linux(
        namespaces=(oci.LinuxNamespace("pid"), oci.LinuxNamespace("network", "/run/netns/x")),
        devices=(oci.Device("/dev/x", "c", 10, 229, 0o666, 0, 7), oci.Device("/dev/p", "p")),
        cgroups_path="/default/c1",
        resources=resources,
        sysctl={"net.ipv4.ip_forward": "1"},
        masked_paths=("/proc/kcore",),
        readonly_paths=("/proc/sys",),
        rootfs_propagation="rslave",
        uid_mappings=(oci.IdMapping(0, 1000, 5),),
        seccomp={"defaultAction": "SCMP_ACT_ALLOW"},
        net_devices={"eth1": "eth1"},
    )
    assert parse_resources(json.dumps(FULL["linux"]["resources"])) == resources


def test_the_least_spec_has_a_version_only() -> None:
    assert parse_spec('{"ociVersion": "1.0.2", "process": null, "mounts": null}') == oci.Spec(
        "1.0.2", raw={"ociVersion": "1.0.2", "process": None, "mounts": None}
    )


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["ociVersion"], None, "ociVersion is absent"),
        (["ociVersion"], "2.0.0", "ociVersion is '2.0.0'; it must be a version"),
        (["process"], [], "process is []; it must be an object"),
        (["process", "cwd"], "", "process.cwd is ''"),
        (["process", "args", 1], 5, "process.args[1] is 5"),
        (["process", "args", 1], "a\0b", "process.args[1] is 'a\\x00b'"),
        (["process", "user", "uid"], -1, "process.user.uid is -1"),
        (["process", "user", "additionalGids", 1], "x", "process.user.additionalGids[1] is 'x'"),
        (
            ["process", "user", "uid"],
            (1 << 32) - 1,
            "process.user.uid is 4294967295; it must be",
        ),  # no user, and no change
        (["process", "user", "gid"], (1 << 32) - 1, "process.user.gid is 4294967295; it must be"),
        (["process", "user", "additionalGids", 0], (1 << 32) - 1, "additionalGids[0] is 4294967295; it must be"),
        (["linux", "devices", 0, "uid"], (1 << 32) - 1, "linux.devices[0].uid is 4294967295; it must be"),
        (["process", "user", "umask"], 0o1000, "process.user.umask is 512"),
        (["process", "capabilities", "bounding"], "CAP_KILL", "process.capabilities.bounding is 'CAP_KILL'"),
        (["process", "rlimits", 0, "hard"], 1 << 64, "process.rlimits[0].hard is 18446744073709551616"),
        (["process", "rlimits", 0, "hard"], 9, "process.rlimits[0].soft is 10; it must be no more than hard, 9"),
        (["process", "rlimits", 0, "type"], None, "process.rlimits[0].type is absent"),
        (["process", "oomScoreAdj"], 1001, "process.oomScoreAdj is 1001; it must be an integer from -1000 to 1000"),
        (["root", "path"], None, "root.path is absent"),
        (["mounts", 1, "destination"], None, "mounts[1].destination is absent"),
        (["mounts", 0, "options"], {"ro": 1}, "mounts[0].options is {'ro': 1}"),
        (["annotations", "k"], 1, "annotations['k'] is 1"),
        (["hooks", "prestart"], {}, "hooks.prestart is {}"),
        (["linux", "namespaces", 1, "type"], "pid", "linux.namespaces[1].type is 'pid'; it must be another type"),
        (["linux", "uidMappings", 0, "size"], None, "linux.uidMappings[0].size is absent"),
        (["linux", "devices", 0, "major"], -1, "linux.devices[0].major is -1"),
        (["linux", "devices", 0, "type"], None, "linux.devices[0].type is absent"),
        (["linux", "resources", "devices", 0, "access"], "rwx", "linux.resources.devices[0].access is 'rwx'"),
        (["linux", "resources", "devices", 0, "type"], "u", "linux.resources.devices[0].type is 'u'"),
        (["linux", "resources", "devices", 1, "minor"], -2, "linux.resources.devices[1].minor is -2"),
        (["linux", "resources", "memory", "limit"], 1.5, "linux.resources.memory.limit is 1.5"),
        (["linux", "resources", "cpu", "shares"], -1, "linux.resources.cpu.shares is -1"),
        (["linux", "resources", "pids", "limit"], "max", "linux.resources.pids.limit is 'max'"),
        (["linux", "seccomp"], "x", "linux.seccomp is 'x'"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(path: list[str | int], value: object, says: str) -> None:
    broken = copy.deepcopy(FULL)
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InvalidArgumentError, match=r"^config\.json: ") as caught:
        parse_spec(json.dumps(broken))
    assert says in str(caught.value)


def test_a_resource_limit_may_stand_once_only() -> None:
    limit = {"type": "RLIMIT_CORE", "soft": 1, "hard": 1}
    with pytest.raises(InvalidArgumentError, match=r"process.rlimits\[1\].type is 'RLIMIT_CORE'; it must be another"):
        parse_spec(json.dumps({"ociVersion": "1.0.0", "process": {"cwd": "/", "rlimits": [limit, limit]}}))


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [*([path] if path else []), *(found for key, inner in items for found in places(inner, (*path, key)))]


@given(path=st.sampled_from(places(FULL)), value=hostile)
def test_whatever_stands_in_a_field_it_is_parsed_or_refused(path: tuple[str | int, ...], value: object) -> None:
    broken = copy.deepcopy(FULL)
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        parse_spec(json.dumps(broken))
        message = ""
    except InvalidArgumentError as error:
        message = str(error)
    assert len(message.encode()) < 1000


def test_a_bundle_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FULL))
    assert read_spec(str(tmp_path)) == parse_spec(json.dumps(FULL))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{tmp_path}/config.json cannot be read: No such file"):
        read_spec(str(tmp_path))


def test_errors_within_a_file_name_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match=f"^{tmp_path}/config.json: ociVersion is absent"):
        read_spec(str(tmp_path))


def test_a_fifo_in_the_place_of_the_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(InvalidArgumentError, match="is not a regular file"):
        read_spec(str(tmp_path))


def test_a_file_of_any_size_is_read_up_to_the_bound(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(10 * MAX_SIZE)
    with pytest.raises(InvalidArgumentError, match=f"at most {MAX_SIZE}"):
        read_spec(str(tmp_path))
