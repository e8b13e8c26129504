from __future__ import annotations

import copy
import json
import stat
from collections.abc import Callable
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, ShimError, UnimplementedError
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import Plan, plan_container
from containerd_shimkit.oci import mount_options as ms
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec

Change = Callable[[dict[str, Any]], object]


def plan_of(*changes: Change) -> Plan:
    spec = copy.deepcopy(default_spec(["/app"], cgroups_path="/pod/c1"))
    for change in changes:
        change(spec)
    return plan_container(parse_spec(json.dumps(spec)), "/bundle")


def put(path: str, value: object) -> Change:
    def change(spec: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            spec = spec.setdefault(name, {})
        spec[last] = value

    return change


def mounts(*entries: dict[str, Any]) -> Change:
    return put("mounts", list(entries))


def test_the_default_specs_host_steps_join_the_cgroup_before_any_namespace() -> None:
    plan = plan_of()
    assert [type(step) for step in plan.host] == [op.JoinCgroup, op.Unshare, op.BringLoopbackUp]
    assert plan.host[1] == op.Unshare(("mount", "ipc", "uts", "network"))
    assert plan.pid_namespace == ""
    assert plan.rootfs == "/bundle/rootfs"


def test_the_root_is_built_from_mounts_then_devices_then_links() -> None:
    plan = plan_of()
    kinds = [type(step) for step in plan.root]
    assert kinds == [op.PrepareRoot, *[op.FilesystemMount] * 7, *[op.DeviceNode] * 6, *[op.SymbolicLink] * 5]
    assert plan.root[1] == op.FilesystemMount("proc", "proc", "/proc", ms.MS_NOSUID | ms.MS_NOEXEC | ms.MS_NODEV)
    assert op.DeviceNode("/dev/null", stat.S_IFCHR | 0o666, 1, 3, 0, 0) in plan.root
    assert op.SymbolicLink("/dev/ptmx", "pts/ptmx") in plan.root


def test_terminals_are_of_the_containers_own_devpts_though_the_hosts_multiplexer_is_asked_for() -> None:
    devices = [{"path": path, "type": "c", "major": 5, "minor": 2} for path in ("/dev/ptmx", "//dev/./ptmx", "/dev/x")]
    plan = plan_of(put("linux.devices", devices))
    assert [step.path for step in plan.root if isinstance(step, op.DeviceNode)][-1:] == ["/dev/x"]
    assert not [step for step in plan.root if isinstance(step, op.DeviceNode) and "ptmx" in step.path]
    assert op.SymbolicLink("/dev/ptmx", "pts/ptmx") in plan.root


def test_the_root_is_sealed_before_the_pivot_and_left_by_nothing_after_it() -> None:
    plan = plan_of(put("root.readonly", True))
    kinds = [type(step) for step in plan.seal]
    assert kinds[0] is op.MakeDirectory
    assert kinds[-2:] == [op.ReadonlyRoot, op.PivotRoot]
    assert op.MaskPath("/proc/kcore") in plan.seal
    assert op.ReadonlyPath("/proc/sys") in plan.seal


def test_the_files_that_lxcfs_gives_may_cover_those_of_proc() -> None:
    bind = {"destination": "/proc/meminfo", "type": "bind", "source": "/var/lib/lxcfs/meminfo", "options": ["bind"]}
    assert plan_of(mounts(bind)).root[1] == op.BindMount("/var/lib/lxcfs/meminfo", "/proc/meminfo")


def test_the_default_devices_are_allowed_behind_the_specs_own_rules() -> None:
    plan = plan_of(put("linux.resources.devices", [{"allow": False, "access": "rwm"}]))
    joined = plan.host[0]
    assert isinstance(joined, op.JoinCgroup)
    assert joined.resources is not None
    first, *rest = joined.resources.devices
    assert not first.allow
    assert all(rule.allow for rule in rest)
    assert {(rule.major, rule.minor) for rule in rest} >= {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
    without = plan_of(put("linux.resources", {"pids": {"limit": 5}})).host[0]
    assert isinstance(without, op.JoinCgroup)
    assert without.resources is not None
    assert without.resources.devices == tuple(rest), "without rules of its own a container has these alone"


def test_existing_namespaces_are_joined_and_new_ones_made() -> None:
    namespaces = [
        {"type": "pid", "path": "/proc/1/ns/pid"},
        {"type": "network", "path": "/var/run/netns/x"},
        {"type": "mount"},
        {"type": "cgroup"},
    ]
    plan = plan_of(put("linux.namespaces", namespaces))
    assert plan.pid_namespace == "/proc/1/ns/pid"
    assert plan.host[1:] == (op.JoinNamespace("network", "/var/run/netns/x"), op.Unshare(("mount", "cgroup")))


def test_without_a_pid_namespace_the_shims_own_is_used() -> None:
    assert plan_of(put("linux.namespaces", [{"type": "mount"}])).pid_namespace is None


def test_a_dev_of_the_hosts_is_not_written_to() -> None:
    bind = {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}
    plan = plan_of(mounts(bind))
    assert not [step for step in plan.root if isinstance(step, (op.DeviceNode, op.SymbolicLink))]
    with pytest.raises(InvalidArgumentError, match=r"linux\.devices"):
        plan_of(mounts(bind), put("linux.devices", [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]))


def test_sysctls_are_written_by_namespace() -> None:
    sysctl = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "5", "net/ipv4/conf/eth0.1/forwarding": "0"}
    plan = plan_of(put("linux.sysctl", sysctl))
    assert [step for step in plan.root if isinstance(step, op.SetSysctl)] == [
        op.SetSysctl("net/ipv4/ip_forward", "1", "network"),
        op.SetSysctl("kernel/shmmax", "5", "ipc"),
        op.SetSysctl("net/ipv4/conf/eth0.1/forwarding", "0", "network"),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("process", None), "no `process`"),
        (put("process.args", []), "process.args is empty"),
        (put("process.cwd", "relative"), "process.cwd"),
        (put("linux", None), "no `linux` section"),
        (put("linux.namespaces", [{"type": "pid"}]), "no `mount`"),
        (put("linux.namespaces", [{"type": "mount"}, {"type": "chess"}]), "chess"),
        (put("linux.namespaces", [{"type": "mount"}, {"type": "network", "path": "rel"}]), "not absolute"),
        (put("linux.sysctl", {"kernel.panic": "1"}), "kernel.panic"),
        (put("linux.sysctl", {"net..x": "1"}), "malformed"),
        (put("linux.sysctl", {"net/../kernel/panic": "1"}), "malformed"),
        (put("linux.devices", [{"path": "/dev/x", "type": "z"}]), r"linux.devices\[0\].type"),
        (mounts({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}), "in /proc"),
        (mounts({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}), "in /proc"),
        (mounts({"destination": "/x/../proc/1", "type": "bind", "source": "/x", "options": ["bind"]}), "in /proc"),
        (mounts({"destination": "/", "type": "tmpfs", "source": "tmpfs"}), "root file system stands there"),
    ],
)
def test_what_can_never_be_right_is_named(change: Change, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        plan_of(change)


def test_a_host_setting_needs_its_namespace() -> None:
    only_mount = put("linux.namespaces", [{"type": "mount"}])
    for change in (put("linux.sysctl", {"net.ipv4.ip_forward": "1"}), put("hostname", "x")):
        with pytest.raises(InvalidArgumentError, match=r"network|uts"):
            plan_of(only_mount, change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("linux.intelRdt", {"closID": "x"}),
    ],
)
def test_what_this_version_cannot_do_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UnimplementedError) as caught:
        plan_of(put(field, value))
    assert f"config.json: {field}" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("linux.namespaces", [{"type": "mount", "path": "/ns/mnt"}, {"type": "user"}]), "linux.namespaces: mount"),
    ],
)
def test_so_are_namespaces_and_mounts(change: Change, words: str) -> None:
    with pytest.raises(UnimplementedError, match=words):
        plan_of(change)


def test_empty_hooks_ask_for_nothing() -> None:
    assert plan_of(put("hooks", {"prestart": [], "poststop": None})) == plan_of()


def test_hooks_come_when_the_root_is_complete_and_when_the_program_is_to_run() -> None:
    each = [{"path": "/bin/hook", "args": ["hook", "-x"], "env": ["A=1"], "timeout": 3}]
    plan = plan_of(put("hooks", {"createRuntime": each, "createContainer": each, "startContainer": each}))
    plain = (("/bin/hook", ("hook", "-x"), ("A=1",), 3),)
    wait, create = plan.root[-2:]
    assert wait == op.WaitForHooks()
    assert isinstance(create, op.RunHooks)
    assert (create.kind, create.hooks) == ("createContainer", plain)
    assert json.loads(create.state)["status"] == "creating"
    start = plan.last[-1]
    assert isinstance(start, op.RunHooks)
    assert (start.kind, start.hooks) == ("startContainer", plain)
    assert json.loads(start.state)["status"] == "created"


def test_a_refusal_is_one_of_the_errors_that_reach_the_user() -> None:
    with pytest.raises(ShimError, match="run this container with another runtime"):
        plan_of(put("linux.intelRdt", {"closID": "x"}))
