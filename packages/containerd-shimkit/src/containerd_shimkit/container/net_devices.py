"""Moves interfaces of the host into a container's network namespace: `linux.netDevices`.

Done by whoever makes the container, for the init may have left the host's privileges behind; in a forked child, as the
kernel waits for those that still use an interface.
Source: OCI runtime specification 1.3, config-linux.md, "Network Devices".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ..errors import AlreadyExistsError, InternalError, InvalidArgumentError, NotFoundError, PermissionDeniedError
from ..linux import namespaces
from ..linux.rtnetlink import Rtnetlink, move_interface
from ..shim.reaper import Reaper
from .worker import run_in_child

__all__ = ["move_net_devices"]

_TIMEOUT: Final = 30.0
_KINDS: Final = {
    errno.ENOENT: (NotFoundError, "name one of the host's, as `ip link` lists them"),
    errno.EEXIST: (AlreadyExistsError, "its name is taken there; give it another"),
    errno.EINVAL: (InvalidArgumentError, "the kernel does not let such an interface leave its namespace"),
    errno.EPERM: (PermissionDeniedError, "it takes CAP_NET_ADMIN"),
}


async def move_net_devices(devices: Mapping[str, str], pid: int, reaper: Reaper) -> None:
    """Move the host's interfaces *devices*, each with its name there, to the network namespace of the process *pid*.

    What has been moved when one cannot be is moved back. Raises: ShimError, by the interface.
    """
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        await run_in_child(
            lambda: _move_all(devices, namespace),
            reaper,
            what="moving the interfaces of linux.netDevices",
            timeout=_TIMEOUT,
            keep=(namespace,),
        )
    finally:
        os.close(namespace)


def _move_all(devices: Mapping[str, str], namespace: int) -> None:
    if os.path.samestat(os.stat("/proc/self/ns/net"), os.fstat(namespace)):
        raise InvalidArgumentError(
            "config.json: linux.netDevices is set, but the network namespace that the container joins is the host's"
        )
    here = Rtnetlink()
    namespaces.setns(namespace, namespaces.CLONE_NEWNET)
    there = Rtnetlink()
    moved: dict[str, str] = {}
    for name, new_name in devices.items():
        try:
            moved[name] = move_interface(here, there, name, new_name)
        except OSError as error:
            for back, inside in moved.items():
                with suppress(OSError):  # the first error is the one to be told
                    move_interface(there, here, inside, back)
            kind, cure = _KINDS.get(error.errno or 0, (InternalError, "see the kernel's log"))
            raise kind(
                f"config.json: linux.netDevices: {name!r} cannot be moved as {new_name!r}: {error.strerror}; {cure}"
            ) from error
