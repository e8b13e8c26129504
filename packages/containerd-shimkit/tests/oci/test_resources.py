from __future__ import annotations

import json

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.oci.resources import (
    BlockIo,
    Cpu,
    DeviceRate,
    DeviceWeight,
    HugepageLimit,
    Memory,
    Network,
    RdmaLimit,
    Resources,
    parse_resources,
)


def test_every_field_arrives_where_it_belongs() -> None:
    document = {
        "memory": {"kernel": 1, "useHierarchy": False, "checkBeforeUpdate": True, "reservation": -1},
        "cpu": {"burst": 1, "realtimeRuntime": -1, "realtimePeriod": 2, "idle": 0},
        "blockIO": {
            "weight": 10,
            "leafWeight": 20,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 30, "leafWeight": 40}, {"major": 8, "minor": 1}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
            "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": (1 << 64) - 1}],
        },
        "hugepageLimits": [{"pageSize": "64KB", "limit": 5}, {"pageSize": "1GB", "limit": 0}],
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3}, "mlx4_0": {"hcaObjects": 1000}, "rxe3": None},
        "unified": {"memory.high": "1", "io.max": "8:0 rbps=1\n8:16 rbps=2"},
    }
    expected = Resources(
        memory=Memory(kernel=1, use_hierarchy=False, check_before_update=True, reservation=-1),
        cpu=Cpu(burst=1, realtime_runtime=-1, realtime_period=2, idle=0),
        block_io=BlockIo(
            weight=10,
            leaf_weight=20,
            weight_device=(DeviceWeight(8, 0, 30, 40), DeviceWeight(8, 1)),
            throttle_read_bps_device=(DeviceRate(8, 0, 1),),
            throttle_write_bps_device=(DeviceRate(8, 0, 2),),
            throttle_read_iops_device=(DeviceRate(8, 0, 3),),
            throttle_write_iops_device=(DeviceRate(8, 0, (1 << 64) - 1),),
        ),
        hugepage_limits=(HugepageLimit("64KB", 5), HugepageLimit("1GB", 0)),
        network=Network(1048577, (("eth0", 500),)),
        rdma=(RdmaLimit("mlx5_1", 3, None), RdmaLimit("mlx4_0", None, 1000)),
        unified=(("memory.high", "1"), ("io.max", "8:0 rbps=1\n8:16 rbps=2")),
    )
    found = parse_resources(json.dumps(document))
    assert found == expected
    assert hash(found) == hash(expected), "what is made of limits is kept by them"


def test_null_is_as_good_as_absent() -> None:
    names = ("memory", "cpu", "pids", "blockIO", "network", "hugepageLimits", "rdma", "unified", "devices")
    assert parse_resources(json.dumps(dict.fromkeys(names))) == parse_resources("{}") == Resources()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"blockIO": {"weight": 1 << 16}}, "blockIO.weight is 65536; it must be an integer from 0 to 65535"),
        ({"blockIO": {"weightDevice": [{"major": 8}]}}, "blockIO.weightDevice[0].minor is absent"),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0}]}},
            "blockIO.throttleReadBpsDevice[0].rate is a",
        ),
        ({"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": -1}]}}, "IOPSDevice[0].rate is -1"),
        ({"hugepageLimits": [{"pageSize": "2MB"}]}, "hugepageLimits[0].limit is absent"),
        (
            {"hugepageLimits": [{"limit": 1}]},
            "hugepageLimits[0].pageSize is absent; it must be a number with KB, MB or",
        ),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, "hugepageLimits[0].pageSize is '../2MB'"),
        ({"hugepageLimits": [{"pageSize": "2MB/", "limit": 1}]}, "hugepageLimits[0].pageSize is '2MB/'"),
        ({"network": {"classID": 1 << 32}}, "network.classID is 4294967296"),
        ({"network": {"priorities": [{"name": "a b", "priority": 1}]}}, "network.priorities[0].name is 'a b'"),
        ({"network": {"priorities": [{"priority": 1}]}}, "network.priorities[0].name is absent"),
        ({"rdma": {"a b": {}}}, "rdma.a b is {}; it must be named by a device"),
        ({"rdma": {"x": {"hcaHandles": -1}}}, "rdma.x.hcaHandles is -1"),
        ({"rdma": {"x": 5}}, "rdma.x is 5; it must be an object"),
        ({"unified": {"memory.high": 1}}, "unified['memory.high'] is 1"),
        ({"unified": {"memory.high": "1\0"}}, "unified['memory.high'] is"),
        ({"memory": {"checkBeforeUpdate": 1}}, "memory.checkBeforeUpdate is 1; it must be true or false"),
        ({"cpu": {"idle": "1"}}, "cpu.idle is '1'"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(document: object, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_resources(json.dumps(document))
    assert f"resources: {says}" in str(caught.value) or says in str(caught.value)
