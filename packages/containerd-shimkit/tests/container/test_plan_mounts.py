"""What becomes of `mounts` and of linux.rootfsPropagation in a plan."""

from __future__ import annotations

import copy
import json
import marshal
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, UnimplementedError
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import Plan, plan_container
from containerd_shimkit.container.steps import describe, steps_of
from containerd_shimkit.oci import mount_options as ms
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import parse_spec

MAPPINGS = {
    "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 10}],
    "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 20}],
}
RANGES = (((0, 100000, 10),), ((0, 200000, 20),))


def plan_with(*mounts: dict[str, Any], propagation: str = "", namespaces: tuple[str, ...] = ()) -> Plan:
    spec = copy.deepcopy(default_spec(["/app"], cgroups_path="/pod/c1"))
    spec["mounts"] = list(mounts)
    spec["linux"]["rootfsPropagation"] = propagation
    spec["linux"]["namespaces"] += [{"type": each} for each in namespaces]
    return plan_container(parse_spec(json.dumps(spec)), "/bundle")


def steps_for(*mounts: dict[str, Any], **more: Any) -> list[op.Operation]:
    """The steps of the mounts alone."""
    others = (op.PrepareRoot, op.DeviceNode, op.SymbolicLink)
    return [step for step in plan_with(*mounts, **more).root if not isinstance(step, others)]


def bind(*options: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/x", "type": "bind", "source": "/host", "options": ["rbind", *options], **more}


def tmpfs(*options: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": list(options), **more}


def test_a_bind_mount_takes_its_flags_in_a_second_call() -> None:
    assert steps_for(bind("ro", "rslave", destination="/data/../x")) == [
        op.BindMount("/host", "/x", recursive=True, flags=ms.MS_RDONLY, propagation=(ms.MS_SLAVE | ms.MS_REC,))
    ]


@pytest.mark.parametrize("kind", ["", "none", "bind", "ext4"])
def test_a_mount_is_a_bind_by_its_options_whatever_its_type(kind: str) -> None:
    assert steps_for(bind(type=kind)) == [op.BindMount("/host", "/x", recursive=True)]


def test_relative_paths_count_from_the_bundle_and_from_the_root() -> None:
    assert steps_for(bind(source="some/../data", destination="x//y/")) == [
        op.BindMount("/bundle/data", "/x/y", recursive=True)
    ]
    assert steps_for(tmpfs(destination="//x")) == [op.FilesystemMount("tmpfs", "tmpfs", "/x")]


def test_a_read_only_dev_is_filled_first() -> None:
    plan = plan_with(tmpfs("ro", "mode=755", "rnoexec", destination="/dev"))
    assert plan.root[1] == op.FilesystemMount("tmpfs", "tmpfs", "/dev", 0, "mode=755")
    attributes = op.SetMountAttributes("/dev", ms.MOUNT_ATTR_NOEXEC, 0)
    assert attributes not in plan.root
    assert plan.seal[1:3] == (op.ReadonlyPath("/dev"), attributes)


def test_a_dev_that_is_writable_in_the_end_is_not_sealed() -> None:
    assert op.ReadonlyPath("/dev") not in plan_with(tmpfs("ro", "rw", destination="/dev")).seal


@pytest.mark.parametrize("mount", [bind, tmpfs])
def test_recursive_attributes_are_a_step_behind_the_mount(mount: Any) -> None:
    first, second = steps_for(mount("rro", "rnosuid", "rexec"))
    assert isinstance(first, (op.BindMount, op.FilesystemMount))
    assert first.flags == 0
    chosen = ms.MOUNT_ATTR_RDONLY | ms.MOUNT_ATTR_NOSUID
    assert second == op.SetMountAttributes("/x", chosen, ms.MOUNT_ATTR_NOEXEC)


def test_every_propagation_is_a_call_in_its_order() -> None:
    words = ("shared", "rslave", "unbindable", "rshared")
    expected = (ms.MS_SHARED, ms.MS_SLAVE | ms.MS_REC, ms.MS_UNBINDABLE, ms.MS_SHARED | ms.MS_REC)
    for mount in (bind(*words), tmpfs(*words)):
        (step,) = steps_for(mount)
        assert isinstance(step, (op.BindMount, op.FilesystemMount))
        assert step.propagation == expected


def test_ids_are_mapped_by_the_mounts_own_mappings_where_root_is_the_hosts() -> None:
    plan = plan_with(tmpfs(), bind("idmap", "ro", **MAPPINGS), bind("ridmap", **MAPPINGS), bind(**MAPPINGS))
    assert plan.host[:3] == (
        op.OpenMappedMount("/host", 1, *RANGES, False, True, ms.MS_SLAVE),
        op.OpenMappedMount("/host", 2, *RANGES, True, True, ms.MS_SLAVE),
        op.OpenMappedMount("/host", 3, *RANGES, False, True, ms.MS_SLAVE),
    )
    assert isinstance(plan.host[3], op.JoinCgroup), "the process that it takes does not count as the container's"
    mounted = [step for step in plan.root if isinstance(step, op.MappedBindMount)]
    assert mounted == [
        op.MappedBindMount("/host", 1, "/x", ms.MS_RDONLY),
        op.MappedBindMount("/host", 2, "/x"),
        op.MappedBindMount("/host", 3, "/x"),
    ]


@pytest.mark.parametrize(("word", "kind"), [("", ms.MS_SLAVE), ("rprivate", ms.MS_PRIVATE), ("rshared", 0)])
def test_a_mapped_mount_has_as_much_of_the_hosts_propagation_as_others(word: str, kind: int) -> None:
    opened = plan_with(bind("idmap", **MAPPINGS), propagation=word).host[0]
    assert isinstance(opened, op.OpenMappedMount)
    assert opened.propagation == kind


def test_a_container_of_a_user_namespace_maps_by_its_own_mappings() -> None:
    spec = copy.deepcopy(default_spec(["/app"]))
    spec["mounts"] = [bind("idmap")]
    spec["linux"].update(MAPPINGS)
    spec["linux"]["namespaces"].append({"type": "user"})
    plan = plan_container(parse_spec(json.dumps(spec)), "/bundle")
    assert plan.host[0] == op.OpenMappedMount("/host", 0, *RANGES, False, True, ms.MS_SLAVE)
    assert not [step for step in plan.root if isinstance(step, op.OpenSources) and "/host" in step.sources]


def test_a_tmpfs_may_keep_what_it_hides() -> None:
    step = op.CopiedTmpfs("tmpfs", "/x", ms.MS_RDONLY | ms.MS_NODEV, "size=1m", (ms.MS_PRIVATE,))
    assert steps_for(tmpfs("tmpcopyup", "ro", "nodev", "size=1m", "private")) == [step]


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
@pytest.mark.parametrize("namespaces", [(), ("cgroup",)])
def test_a_cgroup_mount_knows_of_the_cgroup_namespace(kind: str, namespaces: tuple[str, ...]) -> None:
    mount = {"destination": "/sys/fs/cgroup", "type": kind, "source": "cgroup", "options": ["ro", "nosuid"]}
    assert steps_for(mount, namespaces=namespaces) == [
        op.CgroupMount("/sys/fs/cgroup", kind == "cgroup2", bool(namespaces), ms.MS_RDONLY | ms.MS_NOSUID)
    ]


@pytest.mark.parametrize(
    ("word", "hosts", "follows"),
    [
        ("", ms.MS_SLAVE | ms.MS_REC, False),
        ("slave", ms.MS_SLAVE | ms.MS_REC, True),
        ("rslave", ms.MS_SLAVE | ms.MS_REC, True),
        ("private", ms.MS_PRIVATE | ms.MS_REC, False),
        ("rprivate", ms.MS_PRIVATE | ms.MS_REC, False),
        ("unbindable", ms.MS_SLAVE | ms.MS_REC, False),
        ("runbindable", ms.MS_SLAVE | ms.MS_REC, False),
        ("shared", 0, False),
        ("rshared", 0, False),
    ],
)
def test_only_a_shared_root_leaves_the_hosts_mounts_connected(word: str, hosts: int, follows: bool) -> None:
    plan = plan_with(propagation=word)
    assert plan.root[0] == op.PrepareRoot(hosts, follows)
    assert op.PivotRoot(connected=hosts == 0) in plan.seal


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("shared", ms.MS_SHARED),
        ("rshared", ms.MS_SHARED | ms.MS_REC),
        ("unbindable", ms.MS_UNBINDABLE),
        ("runbindable", ms.MS_UNBINDABLE | ms.MS_REC),
    ],
)
def test_the_roots_own_propagation_comes_once_it_is_the_root(word: str, flags: int) -> None:
    assert plan_with(propagation=word).seal[-1] == op.SetRootPropagation(flags)


@pytest.mark.parametrize("word", ["", "private", "rprivate", "slave", "rslave"])
def test_a_root_that_is_left_alone_costs_no_step(word: str) -> None:
    assert isinstance(plan_with(propagation=word).seal[-1], op.PivotRoot)


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (tmpfs(destination="/"), r"mounts\[0\]\.destination is '/'"),
        (tmpfs(destination=".."), r"mounts\[0\]\.destination is '/'"),
        (tmpfs(destination="proc/sys"), "in /proc"),
        (tmpfs(type=""), r"mounts\[0\]\.type is empty"),
        (tmpfs("idmap"), "only a bind mount"),
        (tmpfs(**MAPPINGS), "only a bind mount"),
        (tmpfs("tmpcopyup", type="ext4"), "its type is 'ext4', not tmpfs"),
        (bind("tmpcopyup"), "`tmpcopyup`, which a bind mount cannot have"),
        (bind(source=""), r"mounts\[0\]\.source of a bind mount is empty"),
        (bind("idmap"), "there is no mapping"),
        (bind("idmap", uidMappings=MAPPINGS["uidMappings"]), r"mounts\[0\]\.gidMappings is absent"),
        (bind("idmap", gidMappings=MAPPINGS["gidMappings"]), r"mounts\[0\]\.uidMappings is absent"),
        (bind(**{**MAPPINGS, "gidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]}), "has a range of 0 ids"),
    ],
)
def test_what_no_mount_can_be_is_named(mount: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        plan_with(mount)


def test_all_of_it_reaches_an_init_as_plain_values() -> None:
    cgroup = {"destination": "/c", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    plan = plan_with(bind("ridmap", "rro", **MAPPINGS), tmpfs("tmpcopyup"), cgroup, propagation="rshared")
    steps = steps_of(plan)
    both = (*steps.host[:1], *steps.root, *steps.seal)
    assert marshal.loads(marshal.dumps(both)) == both
    assert [describe(step) for step in both] == [
        str(operation) for operation in (*plan.host[:1], *plan.root, *plan.seal)
    ]


@pytest.mark.parametrize("word", ["loop", "src-nofollow", "copy-symlink", "dest-nofollow"])
def test_words_of_other_programs_are_refused_by_name(word: str) -> None:
    with pytest.raises(UnimplementedError, match=rf"mounts\[0\]\.options has '{word}'"):
        plan_with(bind(word))


def test_a_propagation_that_there_is_not_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux\.rootfsPropagation is 'both'.*rslave.*runbindable"):
        plan_with(propagation="both")
