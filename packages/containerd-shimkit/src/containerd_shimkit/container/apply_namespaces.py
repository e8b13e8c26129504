"""Carries out the steps that make and enter namespaces, and that set what belongs to them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from ..linux import namespaces, procfs
from .operations import (
    BringLoopbackUp,
    JoinNamespace,
    NewTimeNamespace,
    Operation,
    SetDomainname,
    SetHostname,
    SetSysctl,
    Unshare,
    WaitForNetDevices,
)
from .site import Site

__all__ = ["WORK"]

_NAMESPACE_FILES: Final = {"network": "net", "mount": "mnt"}


def _unshare(site: Site, kinds: tuple[str, ...]) -> None:
    del site
    namespaces.unshare(sum(namespaces.NAMESPACE_FLAGS[kind] for kind in kinds))


def _new_time_namespace(site: Site, offsets: str) -> None:
    del site
    namespaces.enter_new_time_namespace(offsets)


def _bring_loopback_up(site: Site) -> None:
    del site
    namespaces.bring_loopback_up()


def _wait_for_net_devices(site: Site) -> None:
    site.wait_for_shim({"kind": "netDevices"})


def _set_sysctl(site: Site, name: str, value: str, namespace: str) -> None:
    _refuse_hosts(site, namespace)
    descriptor = procfs.open_setting(name)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _set_hostname(site: Site, name: str) -> None:
    _refuse_hosts(site, "uts")
    namespaces.set_hostname(name)


def _set_domainname(site: Site, name: str) -> None:
    _refuse_hosts(site, "uts")
    namespaces.set_domainname(name)


def _refuse_hosts(site: Site, kind: str) -> None:
    if kind in site.hosts:
        raise OSError(errno.EPERM, f"the {kind} namespace that is joined is the host's own: set it on the host")


def _join_namespace(site: Site, kind: str, path: str) -> None:
    descriptor = namespaces.open_namespace(path, kind)
    try:
        if os.path.samestat(os.fstat(descriptor), os.stat(f"/proc/self/ns/{_NAMESPACE_FILES.get(kind, kind)}")):
            if kind == "mount":  # whose root is about to be changed for everybody in it
                raise OSError(errno.EPERM, "this mount namespace is the shim's own: give the container another", path)
            site.hosts.add(kind)
        namespaces.setns(descriptor, namespaces.NAMESPACE_FLAGS[kind])
    finally:
        os.close(descriptor)


WORK: Final[dict[type[Operation], Callable[..., None]]] = {
    JoinNamespace: _join_namespace,
    Unshare: _unshare,
    NewTimeNamespace: _new_time_namespace,
    BringLoopbackUp: _bring_loopback_up,
    WaitForNetDevices: _wait_for_net_devices,
    SetSysctl: _set_sysctl,
    SetHostname: _set_hostname,
    SetDomainname: _set_domainname,
}
