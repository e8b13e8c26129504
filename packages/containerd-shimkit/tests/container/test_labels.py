"""Security labels from the specification to the process: refused, planned, and taken on at the right moment."""

from __future__ import annotations

import json
from typing import Any

import pytest
from containerd_shimkit import InvalidArgumentError, UnimplementedError
from containerd_shimkit.container import apply_labels
from containerd_shimkit.container import labels as module
from containerd_shimkit.container import operations as op
from containerd_shimkit.container.plan import Plan, plan_container
from containerd_shimkit.container.plan_labels import labelled_mounts
from containerd_shimkit.container.site import Site
from containerd_shimkit.linux import labels, process
from containerd_shimkit.linux.cgroup_v1 import CgroupV1
from containerd_shimkit.linux.labels import LabelFile
from containerd_shimkit.oci.defaults import default_spec
from containerd_shimkit.oci.spec import Spec, parse_spec


def spec_of(process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None) -> Spec:
    document = default_spec(["/app"], cgroups_path="/pod/c1")
    document["process"] |= process or {}
    document["linux"] |= linux or {}
    return parse_spec(json.dumps(document))


def plan_of(process: dict[str, Any] | None = None, linux: dict[str, Any] | None = None) -> Plan:
    return plan_container(spec_of(process, linux), "/bundle")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What this kernel claims to have."""
    has = {"apparmor": False, "selinux": False}
    monkeypatch.setattr(module, "has_apparmor", lambda: has["apparmor"])
    monkeypatch.setattr(module, "has_selinux", lambda: has["selinux"])
    return has


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        (
            spec_of({"apparmorProfile": "p"}),
            "apparmor",
            "process.apparmorProfile is 'p', but this kernel has no",
        ),
        (spec_of({"selinuxLabel": "c"}), "selinux", "process.selinuxLabel is 'c', but SELinux is absent"),
        (spec_of(linux={"mountLabel": "m"}), "selinux", "linux.mountLabel is 'm', but SELinux is absent"),
    ],
)
def test_labels_that_the_kernel_does_not_know_are_refused(
    kernel: dict[str, bool], spec: Spec, kind: str, words: str
) -> None:
    with pytest.raises(UnimplementedError) as caught:
        module.check_labels(spec)
    assert words in str(caught.value)
    kernel[kind] = True
    module.check_labels(spec)


def test_no_labels_need_nothing_of_the_kernel(kernel: dict[str, bool]) -> None:
    assert not any(kernel.values())
    module.check_labels(spec_of())
    kinds = {type(step) for step in (*plan_of().seal, *plan_of().process)}
    assert not kinds & {op.OpenLabels, op.TakeLabels}


def test_labels_are_opened_before_the_pivot_and_taken_on_around_the_loss_of_privileges() -> None:
    plan = plan_of({"apparmorProfile": "p", "noNewPrivileges": False}, {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}})
    assert plan.seal[0] == op.OpenLabels("p", "")
    assert plan.seal[-1] == op.PivotRoot()
    assert [type(step) for step in plan.process[2:]] == [
        op.TakeLabels,
        op.InstallSeccomp,
        op.DropPrivileges,
        op.ChangeDirectory,
        op.TakeLabels,
    ]
    assert [step.early for step in plan.process if isinstance(step, op.TakeLabels)] == [True, False]


@pytest.mark.parametrize("in_process", [False, True])
def test_who_executes_nothing_is_labelled_last(monkeypatch: pytest.MonkeyPatch, in_process: bool) -> None:
    done: list[str] = []
    monkeypatch.setattr(LabelFile, "write", lambda self: done.append(self.text))
    monkeypatch.setattr(process, "join_new_session_keyring", lambda: done.append("keyring"))
    monkeypatch.setattr(labels, "_open", lambda names, text: LabelFile(-1, f"{names[-1]}={text}"))
    site = Site("/bundle/rootfs", CgroupV1({}), in_process=in_process)
    apply_labels._open_labels(site, "p", "c")
    assert done == []
    apply_labels._take_labels(site, True)
    early, done[:] = tuple(done), []
    apply_labels._take_labels(site, False)
    if in_process:
        assert (early, done) == (("keycreate=c", "keyring"), ["current=c", "current=changeprofile p"])
    else:
        assert (early, done) == (("keycreate=c", "keyring", "exec=c", "exec=exec p"), [])
    assert site.keys == site.labels == ()


def test_new_file_systems_are_mounted_in_the_context() -> None:
    context = "system_u:object_r:container_file_t:s0:c1,c2"
    plan = plan_of(linux={"mountLabel": context})
    data = {step.target: step.data for step in plan.root if isinstance(step, op.FilesystemMount)}
    assert data["/dev"] == f'mode=755,size=65536k,context="{context}"'
    assert [path for path, options in data.items() if "context=" not in options] == ["/proc", "/dev/mqueue", "/sys"]
    assert [step for step in plan.root if isinstance(step, op.SetFileContext)] == [
        op.SetFileContext("/dev/mqueue", context)
    ]


def test_what_is_shown_from_the_host_keeps_its_labels() -> None:
    steps: list[op.Operation] = [op.BindMount("/srv", "/data"), op.FilesystemMount("tmpfs", "tmpfs", "/tmp")]
    assert list(labelled_mounts(steps, "c")) == [
        steps[0],
        op.FilesystemMount("tmpfs", "tmpfs", "/tmp", 0, 'context="c"'),
    ]
    assert list(labelled_mounts(steps, "")) == steps


def test_a_context_that_would_end_its_option_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="has a quotation mark"):
        plan_of(linux={"mountLabel": 'a",exec="'})
