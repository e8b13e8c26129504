"""What each command does: from what was typed to the work, and from its outcome to what is printed. Exit statuses."""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError, NotFoundError, UnimplementedError

if TYPE_CHECKING:
    from .creation import Choices
    from .store import Store

__all__ = [
    "create",
    "delete",
    "events",
    "execute",
    "features",
    "kill",
    "list_containers",
    "pause",
    "ps",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
]

_log = logging.getLogger(__name__)


def _store(chosen: Namespace) -> Store:
    from .store import Store, default_root

    return Store(chosen.root or default_root())


def _choices(chosen: Namespace, *, keep: bool = False, stays: bool = False) -> Choices:
    from .creation import Choices

    if chosen.no_pivot:
        raise UnimplementedError(
            "--no-pivot is not supported: a container whose root is only changed can leave it; put the bundle on a "
            "file system that pivot_root(2) accepts, which is any but the initial RAM disk"
        )
    _check_preserved(chosen)
    pid_file = os.path.abspath(chosen.pid_file) if chosen.pid_file else ""
    bundle = os.path.abspath(chosen.bundle)
    console = os.path.abspath(chosen.console_socket) if chosen.console_socket else ""
    keyring, systemd = not chosen.no_new_keyring, chosen.systemd_cgroup
    return Choices(bundle, pid_file, console, chosen.preserve_fds, keyring, keep, systemd, stays)


def _check_preserved(chosen: Namespace) -> None:
    if not 0 <= chosen.preserve_fds <= 1000:
        raise InvalidArgumentError(f"--preserve-fds is {chosen.preserve_fds}; it must be 0 to 1000")


def _warn_of_exposure() -> None:
    from ..linux.sealed_program import exposure

    if reason := exposure():
        _log.warning("the container may get at this process's interpreter, which is not sealed: %s", reason)


def create(chosen: Namespace) -> int:
    """make a container, whose program waits for `start`"""
    _warn_of_exposure()
    from .creation import create as create_container

    create_container(_store(chosen), chosen.id, _choices(chosen))
    return 0


def run(chosen: Namespace) -> int:
    """make a container and start it; ends with its program's exit status"""
    _warn_of_exposure()
    from .control import start_now
    from .creation import create as create_container
    from .creation import run as run_container

    choices, store = _choices(chosen, keep=chosen.keep, stays=not chosen.detach), _store(chosen)
    if not chosen.detach:
        return run_container(store, chosen.id, choices)
    create_container(store, chosen.id, choices)
    start_now(store, chosen.id)
    return 0


def start(chosen: Namespace) -> int:
    """let the program of a created container run"""
    from .control import start_now

    start_now(_store(chosen), chosen.id)
    return 0


def state(chosen: Namespace) -> int:
    """print a container's state, as JSON"""
    print(json.dumps(_store(chosen).find(chosen.id).document(), indent=2))
    return 0


def kill(chosen: Namespace) -> int:
    """send a signal (SIGTERM if none is named) to a container's init"""
    from .control import kill as kill_container
    from .control import signal_number

    kill_container(_store(chosen).find(chosen.id), signal_number(chosen.signal), everyone=chosen.all)
    return 0


def delete(chosen: Namespace) -> int:
    """remove what is left of a container"""
    from .control import delete as delete_container

    try:
        delete_container(_store(chosen), chosen.id, force=chosen.force)
    except NotFoundError:
        if not chosen.force:
            raise
    return 0


def list_containers(chosen: Namespace) -> int:
    """list the containers"""
    from .listing import as_table, documents

    store = _store(chosen)
    if chosen.quiet:
        for id in store.ids():  # noqa: A001
            print(id)
        return 0
    found = documents(store)
    print(json.dumps(found) if chosen.format == "json" else as_table(found))
    return 0


def ps(chosen: Namespace) -> int:
    """list a container's processes: their pids as JSON, or what ps(1) says of them"""
    from .listing import lines_of_ps

    pids = _store(chosen).find(chosen.id).cgroup.pids()
    if chosen.format == "json":
        print(json.dumps(pids))
        return 0
    for line in lines_of_ps(pids, chosen.options or ("-ef",)):
        print(line)
    return 0


def spec(chosen: Namespace) -> int:
    """write a config.json to begin with"""
    from .template import template

    with open(os.path.join(chosen.bundle, "config.json"), "x", encoding="utf-8") as file:
        json.dump(template(rootless=chosen.rootless), file, indent="\t")
        file.write("\n")
    return 0


def features(chosen: Namespace) -> int:
    """print what this runtime can do, as JSON"""
    from ..linux.seccomp import supported_flags
    from ..oci.features import features_document

    del chosen
    print(json.dumps(json.loads(features_document(supported_flags())), indent=2))
    return 0


def execute(chosen: Namespace) -> int:
    """run a further program in a container; ends with its exit status"""
    _warn_of_exposure()
    from .execution import ExecChoices
    from .execution import execute as execute_in

    _check_preserved(chosen)
    choices = ExecChoices(
        process=os.path.abspath(chosen.process) if chosen.process else "",
        args=chosen.args,
        cwd=chosen.cwd,
        env=chosen.env,
        terminal=chosen.tty,
        user=chosen.user,
        groups=chosen.additional_gids,
        capabilities=chosen.cap,
        no_new_privileges=chosen.no_new_privs,
        apparmor=chosen.apparmor,
        label=chosen.process_label,
        console_socket=os.path.abspath(chosen.console_socket) if chosen.console_socket else "",
        pid_file=os.path.abspath(chosen.pid_file) if chosen.pid_file else "",
        preserved=chosen.preserve_fds,
        detach=chosen.detach,
    )
    return execute_in(_store(chosen).find(chosen.id), choices)


def pause(chosen: Namespace) -> int:
    """stop every process of a container where it is"""
    from .control import pause as pause_container

    store = _store(chosen)
    with store.lock(chosen.id):
        pause_container(store.find(chosen.id))
    return 0


def resume(chosen: Namespace) -> int:
    """let a paused container go on"""
    from .control import resume as resume_container

    store = _store(chosen)
    with store.lock(chosen.id):
        resume_container(store.find(chosen.id))
    return 0


def update(chosen: Namespace) -> int:
    """change the limits of a container"""
    from .control import update as update_container
    from .limits import resources_of

    resources, store = resources_of(chosen), _store(chosen)
    with store.lock(chosen.id):
        update_container(store.find(chosen.id), resources)
    return 0


def events(chosen: Namespace) -> int:
    """print what a container uses, again and again, and kills for want of memory"""
    from .events import as_line, figures, follow

    entry = _store(chosen).find(chosen.id)
    for event in [figures(entry)] if chosen.stats else follow(entry, chosen.interval):
        print(as_line(event), flush=True)
    return 0
