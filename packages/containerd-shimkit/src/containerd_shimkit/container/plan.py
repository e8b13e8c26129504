"""From a spec to the ordered steps that carry it out. Pure: nothing is touched, so a plan can be tested anywhere.

What this version cannot do is refused here, by the field's name, before anything has been changed.
Source: OCI runtime specification 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..errors import InvalidArgumentError
from ..oci.hooks import state_document
from ..oci.spec import Device, Linux, Process, Spec
from .default_devices import DEFAULT_DEVICES
from .operations import (
    DeviceNode,
    InstallSeccomp,
    JoinCgroup,
    MakeDirectory,
    MakeTerminal,
    MaskPath,
    Operation,
    ReadonlyPath,
    ReadonlyRoot,
    RunHooks,
    SetOomScoreAdj,
    SymbolicLink,
    WaitForHooks,
)
from .plan_cgroup import with_default_devices
from .plan_labels import labelled_mounts
from .plan_mounts import binds_dev, leave_host, plan_mappings, plan_mounts, prepare_root, seal_mounts
from .plan_namespaces import kinds_of, later_namespace_steps, namespace_steps, net_device_steps, setting_steps
from .plan_process import filter_steps, label_steps, process_steps
from .plan_user import check_mappings, check_ordinary_user, in_user_namespace, with_bound_devices
from .refusals import unsupported

__all__ = ["Plan", "plan_container", "with_filter", "with_terminal"]

_MULTIPLEXER: Final = "/dev/ptmx"
_DEFAULT_LINKS: Final = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    (_MULTIPLEXER, "pts/ptmx"),
)
_DEVICE_TYPES: Final = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a container's init, in five groups; between the second and the third it looks its program up.

    `host`: in the host's mount namespace. `root`: the new root is built. `seal`: what must be read-only or hidden
    becomes so, and the new root becomes `/`. `process`: the process becomes the unprivileged one that will run. `last`:
    what is done only when the program is to run, right before it.
    """

    process_spec: Process
    pid_namespace: str | None  # "" for a new one, a path for an existing one, None for the shim's own
    user_namespace: bool  # whether it has one that is not the shim's
    renews_pid: bool  # whether the new pid namespace is the init's to make, which another process then goes on in
    rootfs: str
    host: tuple[Operation, ...]
    root: tuple[Operation, ...]
    seal: tuple[Operation, ...]
    process: tuple[Operation, ...]
    last: tuple[Operation, ...]
    own_mounts: bool = True  # or it has its root among the host's mounts, where something must be unmounted at its end


def plan_container(
    spec: Spec,
    bundle: str,
    id: str = "",  # noqa: A002
    *,
    user: int = 0,
    is_hosts_root: bool = True,
) -> Plan:
    """Plan the container *id* that *spec* describes, in the absolute path *bundle*.

    The process that makes it is *user*'s; a user 0 may be the root of some user namespace only, not *is_hosts_root*.
    Raises: InvalidArgumentError for what no version could do, UnimplementedError for what this one cannot,
    FailedPreconditionError for what this user cannot.
    """
    process, linux = _required(spec)
    _refuse_unsupported(spec, process, linux)
    kinds = kinds_of(linux)
    check_mappings(process, linux, kinds)
    if user:
        check_ordinary_user(user, kinds)
    root = labelled_mounts(_root_steps(spec, linux, kinds, bundle), linux.mount_label)
    root_path = spec.root.path if spec.root else "rootfs"
    return Plan(
        process_spec=process,
        pid_namespace=kinds.get("pid"),
        user_namespace="user" in kinds,
        renews_pid=kinds.get("pid") == "" and ("user" in kinds or not is_hosts_root),
        rootfs=posixpath.normpath(posixpath.join(bundle, root_path)),
        host=(*plan_mappings(spec, linux, kinds, bundle), *_host_steps(process, linux, kinds, user, is_hosts_root)),
        root=(
            *_root_of(root, kinds, is_hosts_root),
            *net_device_steps(linux, kinds),
            *_hooks_outside(spec),
            *_hooks("createContainer", "creating", spec, bundle, id),
        ),
        seal=tuple(_seal_steps(spec, linux, kinds)),
        process=tuple(process_steps(process, linux)),
        last=(
            *(filter_steps(linux) if process.no_new_privileges else ()),
            *_hooks("startContainer", "created", spec, bundle, id),
        ),
        own_mounts="mount" in kinds,
    )


def with_filter(plan: Plan, program: bytes) -> Plan:
    """*plan*, whose container has a filter of system calls, with the compiled *program* of it."""
    process, last = (
        tuple(replace(each, program=program) if isinstance(each, InstallSeccomp) else each for each in group)
        for group in (plan.process, plan.last)
    )
    return replace(plan, process=process, last=last)


def with_terminal(spec: Spec, terminal: bool) -> Spec:
    """*spec*, with a terminal for its process when whoever creates the container takes one.

    Raises: InvalidArgumentError when the specification wants one that nobody would take.
    """
    if spec.process is None or spec.process.terminal == terminal:
        return spec
    if not terminal:
        raise InvalidArgumentError(
            "config.json: process.terminal is true, but the container is created without a terminal; set both, or none"
        )
    return replace(spec, process=replace(spec.process, terminal=True))


def _required(spec: Spec) -> tuple[Process, Linux]:
    if spec.process is None:
        raise InvalidArgumentError("config.json has no `process`: there is nothing to run; add process.args")
    if not spec.process.args:
        raise InvalidArgumentError(
            "config.json: process.args is empty: there is nothing to run; name the program (an image's entrypoint)"
        )
    if not posixpath.isabs(spec.process.cwd):
        raise InvalidArgumentError(f"config.json: process.cwd is {spec.process.cwd!r}, which is not an absolute path")
    if spec.linux is None:
        raise InvalidArgumentError("config.json has no `linux` section: this shim makes Linux containers only")
    return spec.process, spec.linux


def _refuse_unsupported(spec: Spec, process: Process, linux: Linux) -> None:
    """Refuse, by name, every field that asks for something this version does not do."""
    asked = {
        "linux.intelRdt": linux.intel_rdt,
    }
    for field, value in asked.items():
        if value:
            raise unsupported(field, "is set")


def _root_of(steps: Iterator[Operation], kinds: dict[str, str], is_hosts_root: bool) -> Iterator[Operation]:
    if "user" in kinds:
        return in_user_namespace(steps, later_namespace_steps(kinds))
    return steps if is_hosts_root else with_bound_devices(steps)


def _host_steps(
    process: Process, linux: Linux, kinds: dict[str, str], user: int, is_hosts_root: bool
) -> Iterator[Operation]:
    if process.oom_score_adj is not None:
        yield SetOomScoreAdj(process.oom_score_adj)
    yield JoinCgroup(with_default_devices(linux.resources))
    yield from namespace_steps(process, linux, kinds, user, is_hosts_root)


def _root_steps(spec: Spec, linux: Linux, kinds: dict[str, str], bundle: str) -> Iterator[Operation]:
    yield prepare_root(linux, kinds)
    yield from plan_mounts(spec, linux, bundle)
    if not binds_dev(spec):  # a /dev of the host's has what it has; nothing of ours is written there
        for name, major, minor in DEFAULT_DEVICES:
            yield DeviceNode(f"/dev/{name}", stat.S_IFCHR | 0o666, major, minor, 0, 0)
        planned = (_plan_device(device, f"linux.devices[{index}]") for index, device in enumerate(linux.devices))
        # among all of the host's devices, which privileged pods get, is the multiplexer of the host's terminals
        yield from (node for node in planned if node.path != _MULTIPLEXER)
        for path, points_to in _DEFAULT_LINKS:
            yield SymbolicLink(path, points_to)
    elif linux.devices:
        raise InvalidArgumentError("config.json: linux.devices are asked for, but /dev is a bind mount of the host's")
    yield from setting_steps(spec, linux, kinds)
    if spec.process and spec.process.terminal:
        yield MakeTerminal(spec.process.user.uid, spec.process.console_size, console=True)


def _plan_device(device: Device, field: str) -> DeviceNode:
    if device.type not in _DEVICE_TYPES:
        raise InvalidArgumentError(f"config.json: {field}.type is {device.type!r}; it must be one of c, u, b, p")
    path = posixpath.normpath("/" + device.path.lstrip("/"))  # of two slashes in front normpath keeps both
    if not posixpath.isabs(device.path) or path == "/":
        raise InvalidArgumentError(f"config.json: {field}.path {device.path!r} is not a path of a device")
    permissions = 0o666 if device.file_mode is None else device.file_mode & 0o7777
    mode = _DEVICE_TYPES[device.type] | permissions
    return DeviceNode(path, mode, device.major or 0, device.minor or 0, device.uid or 0, device.gid or 0)


def _seal_steps(spec: Spec, linux: Linux, kinds: dict[str, str]) -> Iterator[Operation]:
    if spec.process:
        yield from label_steps(spec.process)
        yield MakeDirectory(posixpath.normpath(spec.process.cwd))
    yield from seal_mounts(spec)
    yield from (ReadonlyPath(path) for path in linux.readonly_paths)
    yield from (MaskPath(path) for path in linux.masked_paths)
    if spec.root and spec.root.readonly:
        yield ReadonlyRoot()
    yield from leave_host(linux, kinds)


def _hooks_outside(spec: Spec) -> Iterator[Operation]:
    if spec.hooks.keys() & {"prestart", "createRuntime"}:
        yield WaitForHooks()


def _hooks(kind: str, status: str, spec: Spec, bundle: str, id: str) -> Iterator[Operation]:  # noqa: A002
    if hooks := spec.hooks.get(kind):
        state = state_document(id, status, 0, bundle, spec.annotations)
        yield RunHooks(kind, tuple((each.path, each.args, each.env, each.timeout) for each in hooks), state)
