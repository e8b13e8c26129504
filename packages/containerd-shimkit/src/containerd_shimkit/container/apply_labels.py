"""Carries out the steps that label: the process itself, and what it mounts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from ..linux import labels, paths, process
from .operations import OpenLabels, Operation, SetFileContext, TakeLabels
from .site import Site

__all__ = ["WORK"]


def _set_file_context(site: Site, path: str, context: str) -> None:
    descriptor = paths.open_in_root(site.root_fd, path, os.O_PATH)
    try:
        os.setxattr(f"/proc/self/fd/{descriptor}", "security.selinux", context.encode())
    finally:
        os.close(descriptor)


def _open_labels(site: Site, apparmor: str, selinux: str) -> None:
    for_whom = labels.labels_of_this_process if site.in_process else labels.labels_of_next_program
    if selinux:
        site.keys = labels.key_labels(selinux)
    site.labels = for_whom(apparmor, selinux)


def _take_labels(site: Site, early: bool) -> None:
    if early and site.keys:
        for each in site.keys:
            each.write()
        process.join_new_session_keyring()  # the one that there is has been made in the shim's context
        site.keys = ()
    if early is not site.in_process:
        for each in site.labels:
            each.write()
        site.labels = ()


WORK: Final[dict[type[Operation], Callable[..., None]]] = {
    SetFileContext: _set_file_context,
    OpenLabels: _open_labels,
    TakeLabels: _take_labels,
}
