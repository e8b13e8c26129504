"""Plans what the process is that will run: limits, directory, filter, privileges. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..oci.seccomp import flags_of, listener_of
from ..oci.spec import Linux, Process
from .operations import (
    ChangeDirectory,
    DropPrivileges,
    InstallSeccomp,
    OpenLabels,
    Operation,
    SetIoPriority,
    SetMemoryPolicy,
    SetPersonality,
    SetRlimit,
    SetScheduler,
    TakeLabels,
)

__all__ = ["filter_steps", "label_steps", "process_steps"]


def process_steps(process: Process, linux: Linux) -> Iterator[Operation]:
    yield from (SetRlimit(limit.type, limit.soft, limit.hard) for limit in process.rlimits)
    # as root if that is possible, else as the user: a directory of root's alone works either way, as with runc
    yield ChangeDirectory(process.cwd, may_be_denied=True)
    yield from _attribute_steps(process, linux)
    has_labels = bool(process.apparmor_profile or process.selinux_label)
    if has_labels:
        yield TakeLabels(early=True)  # a filter might forbid to write there
    capabilities, user = process.capabilities, process.user
    if not process.no_new_privileges:
        yield from filter_steps(linux)  # it takes a capability that goes next
    yield DropPrivileges(
        uid=user.uid,
        gid=user.gid,
        groups=user.additional_gids,
        umask=0o022 if user.umask is None else user.umask,
        bounding=capabilities.bounding if capabilities else (),
        effective=capabilities.effective if capabilities else (),
        permitted=capabilities.permitted if capabilities else (),
        inheritable=capabilities.inheritable if capabilities else (),
        ambient=capabilities.ambient if capabilities else (),
        no_new_privileges=process.no_new_privileges,
    )
    yield ChangeDirectory(process.cwd)
    if has_labels:
        yield TakeLabels(early=False)


def label_steps(process: Process) -> Iterator[Operation]:
    """What the process's labels need while the host's procfs can be seen."""
    if process.apparmor_profile or process.selinux_label:
        yield OpenLabels(process.apparmor_profile, process.selinux_label)


def _attribute_steps(process: Process, linux: Linux) -> Iterator[Operation]:
    """What the kernel schedules and places the process by: while it has the capabilities that some of it needs.

    Late all the same, as the setting up is not to be slowed down by it.
    """
    if linux.personality is not None:
        yield SetPersonality(linux.personality.domain)
    if (policy := linux.memory_policy) is not None:
        yield SetMemoryPolicy(policy.mode, policy.nodes, policy.flags)
    if (io_priority := process.io_priority) is not None:
        yield SetIoPriority(io_priority.io_class, io_priority.priority)
    if (wanted := process.scheduler) is not None:
        times = (wanted.runtime, wanted.deadline, wanted.period)
        yield SetScheduler(wanted.policy, wanted.nice, wanted.priority, wanted.flags, *times)


def filter_steps(linux: Linux) -> Iterator[Operation]:
    if linux.seccomp is not None:
        yield InstallSeccomp(flags_of(linux.seccomp), notifies=listener_of(linux.seccomp) is not None)
