"""The generated protobuf modules: fresh, together in one process, and with the numbers that containerd uses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from containerd_shimkit import proto
from containerd_shimkit.proto import (
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    events_pb2,
    forward_pb2,
    runc_options_pb2,
    runtime_options_pb2,
    task_pb2,
    task_types_pb2,
    types_pb2,
)
from google.protobuf import any_pb2, timestamp_pb2

WORKSPACE = Path(__file__).resolve().parents[3]
GENERATOR = WORKSPACE / "scripts" / "gen-protos"


def _modules(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(directory.glob("*.py*")) if path.suffix in (".py", ".pyi")}


def test_a_fresh_generation_equals_what_is_committed(tmp_path: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed, so the protobuf modules cannot be generated anew")
    if not GENERATOR.exists():
        pytest.skip(f"{GENERATOR.name} is not here: the tests run outside the workspace")
    subprocess.run([sys.executable, str(GENERATOR), str(tmp_path)], check=True, timeout=50)
    assert _modules(tmp_path) == _modules(Path(proto.__path__[0]))


def test_the_generator_explains_itself_when_asked() -> None:
    if not GENERATOR.exists():
        pytest.skip(f"{GENERATOR.name} is not here: the tests run outside the workspace")
    ran = subprocess.run([sys.executable, str(GENERATOR), "--help"], capture_output=True, text=True, timeout=50)
    assert "gen-protos [DIRECTORY]" in ran.stderr


def test_file_names_in_the_common_descriptor_pool_are_ours_alone() -> None:
    modules = (cgroups_v1_pb2, events_pb2, forward_pb2, runc_options_pb2, runtime_options_pb2, task_pb2, types_pb2)
    assert all(module.DESCRIPTOR.name.startswith("containerd_shimkit/proto/") for module in modules)


def test_importing_them_never_checks_or_warns_about_the_runtimes_version() -> None:
    assert not [name for name, code in _modules(Path(proto.__path__[0])).items() if "runtime_version" in code]


def test_type_names_are_those_that_containerd_compares() -> None:
    assert cgroups_v1_pb2.Metrics.DESCRIPTOR.full_name == "io.containerd.cgroups.v1.Metrics"
    assert cgroups_v2_pb2.Metrics.DESCRIPTOR.full_name == "io.containerd.cgroups.v2.Metrics"
    assert events_pb2.TaskExit.DESCRIPTOR.full_name == "containerd.events.TaskExit"
    assert runc_options_pb2.Options.DESCRIPTOR.full_name == "containerd.runc.v1.Options"
    assert runc_options_pb2.ProcessDetails.DESCRIPTOR.full_name == "containerd.runc.v1.ProcessDetails"
    assert runtime_options_pb2.Options.DESCRIPTOR.full_name == "runtimeoptions.v1.Options"
    assert task_pb2.CreateTaskRequest.DESCRIPTOR.full_name == "containerd.task.v2.CreateTaskRequest"


def test_a_connect_response_has_the_bytes_that_containerd_sends() -> None:
    response = task_pb2.ConnectResponse(shim_pid=1234, task_pid=1235)
    assert response.SerializeToString() == bytes.fromhex("08d20910d309")


def test_a_create_request_keeps_its_fields() -> None:
    request = task_pb2.CreateTaskRequest(
        id="c1",
        bundle="/b",
        rootfs=[types_pb2.Mount(type="overlay", source="overlay", options=["lowerdir=/l"])],
        options=any_pb2.Any(type_url="runtimeoptions.v1.Options", value=b"\x12\x01x"),
    )
    again = task_pb2.CreateTaskRequest.FromString(request.SerializeToString())
    assert again == request
    assert runtime_options_pb2.Options.FromString(again.options.value).config_path == "x"


def test_states_have_containerds_numbers() -> None:
    names = ("UNKNOWN", "CREATED", "RUNNING", "STOPPED", "PAUSED", "PAUSING")
    assert [task_types_pb2.Status.Value(name) for name in names] == list(range(6))


def test_an_envelope_takes_a_bare_type_url() -> None:
    event = any_pb2.Any(
        type_url="containerd.events.TaskOOM", value=events_pb2.TaskOOM(container_id="c").SerializeToString()
    )
    envelope = forward_pb2.Envelope(
        timestamp=timestamp_pb2.Timestamp(seconds=1), namespace="k8s.io", topic="/tasks/oom", event=event
    )
    sent = forward_pb2.ForwardRequest(envelope=envelope).SerializeToString()
    assert forward_pb2.ForwardRequest.FromString(sent).envelope.event.type_url == "containerd.events.TaskOOM"
