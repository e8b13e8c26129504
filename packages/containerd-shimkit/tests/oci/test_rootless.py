from __future__ import annotations

import copy

from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.rootless import as_ordinary_user


def test_a_container_is_put_into_a_user_namespace_of_its_maker() -> None:
    spec = default_spec(["/app"], cgroups_path="/x")
    before = copy.deepcopy(spec)
    made = as_ordinary_user(spec, 7, 8)
    assert spec == before, "what is given stays as it is"
    linux = made["linux"]
    assert linux["namespaces"][-1] == {"type": "user"}
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 7, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 8, "size": 1}]
    assert "cgroupsPath" not in linux
    assert linux["resources"] == before["linux"]["resources"]
    (devpts,) = (mount for mount in made["mounts"] if mount["type"] == "devpts")
    assert not any(option.startswith("gid=") for option in devpts["options"])
    assert as_ordinary_user(made, 7, 8) == made


def test_a_specification_with_nothing_in_it_is_no_mistake() -> None:
    assert as_ordinary_user({}, 1, 2)["linux"]["namespaces"] == [{"type": "user"}]
