"""The child's side of an exec: a process that enters a living container, and one of it that becomes the program.

A container's processes are not trusted, and the one with CAP_SYS_PTRACE among them may take over any that it can see
while the kernel lets it. So the first process stays out of the container's pid namespace, where nobody in there can
name it. It enters everything else, gives up its privileges, and then forks the second, which is born in that namespace
as the shim's own child, and has nothing left that the container does not have.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from ..errors import FailedPreconditionError, ResourceExhaustedError
from ..linux import namespaces, process, rlimits
from ..linux.cgroup import Cgroup
from ..linux.pidfd import ProcessIdentity
from ..linux.sibling import fork_sibling
from ..linux.terminals import make_controlling
from ..linux.user_namespaces import are_groups_fixed, leave_groups, own_standing
from .apply_terminal import hand_over, take_streams
from .channel import Channel
from .executor import Executor, Inside, Preparation
from .init import ShimGoneError, apply_all, check_threads, expect, forget_parent, report
from .site import Site
from .stdio import give_streams
from .steps import Step

__all__ = ["ExecTask", "run_exec"]

# whatever else is entered, the user namespace comes last: in it, root loses the rights to enter the others. Who is not
# root gets those rights by entering it, as what it made itself
_ORDER: Final = ("cgroup", "ipc", "uts", "network", "time", "mount", "pid", "user")


@dataclass(frozen=True, slots=True)
class ExecTask:
    """All that the first process is given at its birth; the steps are those of an `ExecPlan`."""

    id: str  # of the container
    init: ProcessIdentity
    user: int
    host: tuple[Step, ...]
    labels: tuple[Step, ...]
    root: tuple[Step, ...]
    outside: tuple[Step, ...]
    inside: tuple[Step, ...]
    annotations: Mapping[str, str]
    cgroup: Cgroup
    stdio: tuple[int, int, int]
    channel: Channel
    executor: Executor
    preserved: tuple[int, ...] = ()  # descriptors that the program is to have besides


def run_exec(task: ExecTask) -> NoReturn:
    """Live the life of both processes, and leave them: never returns, never raises.

    An error before the program runs goes to the shim as a message, and ends the process with status 1.
    """
    status = 1
    try:
        site = _enter(task)
        pid = _fork(task)
        if pid:
            task.channel.send({"kind": "forked", "pid": pid})
            status = 0
        else:
            status = _become(task, site)
    except ShimGoneError:
        pass
    except BaseException as error:
        report(task.channel, error)
    finally:
        os._exit(status)


def _enter(task: ExecTask) -> Site:
    """Enter the container but for its pid namespace, and become its user."""
    forget_parent({task.channel.fileno(), *task.stdio, *task.preserved})
    is_root = os.geteuid() == 0
    if is_root:
        process.set_dumpable(False)  # nobody may look into this process while it holds the host's things
    process.set_name("shim-exec")
    for target, descriptor in enumerate(task.stdio):
        os.dup2(descriptor, target)
    site = Site("", task.cgroup, line=task.channel)
    apply_all(task.host, site)
    if not is_root:
        process.set_dumpable(False)  # now: an ordinary user's process could not have changed its own /proc files
    process.close_descriptors({task.channel.fileno(), *task.preserved})
    process.join_new_session_keyring()  # the service's own keys are not the container's
    theirs = _open_namespaces(task)
    site.fixed_groups = "user" in theirs and are_groups_fixed(task.init.pid)
    prepared = _prepare(task, theirs["mount"] if own_standing().is_hosts_root else -1)
    site.in_process = prepared.in_process
    apply_all(task.labels, site)  # by the host's procfs: this process is not in the container's
    if site.fixed_groups:
        leave_groups()
    for kind in _ORDER if is_root else ("user", *_ORDER[:-1]):
        if kind in theirs:
            namespaces.setns(theirs[kind], namespaces.NAMESPACE_FLAGS[kind])
    if "user" in theirs:
        with suppress(OSError):  # where the container has no root, this is nobody already
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
    # of the host nothing is open any more when the first path of the container is followed
    labels = [each.descriptor for each in (*site.keys, *site.labels)]
    process.close_descriptors({task.channel.fileno(), *prepared.keep, *labels, *task.preserved})
    _make_streams(task, site)
    rlimits.restore_descriptor_limit()
    apply_all(task.outside, site)
    return site


def _open_namespaces(task: ExecTask) -> dict[str, int]:
    try:
        theirs = namespaces.open_namespaces_of(task.init)
    except ProcessLookupError:
        raise FailedPreconditionError(f"container {task.id!r} has ended: nothing can be executed in it") from None
    except PermissionError:
        raise FailedPreconditionError(
            f"container {task.id!r} is closed to user {os.geteuid()}: it has not been started, or is another user's"
        ) from None
    if "mount" not in theirs:
        raise FailedPreconditionError(f"container {task.id!r} has no mount namespace of its own (any more)")
    return theirs


def _prepare(task: ExecTask, mount_namespace: int) -> Preparation:
    """Let the executor look its program up in the container's root, with the host's as `/` still."""
    if mount_namespace < 0:  # who is not the host's root could not come back
        root_fd = os.open(f"/proc/{task.init.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not task.init.is_alive():
            raise FailedPreconditionError(f"container {task.id!r} has ended: nothing can be executed in it")
        return _look_up(task, root_fd)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    # its root, which is where the init has pivoted to, whatever chroot(2) some process has done since
    namespaces.setns(mount_namespace, namespaces.CLONE_NEWNS)
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespaces.setns(own, namespaces.CLONE_NEWNS)
    os.close(own)
    return _look_up(task, root_fd)


def _look_up(task: ExecTask, root_fd: int) -> Preparation:
    prepared = task.executor.prepare(Inside(root_fd, task.annotations, task.channel, task.user))
    os.close(root_fd)
    check_threads()
    return prepared


def _make_streams(task: ExecTask, site: Site) -> None:
    if not task.root:
        give_streams(task.user)
        return
    site.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    apply_all(task.root, site)
    os.close(site.root_fd)
    if site.terminal is not None:
        hand_over(site.terminal, task.channel)
        take_streams(site.terminal)


def _fork(task: ExecTask) -> int:
    try:
        return fork_sibling()
    except OSError as error:
        if error.errno == errno.ENOMEM:  # also the word for a pid namespace whose init has ended
            raise FailedPreconditionError(
                f"no process can be made in container {task.id!r}: it has ended, or there is no memory left"
            ) from error
        raise ResourceExhaustedError(
            f"no process can be made in container {task.id!r}: {error.strerror}; "
            "look at linux.resources.pids and at process.rlimits (RLIMIT_NPROC)"
        ) from error


def _become(task: ExecTask, site: Site) -> int:
    """In the second process: wait until the shim knows of it, and be the program."""
    os.setsid()
    if site.terminal is not None:
        make_controlling(0)
    expect("start", task.channel.receive_plain())
    apply_all(task.inside, site)
    return task.executor.run(task.channel)
