"""Making a container as far as nothing comes of it: what a shim computes, writes, and says to an init."""

from __future__ import annotations

import json
import marshal
import os

from ..linux.cgroup_settings import compile_resources
from ..linux.cgroup_settings_v2 import compile_unified
from ..oci.defaults import default_spec
from ..oci.spec import read_spec
from .channel import Channel
from .executor import LinuxExecutor
from .plan import plan_container
from .state import ContainerState, remove_state, write_state
from .stdio import Stdio
from .steps import steps_of

__all__ = ["lay_out", "pretend"]


def lay_out(bundle: str) -> None:
    """Make the directory *bundle* one of an ordinary container."""
    with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
        json.dump(default_spec(["/program"], cgroups_path="/rehearsal"), file)


async def pretend(id: str, bundle: str) -> None:  # noqa: A002
    """Do for the container *id* in *bundle* what `Container.create` does before and after the fork."""
    spec = read_spec(bundle)
    assert spec.process
    assert spec.linux
    assert spec.linux.resources
    LinuxExecutor.of(spec.process)
    compile_resources(spec.linux.resources)
    compile_unified(spec.linux.resources)
    marshal.dumps(tuple(steps_of(plan_container(spec, bundle)).root))
    stdio = Stdio("", "", "")
    ours, theirs = Channel.pair()
    write_state(bundle, ContainerState(id))
    ours.send({"kind": "go"})
    theirs.receive()
    theirs.send({"kind": "ready"})
    await ours.receive_async()
    remove_state(bundle)
    for each in (ours, theirs, stdio):
        each.close()
