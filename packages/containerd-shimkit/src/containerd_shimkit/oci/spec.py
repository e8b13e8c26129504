"""A typed, read-only view of a bundle's config.json, strictly parsed. Pure but for `read_spec`.

Values are checked for their form, not for their sense: what a container of ours can have is for its plan to say.
What no part of this package looks into is kept as it came, as a mapping.
Source: OCI runtime specification 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import InvalidArgumentError
from .attributes import (
    ExecCpuAffinity,
    IoPriority,
    MemoryPolicy,
    Personality,
    Scheduler,
    TimeOffset,
    exec_cpu_affinity_of,
    io_priority_of,
    memory_policy_of,
    net_devices_of,
    personality_of,
    scheduler_of,
    time_offsets_of,
)
from .hooks import Hook, hooks_of
from .resources import Cpu, DeviceRule, Memory, Pids, Resources, resources_of
from .strict_json import IDS, MAX_SIZE, UINT32, UINT64, JsonObject, decode_object

__all__ = [
    "Capabilities",
    "Cpu",
    "Device",
    "DeviceRule",
    "ExecCpuAffinity",
    "IdMapping",
    "IoPriority",
    "Linux",
    "LinuxNamespace",
    "Memory",
    "MemoryPolicy",
    "Mount",
    "Personality",
    "Pids",
    "Process",
    "Resources",
    "Rlimit",
    "Root",
    "Scheduler",
    "Spec",
    "TimeOffset",
    "User",
    "parse_process",
    "parse_spec",
    "read_spec",
]

_FILE: Final = "config.json"
_PROCESS: Final = "the process to be executed"
_ANOTHER: Final = "another type than those before it: each may stand once"


def _nothing() -> dict[str, object]:
    return {}


def _no_text() -> dict[str, str]:
    return {}


def _no_hooks() -> dict[str, tuple[Hook, ...]]:
    return {}


@dataclass(frozen=True, slots=True)
class User:
    """Whom the process runs as, in numbers."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The five sets, by names as written: a name that the kernel does not know is no error here."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rlimit:
    """One resource limit; 2^64-1 is infinity."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Process:
    """`process`. `args` may be empty: what that means is for the plan, or for an Exec, to say."""

    args: tuple[str, ...] = ()
    cwd: str = "/"
    env: tuple[str, ...] = ()
    user: User = User()
    terminal: bool = False
    console_size: tuple[int, int] | None = None  # height, width
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    exec_cpu_affinity: ExecCpuAffinity | None = None


@dataclass(frozen=True, slots=True)
class Root:
    """`root`: a path that is absolute, or relative to the bundle."""

    path: str
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """One of `mounts`."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class LinuxNamespace:
    """One of `linux.namespaces`, each type at most once; no path: a new one."""

    type: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class IdMapping:
    """A range of user or group ids: *container_id* and on appear as *host_id* and on."""

    container_id: int
    host_id: int
    size: int


@dataclass(frozen=True, slots=True)
class Device:
    """One of `linux.devices`; `file_mode` holds permission bits."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Linux:
    """`linux`."""

    namespaces: tuple[LinuxNamespace, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources | None = None
    sysctl: Mapping[str, str] = field(default_factory=_no_text)
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    rootfs_propagation: str = ""
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    seccomp: Mapping[str, object] | None = None
    intel_rdt: Mapping[str, object] | None = None
    personality: Personality | None = None
    time_offsets: tuple[TimeOffset, ...] = ()
    memory_policy: MemoryPolicy | None = None
    net_devices: Mapping[str, str] = field(default_factory=_no_text)


@dataclass(frozen=True, slots=True)
class Spec:
    """The whole file; `raw` is what it was parsed from. `hooks` has the kinds that there are."""

    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    linux: Linux | None = None
    annotations: Mapping[str, str] = field(default_factory=_no_text)
    hooks: Mapping[str, tuple[Hook, ...]] = field(default_factory=_no_hooks)
    raw: Mapping[str, object] = field(default_factory=_nothing)


def read_spec(bundle: str) -> Spec:
    """Read and parse the config.json of the directory *bundle*. Raises: InvalidArgumentError, naming the file."""
    path = os.path.join(bundle, _FILE)
    try:
        # looked at before it is opened: a FIFO in its place would block
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgumentError(f"{path} is not a regular file; a bundle's config.json must be one")
        with open(path, "rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise InvalidArgumentError(
            f"{path} cannot be read: {error.strerror}; a bundle is a directory with a config.json in it"
        ) from error
    return _spec(decode_object(data, path))


def parse_spec(data: bytes | str) -> Spec:
    """Parse a config.json. Raises: InvalidArgumentError that names the field, its value and what it must be."""
    return _spec(decode_object(data, _FILE))


def parse_process(data: bytes | str) -> Process:
    """Parse a `process` object that comes alone, as an exec's does. Raises: InvalidArgumentError as `parse_spec`."""
    return _process(decode_object(data, _PROCESS))


def _spec(top: JsonObject) -> Spec:
    version = top.required_text("ociVersion")
    if not version.startswith("1."):
        raise top.error("ociVersion", "a version of the runtime specification that begins with 1.")
    process, root, linux = top.child("process"), top.child("root"), top.child("linux")
    return Spec(
        oci_version=version,
        process=_process(process) if process else None,
        root=Root(root.required_text("path"), root.flag("readonly")) if root else None,
        hostname=top.text("hostname"),
        domainname=top.text("domainname"),
        mounts=tuple(_mount(mount) for mount in top.children("mounts")),
        linux=_linux(linux) if linux else None,
        annotations=top.text_mapping("annotations"),
        hooks=hooks_of(top.child("hooks")),
        raw=top.values,
    )


def _process(process: JsonObject) -> Process:
    capabilities, size = process.child("capabilities"), process.child("consoleSize")
    scheduler, io_priority = process.child("scheduler"), process.child("ioPriority")
    affinity = process.child("execCPUAffinity")
    return Process(
        args=process.texts("args"),
        cwd=process.required_text("cwd"),
        env=process.texts("env"),
        user=_user(process.child("user")),
        terminal=process.flag("terminal"),
        console_size=(size.integer("height", UINT32), size.integer("width", UINT32)) if size else None,
        capabilities=_capabilities(capabilities) if capabilities else None,
        rlimits=_rlimits(process.children("rlimits")),
        no_new_privileges=process.flag("noNewPrivileges"),
        oom_score_adj=process.optional_integer("oomScoreAdj", (-1000, 1000)),
        apparmor_profile=process.text("apparmorProfile"),
        selinux_label=process.text("selinuxLabel"),
        scheduler=scheduler_of(scheduler) if scheduler else None,
        io_priority=io_priority_of(io_priority) if io_priority else None,
        exec_cpu_affinity=exec_cpu_affinity_of(affinity) if affinity else None,
    )


def _user(user: JsonObject | None) -> User:
    if user is None:
        return User()
    return User(
        uid=user.integer("uid", IDS),
        gid=user.integer("gid", IDS),
        umask=user.optional_integer("umask", (0, 0o777)),
        additional_gids=user.integers("additionalGids", IDS),
    )


def _capabilities(found: JsonObject) -> Capabilities:
    return Capabilities(*map(found.texts, ("bounding", "effective", "inheritable", "permitted", "ambient")))


def _rlimits(limits: list[JsonObject]) -> tuple[Rlimit, ...]:
    found: dict[str, Rlimit] = {}
    for limit in limits:
        kind = limit.required_text("type")
        if kind in found:
            raise limit.error("type", _ANOTHER)
        soft, hard = limit.required_integer("soft", UINT64), limit.required_integer("hard", UINT64)
        if soft > hard:
            raise limit.error("soft", f"no more than hard, {hard}")
        found[kind] = Rlimit(kind, soft, hard)
    return tuple(found.values())


def _mount(mount: JsonObject) -> Mount:
    return Mount(
        destination=mount.required_text("destination"),
        type=mount.text("type"),
        source=mount.text("source"),
        options=mount.texts("options"),
        uid_mappings=tuple(_id_mapping(mapping) for mapping in mount.children("uidMappings")),
        gid_mappings=tuple(_id_mapping(mapping) for mapping in mount.children("gidMappings")),
    )


def _linux(linux: JsonObject) -> Linux:
    resources, personality = linux.child("resources"), linux.child("personality")
    offsets, policy, devices = linux.child("timeOffsets"), linux.child("memoryPolicy"), linux.child("netDevices")
    return Linux(
        namespaces=_namespaces(linux.children("namespaces")),
        devices=tuple(_device(device) for device in linux.children("devices")),
        cgroups_path=linux.text("cgroupsPath"),
        resources=resources_of(resources) if resources else None,
        sysctl=linux.text_mapping("sysctl"),
        masked_paths=linux.texts("maskedPaths"),
        readonly_paths=linux.texts("readonlyPaths"),
        mount_label=linux.text("mountLabel"),
        rootfs_propagation=linux.text("rootfsPropagation"),
        uid_mappings=tuple(_id_mapping(mapping) for mapping in linux.children("uidMappings")),
        gid_mappings=tuple(_id_mapping(mapping) for mapping in linux.children("gidMappings")),
        seccomp=_seccomp(linux),
        intel_rdt=linux.raw_object("intelRdt"),
        personality=personality_of(personality) if personality else None,
        time_offsets=time_offsets_of(offsets) if offsets else (),
        memory_policy=memory_policy_of(policy) if policy else None,
        net_devices=net_devices_of(devices) if devices else {},
    )


def _seccomp(linux: JsonObject) -> Mapping[str, object] | None:
    """The profile; None for an object without an action and a rule, which is runtimes' word for none as well."""
    found = linux.raw_object("seccomp")
    return found if found and (found.get("defaultAction") or found.get("syscalls")) else None


def _namespaces(namespaces: list[JsonObject]) -> tuple[LinuxNamespace, ...]:
    found: dict[str, LinuxNamespace] = {}
    for namespace in namespaces:
        kind = namespace.required_text("type")
        if kind in found:
            raise namespace.error("type", _ANOTHER)
        found[kind] = LinuxNamespace(kind, namespace.text("path"))
    return tuple(found.values())


def _id_mapping(mapping: JsonObject) -> IdMapping:
    return IdMapping(*(mapping.required_integer(key, UINT32) for key in ("containerID", "hostID", "size")))


def _device(device: JsonObject) -> Device:
    return Device(
        path=device.required_text("path"),
        type=device.required_text("type"),
        major=device.integer("major", UINT32),
        minor=device.integer("minor", UINT32),
        file_mode=device.optional_integer("fileMode", UINT32),
        uid=device.optional_integer("uid", IDS),
        gid=device.optional_integer("gid", IDS),
    )
