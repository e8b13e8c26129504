"""A container from its maker's side, as far as it goes without a process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from containerd_shimkit import InstanceConfig, UnimplementedError
from containerd_shimkit.container import labels
from containerd_shimkit.container.executor import LinuxExecutor
from containerd_shimkit.container.lifecycle import Container
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import Spec, parse_spec
from containerd_shimkit.shim.reaper import Reaper


def container(bundle: Path, spec: Spec) -> Container:
    config = InstanceConfig(namespace="test", bundle=str(bundle))
    assert spec.process
    return Container("c1", config, spec, LinuxExecutor.of(spec.process), Reaper.current())


def test_a_label_that_the_kernel_does_not_know_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "has_apparmor", lambda: False)
    document = default_spec(["/app"], cgroups_path="/pod/c1")
    document["process"]["apparmorProfile"] = "x"

    async def scenario() -> None:
        try:
            with pytest.raises(UnimplementedError, match=r"process\.apparmorProfile is 'x'"):
                container(tmp_path, parse_spec(json.dumps(document)))
        finally:
            Reaper.current().stop()

    asyncio.run(scenario())
    assert not list(tmp_path.iterdir())
