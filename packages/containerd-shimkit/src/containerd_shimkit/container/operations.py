"""The steps that make a container, as values: a plan of them is compared in a test before anything is mounted.

Paths named `target` or `path` are as the container will see them; `source` paths are the host's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..oci.spec import Resources

__all__ = [
    "BecomeRoot",
    "BindDevice",
    "BindMount",
    "BindRoot",
    "BringLoopbackUp",
    "CgroupMount",
    "ChangeDirectory",
    "ChangeRoot",
    "CopiedTmpfs",
    "DeviceNode",
    "DropPrivileges",
    "EnterUserNamespace",
    "FilesystemMount",
    "GiveStreams",
    "IdRange",
    "InstallSeccomp",
    "JoinCgroup",
    "JoinNamespace",
    "MakeDirectory",
    "MakeTerminal",
    "MappedBindMount",
    "MaskPath",
    "NewPidNamespace",
    "NewTimeNamespace",
    "OpenLabels",
    "OpenMappedMount",
    "OpenSources",
    "Operation",
    "PivotRoot",
    "PrepareRoot",
    "RaiseRlimit",
    "ReadonlyPath",
    "ReadonlyRoot",
    "RunHooks",
    "SetAffinity",
    "SetDomainname",
    "SetFileContext",
    "SetHostname",
    "SetIoPriority",
    "SetMemoryPolicy",
    "SetMountAttributes",
    "SetOomScoreAdj",
    "SetPersonality",
    "SetRlimit",
    "SetRootPropagation",
    "SetScheduler",
    "SetSysctl",
    "SymbolicLink",
    "TakeLabels",
    "Unshare",
    "WaitForHooks",
    "WaitForNetDevices",
]


IdRange: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SetOomScoreAdj:
    """How readily the kernel's out-of-memory killer picks this process, -1000 to 1000."""

    value: int


@dataclass(frozen=True, slots=True)
class JoinCgroup:
    """Enter the container's cgroup, which the shim has made with the limits *resources*."""

    resources: Resources | None


@dataclass(frozen=True, slots=True)
class OpenMappedMount:
    """Make a bind mount of *source* whose files' owners appear as others: by ranges of first id on disk, first id
    shown, and how many. It is nowhere until a `MappedBindMount` of the same *number* puts it somewhere.

    Only the host's root may do it. It takes a process for a moment, which is not to count as the container's.
    """

    source: str
    number: int
    uid_mappings: tuple[IdRange, ...]
    gid_mappings: tuple[IdRange, ...]
    maps_below: bool  # also what is mounted below it
    recursive: bool
    propagation: int  # what it has of the host's, until more is said: MS_SLAVE, MS_PRIVATE, or 0 to be the same


@dataclass(frozen=True, slots=True)
class JoinNamespace:
    """Enter the existing namespace at *path*; *kind* is the specification's word for it."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Unshare:
    """Make new namespaces of these kinds (the specification's words) and enter them."""

    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewTimeNamespace:
    """Make a time namespace and enter it; *offsets* are its clocks', as timens_offsets takes them."""

    offsets: str


@dataclass(frozen=True, slots=True)
class RaiseRlimit:
    """Raise a hard limit, never lower it, while that can be done: the process may be given it later."""

    type: str
    hard: int


@dataclass(frozen=True, slots=True)
class GiveStreams:
    """Make the standard streams the host's user *uid*'s."""

    uid: int


@dataclass(frozen=True, slots=True)
class EnterUserNamespace:
    """Enter the user namespace at *path*, or a new one, whose ids whoever makes the container sets.

    The ranges are triples: the first id inside, the first on the host, how many; of an existing namespace they are
    compared. With *renew_pid* the process then goes on as the first of a pid namespace of that user namespace.
    """

    path: str
    renew_pid: bool
    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class OpenSources:
    """Open these paths of the host, sources of later bind mounts, for as long as the root is being built."""

    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BecomeRoot:
    """Become the user and group 0 of the user namespace."""


@dataclass(frozen=True, slots=True)
class NewPidNamespace:
    """Make a pid namespace and go on in it, as another process."""


@dataclass(frozen=True, slots=True)
class BringLoopbackUp:
    """Give a new network namespace its loopback interface."""


@dataclass(frozen=True, slots=True)
class WaitForNetDevices:
    """Wait until the shim has moved interfaces of the host into the network namespace."""


@dataclass(frozen=True, slots=True)
class PrepareRoot:
    """Cut the new mount namespace off from the host's and make the new root a mount of its own.

    *hosts* are MS_ propagation flags for the host's mounts in it: rslave, rprivate, or 0 to leave the two connected,
    the root excepted.
    """

    hosts: int
    follows_host: bool = False  # what the host mounts within the root later comes to be mounted in the container too


@dataclass(frozen=True, slots=True)
class BindMount:
    """Show the host's *source* at *target*; *flags* and *cleared* are MS_ bits for a second, re-mounting call."""

    source: str
    target: str
    recursive: bool = False
    flags: int = 0
    cleared: int = 0
    propagation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MappedBindMount:
    """Put the mount that an `OpenMappedMount` has made of *source* at *target*; otherwise it is a `BindMount`."""

    source: str
    number: int
    target: str
    flags: int = 0
    cleared: int = 0
    propagation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FilesystemMount:
    """Mount a new file system of type *fstype* at *target*."""

    fstype: str
    source: str
    target: str
    flags: int = 0
    data: str = ""
    propagation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CopiedTmpfs:
    """A new tmpfs at *target* with a copy of what it hides."""

    source: str
    target: str
    flags: int = 0
    data: str = ""
    propagation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """Show the container its own cgroup at *target*: the hierarchies of version 1 side by side, or that of version 2.

    *unified* asks for version 2 even where the host has both.
    """

    target: str
    unified: bool
    namespaced: bool  # the container has a cgroup namespace: what is mounted is then cut to it by the kernel
    flags: int = 0
    data: str = ""
    propagation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SetMountAttributes:
    """Set and clear MOUNT_ATTR_ bits on the mount at *target* and on all that is mounted below it."""

    target: str
    chosen: int
    cleared: int


@dataclass(frozen=True, slots=True)
class SetFileContext:
    """The SELinux context of the file at *path*."""

    path: str
    context: str


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A character or block device or FIFO; *mode* holds the file type bits as well (`stat.S_IFCHR | 0o666`)."""

    path: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class BindDevice:
    """The host's device at *source*, shown at *path*; *kind* is its file type (`stat.S_IFCHR`)."""

    path: str
    source: str
    kind: int
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class SymbolicLink:
    """A link at *path* in the container; left alone when something is there already."""

    path: str
    points_to: str


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Write *value* to the kernel setting *name*, given with slashes: `net/ipv4/ip_forward`; *namespace* holds it."""

    name: str
    value: str
    namespace: str


@dataclass(frozen=True, slots=True)
class SetHostname:
    """The UTS namespace's host name."""

    name: str


@dataclass(frozen=True, slots=True)
class SetDomainname:
    """The UTS namespace's NIS domain name."""

    name: str


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """A directory with its parents, where the image has none (a working directory that nobody made)."""

    path: str


@dataclass(frozen=True, slots=True)
class MakeTerminal:
    """A terminal of the container's devpts for the process of user *uid*; *size* is height and width in characters.

    With *console* it is the container's /dev/console as well.
    """

    uid: int
    size: tuple[int, int] | None
    console: bool


@dataclass(frozen=True, slots=True)
class MaskPath:
    """Hide *path*: a file below /dev/null, a directory below an empty read-only tmpfs; nothing when absent."""

    path: str


@dataclass(frozen=True, slots=True)
class ReadonlyPath:
    """Make *path* and all below it read-only; nothing when absent."""

    path: str


@dataclass(frozen=True, slots=True)
class ReadonlyRoot:
    """Make the root mount read-only (mounts on it keep their own setting)."""


@dataclass(frozen=True, slots=True)
class BindRoot:
    """Make the new root a mount of its own among the host's, of which the host's other mounts hear nothing."""


@dataclass(frozen=True, slots=True)
class ChangeRoot:
    """Make the new root `/` for this process and its children, while the mounts stay the host's."""


@dataclass(frozen=True, slots=True)
class PivotRoot:
    """Make the new root `/`, and let go of the host's tree."""

    connected: bool = False  # the host would hear of what is unmounted in its tree


@dataclass(frozen=True, slots=True)
class SetRootPropagation:
    """Give `/` the MS_ propagation *flags*, once it is the container's."""

    flags: int


@dataclass(frozen=True, slots=True)
class SetAffinity:
    """The CPUs that the process may run on."""

    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetRlimit:
    """A resource limit by its RLIMIT_ name; 2^64-1 is infinity."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class DropPrivileges:
    """Capabilities (by name), user, groups, umask, no_new_privs: one operation, for their order is a rule.

    The bounding set goes first (it needs CAP_SETPCAP), ids next (kept capabilities bridge the change), the capability
    sets after, ambient ones last (they must be permitted and inheritable).
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...]
    ambient: tuple[str, ...]
    no_new_privileges: bool


@dataclass(frozen=True, slots=True)
class SetScheduler:
    """How the process is given the CPU, in sched_setattr(2)'s words; times in nanoseconds."""

    policy: str
    nice: int
    priority: int
    flags: tuple[str, ...]
    runtime: int
    deadline: int
    period: int


@dataclass(frozen=True, slots=True)
class SetIoPriority:
    """How disks serve the process, in ioprio_set(2)'s words."""

    io_class: str
    priority: int


@dataclass(frozen=True, slots=True)
class SetMemoryPolicy:
    """From which NUMA nodes the process's memory comes, in set_mempolicy(2)'s words."""

    mode: str
    nodes: tuple[int, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetPersonality:
    """Which kernel the process sees: LINUX, or LINUX32."""

    domain: str


@dataclass(frozen=True, slots=True)
class OpenLabels:
    """Open what the process's security labels will be written to: out of reach once the host's procfs is."""

    apparmor: str  # a profile's name; empty: none
    selinux: str  # a context; empty: none


@dataclass(frozen=True, slots=True)
class TakeLabels:
    """Take the labels on: *early* those of a program that is to be executed, else those of this very process.

    Which of the two there is, the executor decides: once labelled itself, a process can do no more than its guest.
    """

    early: bool


@dataclass(frozen=True, slots=True)
class InstallSeccomp:
    """The filter of system calls: the specification's words for its flags, None for what runtimes take then, and the
    compiled program, empty until there is one. One that `notifies` has a listener, which the shim takes and hands over.
    """

    flags: tuple[str, ...] | None
    program: bytes = b""
    notifies: bool = False


@dataclass(frozen=True, slots=True)
class ChangeDirectory:
    """The process's working directory; nothing when it has been entered already."""

    path: str
    may_be_denied: bool = False  # there will be another try, as another user


@dataclass(frozen=True, slots=True)
class WaitForHooks:
    """Wait until the shim has run the hooks that see the container from outside, in the runtime's namespaces."""


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Run the *hooks* of one *kind*, each the values of a `Hook`, with *state*: JSON that lacks the pid."""

    kind: str
    hooks: tuple[tuple[str, tuple[str, ...], tuple[str, ...], int | None], ...]
    state: bytes


Operation: TypeAlias = (
    SetOomScoreAdj
    | JoinCgroup
    | OpenMappedMount
    | JoinNamespace
    | Unshare
    | NewPidNamespace
    | NewTimeNamespace
    | RaiseRlimit
    | GiveStreams
    | EnterUserNamespace
    | OpenSources
    | BecomeRoot
    | BindDevice
    | BringLoopbackUp
    | WaitForNetDevices
    | PrepareRoot
    | BindRoot
    | ChangeRoot
    | BindMount
    | MappedBindMount
    | FilesystemMount
    | CopiedTmpfs
    | CgroupMount
    | SetMountAttributes
    | SetFileContext
    | DeviceNode
    | SymbolicLink
    | SetSysctl
    | SetHostname
    | SetDomainname
    | MakeDirectory
    | MakeTerminal
    | MaskPath
    | ReadonlyPath
    | ReadonlyRoot
    | PivotRoot
    | SetRootPropagation
    | SetAffinity
    | SetRlimit
    | SetScheduler
    | SetIoPriority
    | SetMemoryPolicy
    | SetPersonality
    | OpenLabels
    | TakeLabels
    | DropPrivileges
    | InstallSeccomp
    | ChangeDirectory
    | WaitForHooks
    | RunHooks
)
