"""Plans of containers in user namespaces."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest
from containerd_shimkit import FailedPreconditionError, InvalidArgumentError
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import Plan, plan_container
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec

WHOLE = [{"containerID": 0, "hostID": 100000, "size": 65536}]
MAPPED = {"uidMappings": WHOLE, "gidMappings": WHOLE}
RANGES = ((0, 100000, 65536),)


def plan_of(
    *extra: dict[str, str], linux: dict[str, Any] | None = None, process: dict[str, Any] | None = None, **top: Any
) -> Plan:
    document = default_spec(["/app"], cgroups_path="/pod/c1")
    document["linux"]["namespaces"] += extra
    document["linux"] |= MAPPED if linux is None else linux
    document["process"] |= process or {}
    return plan_container(parse_spec(json.dumps(document | top)), "/bundle")


NEW = {"type": "user"}


def test_the_hosts_root_does_what_is_its_own_first() -> None:
    plan = plan_of(NEW, {"type": "cgroup"}, {"type": "time"}, process={"oomScoreAdj": -5, "user": {"uid": 7, "gid": 8}})
    assert [type(step) for step in plan.host[:2]] == [op.SetOomScoreAdj, op.JoinCgroup]
    assert plan.host[2:] == (
        op.RaiseRlimit("RLIMIT_NOFILE", 1024),
        op.GiveStreams(100007),
        op.EnterUserNamespace("", True, RANGES, RANGES),
        op.Unshare(("mount",)),
        op.NewTimeNamespace(""),
    )
    assert (plan.user_namespace, plan.pid_namespace) == (True, "")


def test_what_is_made_later_belongs_to_the_root_inside() -> None:
    plan = plan_of(NEW, {"type": "cgroup"}, mounts=[{"destination": "/x", "type": "bind", "source": "/srv"}])
    devices = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
    assert plan.root[1:6] == (
        op.OpenSources(("/srv", *devices)),
        op.BecomeRoot(),
        op.Unshare(("ipc", "uts", "network", "cgroup")),
        op.BringLoopbackUp(),
        op.BindMount("/srv", "/x"),
    )
    assert plan.root[6] == op.BindDevice("/dev/null", "/dev/null", stat.S_IFCHR, 1, 3)
    assert op.DeviceNode not in map(type, plan.root)


def test_a_fifo_is_made_all_the_same() -> None:
    plan = plan_of(NEW, linux={**MAPPED, "devices": [{"path": "/dev/pipe", "type": "p"}]})
    assert op.DeviceNode("/dev/pipe", stat.S_IFIFO | 0o666, 0, 0, 0, 0) in plan.root


def test_existing_namespaces_are_joined_as_the_hosts_root() -> None:
    namespaces = [
        {"type": "mount"},
        {"type": "pid", "path": "/proc/1/ns/pid"},
        {"type": "user", "path": "/proc/1/ns/user"},
        {"type": "network", "path": "/proc/1/ns/net"},
    ]
    plan = plan_of(linux={"namespaces": namespaces})
    assert plan.host[2:] == (
        op.JoinNamespace("network", "/proc/1/ns/net"),
        op.EnterUserNamespace("/proc/1/ns/user", False, (), ()),
        op.Unshare(("mount",)),
    )
    assert plan.host[1] == op.RaiseRlimit("RLIMIT_NOFILE", 1024)
    assert plan.root[2:4] == (op.BecomeRoot(), op.FilesystemMount("proc", "proc", "/proc", 14))
    assert plan.pid_namespace == "/proc/1/ns/pid"


def test_without_one_nothing_of_it_is_planned() -> None:
    plan = plan_of(linux={})
    kinds = {type(step) for group in (plan.host, plan.root, plan.seal, plan.process) for step in group}
    assert not kinds & {op.RaiseRlimit, op.GiveStreams, op.EnterUserNamespace, op.OpenSources, op.BecomeRoot}
    assert plan.user_namespace is False


def ranges(*triples: tuple[int, int, int]) -> list[dict[str, int]]:
    return [dict(zip(("containerID", "hostID", "size"), each, strict=True)) for each in triples]


@pytest.mark.parametrize(
    ("namespaces", "linux", "process", "words"),
    [
        ([], MAPPED, {}, r"linux\.uidMappings is set, but linux\.namespaces has no `user`"),
        ([NEW], {"uidMappings": WHOLE}, {}, r"linux\.gidMappings is absent, but linux\.namespaces has a new `user`"),
        (
            [NEW],
            {**MAPPED, "uidMappings": ranges((1, 5, 9))},
            {},
            r"process\.user\.uid needs the id 0",
        ),
        (
            [NEW],
            MAPPED,
            {"user": {"uid": 65536, "gid": 0}},
            r"process\.user\.uid needs the id 65536, which linux",
        ),
        (
            [NEW],
            MAPPED,
            {"user": {"uid": 0, "gid": 70000}},
            r"process\.user\.gid needs the id 70000, which linux",
        ),
        (
            [NEW],
            MAPPED,
            {"user": {"uid": 0, "gid": 0, "additionalGids": [1, 70001]}},
            r"process\.user\.additionalGids needs the id 70001",
        ),
        ([NEW], {**MAPPED, "uidMappings": ranges((0, 1, 0))}, {}, r"linux\.uidMappings has a range of 0 ids"),
        ([NEW], {**MAPPED, "gidMappings": ranges((0, (1 << 32) - 1, 2))}, {}, r"hostID 4294967295; .* below 2\^32"),
        ([NEW], {**MAPPED, "uidMappings": ranges((0, 1, 9), (8, 50, 9))}, {}, "ranges that overlap at containerID 8"),
        ([NEW], {**MAPPED, "uidMappings": ranges((0, 1, 9), (9, 5, 9))}, {}, "ranges that overlap at hostID 5"),
        (
            [NEW],
            {**MAPPED, "uidMappings": ranges(*((i, i, 1) for i in range(341)))},
            {},
            "341 ranges; the kernel takes 340",
        ),
    ],
)
def test_mappings_that_cannot_be_are_named(
    namespaces: list[dict[str, str]], linux: dict[str, Any], process: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        plan_of(*namespaces, linux=linux, process=process)


def test_whoever_joins_need_not_know_the_mappings() -> None:
    path = {"type": "user", "path": "/proc/1/ns/user"}
    plan_of(path, linux={}, process={"user": {"uid": 5, "gid": 6}})
    with pytest.raises(InvalidArgumentError, match=r"process\.user\.uid needs the id 70000"):
        plan_of(path, process={"user": {"uid": 70000, "gid": 6}})


OWN = {kind: [{"containerID": 0, "hostID": 1000, "size": 1}] for kind in ("uidMappings", "gidMappings")}


def ordinary(*namespaces: dict[str, str], user: int = 1000, linux: dict[str, Any] | None = None) -> Plan:
    document = default_spec(["/app"])
    document["linux"] |= {"namespaces": list(namespaces), "maskedPaths": [], **(OWN if linux is None else linux)}
    return plan_container(parse_spec(json.dumps(document)), "/bundle", user=user, is_hosts_root=False)


def test_an_ordinary_user_enters_the_user_namespace_before_all_others() -> None:
    joined = {"type": "network", "path": "/run/net"}
    plan = ordinary({"type": "user", "path": "/run/user"}, joined, {"type": "pid"}, {"type": "mount"}, linux={})
    entering = [step for step in plan.host if isinstance(step, op.EnterUserNamespace | op.JoinNamespace)]
    assert entering == [op.EnterUserNamespace("/run/user", True, (), ()), op.JoinNamespace("network", "/run/net")]


@pytest.mark.parametrize(
    ("namespaces", "message"),
    [
        (({"type": "pid"}, {"type": "mount"}), "linux.namespaces has no `user`, but user 1000 is not root"),
        (
            ({"type": "user"}, {"type": "mount"}, {"type": "pid", "path": "/p"}),
            "linux.namespaces: pid is to be joined at '/p', which only root can",
        ),
    ],
)
def test_what_an_ordinary_user_cannot_enter_is_refused(namespaces: tuple[dict[str, str], ...], message: str) -> None:
    linux = OWN if {"type": "user"} in namespaces else {}
    with pytest.raises(FailedPreconditionError, match=message):
        ordinary(*namespaces, linux=linux)


def test_the_root_of_a_user_namespace_makes_the_pid_namespace_in_the_init_and_binds_devices() -> None:
    plan = ordinary({"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, user=0, linux={})
    assert plan.renews_pid
    assert plan.host[1:] == (op.NewPidNamespace(), op.Unshare(("mount", "ipc")))
    devices = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
    assert plan.root[1] == op.OpenSources(devices)
    assert op.BecomeRoot() not in plan.root
    assert op.DeviceNode not in map(type, plan.root)


def test_the_hosts_root_pays_for_none_of_this() -> None:
    plan = plan_container(parse_spec(json.dumps(default_spec(["/app"]))), "/bundle")
    assert not plan.renews_pid
    kinds = set(map(type, (*plan.host, *plan.root)))
    assert kinds.isdisjoint((op.NewPidNamespace, op.OpenSources, op.BindDevice, op.EnterUserNamespace))
