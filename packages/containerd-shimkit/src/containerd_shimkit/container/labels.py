"""Whether this machine can give a container the security labels that its specification asks for."""

from __future__ import annotations

from ..errors import UnimplementedError
from ..linux.labels import has_apparmor, has_selinux
from ..oci.spec import Spec

__all__ = ["check_labels"]


def check_labels(spec: Spec) -> None:
    """Refuse labels that this kernel does not know, before anything is made: unconfined is not what was asked for.

    Raises: UnimplementedError, naming the field.
    """
    process, linux = spec.process, spec.linux
    profile = process.apparmor_profile if process else ""
    if profile and not has_apparmor():
        raise UnimplementedError(
            f"config.json: process.apparmorProfile is {profile!r}, but this kernel has no AppArmor or "
            "has it switched off; boot with lsm=...,apparmor, or leave the profile out"
        )
    contexts = {
        "process.selinuxLabel": process.selinux_label if process else "",
        "linux.mountLabel": linux.mount_label if linux else "",
    }
    for field, context in contexts.items():
        if context and not has_selinux():
            raise UnimplementedError(
                f"config.json: {field} is {context!r}, but SELinux is absent here or switched off; "
                "load a policy, or leave the label out"
            )
