"""Removes what a container leaves: for the shim's own Delete, and for containerd's `delete` after a shim has died.

Blocking, so the shim calls it in a forked child. Every step may find its work done already.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping

from ..errors import InternalError, InvalidArgumentError
from ..linux.cgroups import cgroup_from
from ..linux.mounts import unmount_tree
from ..linux.pidfd import ProcessIdentity, kill_process, pidfd_open
from .state import ContainerState, read_state, remove_state

__all__ = ["clean_up", "clean_up_bundle", "remove_traces"]

_EXIT_TIMEOUT = 3.0  # containerd gives `delete` 5 s in all


def clean_up_bundle(bundle: str) -> int:
    """Remove all that the container of *bundle* has left, whatever it was doing; gives its init's pid, or 0."""
    if read_state(bundle) is None:
        # killed before there was a state: nothing of ours but, at most, a mount that another hand made
        unmount_tree(os.path.join(bundle, "rootfs"), detach=True)
        return 0
    return clean_up(bundle, bundle)


def clean_up(state_directory: str, bundle: str) -> int:
    """`clean_up_bundle` for a container whose state and config.json are in *state_directory*, if there is one."""
    state = read_state(state_directory)
    if state is None:
        return 0
    if state.init is not None:
        _end(state.init, state.cgroup_paths)
    remove_traces(state)
    if state.init is not None:
        _run_poststop_hooks(state_directory, bundle, state.id)
    remove_state(state_directory)
    return state.init.pid if state.init else 0


def remove_traces(state: ContainerState) -> None:
    """End the processes left in the container's cgroup, unmount its root, remove the cgroup.

    Raises: OSError, InternalError for what does not go; a second call goes on from there.
    """
    cgroup = cgroup_from(state.cgroup_paths) if state.cgroup_paths else None
    if cgroup is not None:
        cgroup.kill_all()
    if state.mounted_rootfs:
        unmount_tree(state.mounted_rootfs, detach=True)
    if cgroup is not None:
        cgroup.remove()


def _run_poststop_hooks(config_directory: str, bundle: str, id: str) -> None:  # noqa: A002
    # here, as most deletes have nothing left to do and need no parser
    from ..oci.hooks import state_document
    from ..oci.spec import read_spec
    from .hooks import try_hooks

    try:
        spec = read_spec(config_directory)
    except InvalidArgumentError:
        return  # it has become unreadable since
    if hooks := spec.hooks.get("poststop"):
        try_hooks("poststop", hooks, state_document(id, "stopped", 0, bundle, spec.annotations))


def _end(init: ProcessIdentity, cgroup_paths: Mapping[str, str]) -> None:
    """Kill the init and wait until it is gone, and with it every process of its pid namespace."""
    try:
        descriptor = pidfd_open(init.pid)
    except ProcessLookupError:
        return
    try:
        if not kill_process(init, signal.SIGKILL):
            return
        if cgroup_paths:
            cgroup_from(cgroup_paths).let_killed_end()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(_EXIT_TIMEOUT * 1000):
            raise InternalError(f"process {init.pid} did not end within {_EXIT_TIMEOUT:g} s of SIGKILL")
    finally:
        os.close(descriptor)
