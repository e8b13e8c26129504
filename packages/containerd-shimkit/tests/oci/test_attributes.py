"""What a config.json says of how a process is scheduled, placed and shown the machine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, ShimError, UnimplementedError
from containerd_shimkit.linux import memory_policy, scheduling
from containerd_shimkit.oci import attributes as at
from containerd_shimkit.oci.spec import Linux, Process, parse_spec


def parsed(process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None) -> tuple[Process, Linux]:
    document = {"ociVersion": "1.2.0", "process": {"cwd": "/", **(process or {})}, "linux": linux or {}}
    spec = parse_spec(json.dumps(document))
    assert spec.process
    assert spec.linux
    return spec.process, spec.linux


def test_the_attributes_of_a_process_arrive_as_values() -> None:
    process, _ = parsed(
        {
            "scheduler": {
                "policy": "SCHED_DEADLINE",
                "nice": -5,
                "flags": ["SCHED_FLAG_RECLAIM"],
                "runtime": 1000,
                "deadline": 2000,
                "period": 3000,
            },
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
            "execCPUAffinity": {"initial": "0-2,7", "final": ""},
        }
    )
    assert process.scheduler == at.Scheduler("SCHED_DEADLINE", -5, 0, ("SCHED_FLAG_RECLAIM",), 1000, 2000, 3000)
    assert process.io_priority == at.IoPriority("IOPRIO_CLASS_BE", 7)
    assert process.exec_cpu_affinity == at.ExecCpuAffinity((0, 1, 2, 7))


def test_so_do_those_of_linux() -> None:
    _, linux = parsed(
        linux={
            "personality": {"domain": "LINUX32", "flags": []},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0,2-3", "flags": ["MPOL_F_STATIC_NODES"]},
            "timeOffsets": {"boottime": {"secs": -7, "nanosecs": 5}, "monotonic": {"secs": 86400}},
            "netDevices": {"eth1": {"name": "eth0"}, "eth0": {"name": "lan"}, "dummy0": {}, "dummy1": None},
        }
    )
    assert linux.personality == at.Personality("LINUX32")
    assert linux.memory_policy == at.MemoryPolicy("MPOL_BIND", (0, 2, 3), ("MPOL_F_STATIC_NODES",))
    assert linux.time_offsets == (at.TimeOffset("monotonic", 86400), at.TimeOffset("boottime", -7, 5))
    assert linux.net_devices == {"eth1": "eth0", "eth0": "lan", "dummy0": "dummy0", "dummy1": "dummy1"}


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        ({}, "process.scheduler.policy is absent"),
        ({"policy": "SCHED_FAST"}, "process.scheduler.policy is 'SCHED_FAST'; it must be one of SCHED_OTHER, "),
        ({"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice is 20; it must be an integer from -20 to 19"),
        ({"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority is 1; it must be absent"),
        ({"policy": "SCHED_FIFO"}, "process.scheduler.priority is absent; it must be an integer from 1 to 99"),
        ({"policy": "SCHED_RR", "priority": 100}, "process.scheduler.priority is 100"),
        ({"policy": "SCHED_BATCH", "runtime": 5}, "process.scheduler.runtime is 5; it must be absent"),
        ({"policy": "SCHED_DEADLINE"}, "process.scheduler.runtime is absent; it must be from 1 to deadline, 0"),
        ({"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 8}, "process.scheduler.runtime is 9"),
        (
            {"policy": "SCHED_DEADLINE", "runtime": 7, "deadline": 8, "period": 7},
            "process.scheduler.period is 7; it must be absent, or no less than deadline, 8",
        ),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}, "process.scheduler.flags is "),
    ],
)
def test_a_scheduler_that_contradicts_itself_is_refused(scheduler: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parsed({"scheduler": scheduler})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "scheduler", [{"policy": "SCHED_ISO"}, {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MAX"]}]
)
def test_what_no_kernel_or_no_field_has_is_refused_by_name(scheduler: dict[str, Any]) -> None:
    with pytest.raises(UnimplementedError, match=r"process\.scheduler\.(policy is 'SCHED_ISO'|flags has 'SCHED_)"):
        parsed({"scheduler": scheduler})


@pytest.mark.parametrize(
    ("process", "linux", "says"),
    [
        ({"ioPriority": {"class": "IOPRIO_CLASS_NONE"}}, {}, "process.ioPriority.class is 'IOPRIO_CLASS_NONE'"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 8}}, {}, "process.ioPriority.priority is 8"),
        ({"execCPUAffinity": {"initial": "3-1"}}, {}, "process.execCPUAffinity.initial is '3-1'; it must be a list"),
        ({"execCPUAffinity": {"final": "0,"}}, {}, "process.execCPUAffinity.final is '0,'"),
        ({"execCPUAffinity": {"final": "9000"}}, {}, "process.execCPUAffinity.final is '9000'"),
        ({}, {"personality": {"domain": "BSD"}}, "linux.personality.domain is 'BSD'; it must be one of LINUX, LINUX32"),
        ({}, {"personality": {"domain": "LINUX", "flags": ["x"]}}, "linux.personality.flags is ['x']"),
        ({}, {"memoryPolicy": {"mode": "MPOL_X"}}, "linux.memoryPolicy.mode is 'MPOL_X'"),
        ({}, {"memoryPolicy": {"mode": "MPOL_BIND"}}, "linux.memoryPolicy.nodes is absent; it must be a list of nodes"),
        ({}, {"memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0"}}, "linux.memoryPolicy.nodes is '0'; it must be abs"),
        ({}, {"memoryPolicy": {"mode": "MPOL_LOCAL", "flags": ["y"]}}, "linux.memoryPolicy.flags is ['y']"),
        ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "1024"}}, "linux.memoryPolicy.nodes is '1024'"),
        (
            {},
            {"timeOffsets": {"realtime": {"secs": 1}}},
            "linux.timeOffsets.realtime is {'secs': 1}; it must be absent",
        ),
        ({}, {"timeOffsets": {"boottime": {"nanosecs": 1000000000}}}, "linux.timeOffsets.boottime.nanosecs is 1000000"),
        ({}, {"timeOffsets": {"boottime": {"secs": 1.5}}}, "linux.timeOffsets.boottime.secs is 1.5"),
        ({}, {"netDevices": {"eth/0": {}}}, "linux.netDevices.eth/0 is {}"),
        ({}, {"netDevices": {"eth0": {"name": "x" * 16}}}, "which 'xxxxxxxxxxxxxxxx' is not"),
        ({}, {"netDevices": {"eth0": {"name": ".."}}}, "which '..' is not"),
        ({}, {"netDevices": {"eth0": {"name": "a"}, "eth1": {"name": "a"}}}, "another is called 'a' as well"),
    ],
)
def test_a_wrong_attribute_is_named_with_its_value(process: dict[str, Any], linux: dict[str, Any], says: str) -> None:
    with pytest.raises(ShimError) as caught:
        parsed(process, linux)
    assert says in str(caught.value)


def test_every_word_that_is_let_through_has_a_number() -> None:
    assert set(at.SCHEDULER_POLICIES) - {"SCHED_ISO"} == set(scheduling.POLICIES)
    clamps = {flag for flag in at.SCHEDULER_FLAGS if "UTIL_CLAMP" in flag}
    assert set(at.SCHEDULER_FLAGS) - clamps == set(scheduling.POLICY_FLAGS)
    assert set(at.IO_CLASSES) == set(scheduling.IO_CLASSES)
    assert set(at.MEMORY_MODES) == set(memory_policy.MODES)
    assert set(at.MEMORY_FLAGS) == set(memory_policy.MODE_FLAGS)
