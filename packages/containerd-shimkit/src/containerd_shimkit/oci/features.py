"""What this runtime can do, in the form of the specification's features document, as `-info` gives it to containerd.

Only what is carried out stands here: containerd decides by it what it may ask for.
Source: OCI runtime specification 1.2, features.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from . import attributes, seccomp
from .hooks import HOOK_KINDS
from .mount_options import KNOWN_OPTIONS

__all__ = ["features_document"]

_NAMESPACES: Final = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")


def features_document(seccomp_flags: Iterable[str] = seccomp.FLAGS) -> bytes:
    """The document, as JSON. The kernel takes *seccomp_flags*."""
    document = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(KNOWN_OPTIONS),
        "linux": {
            "namespaces": list(_NAMESPACES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": list(seccomp.ACTIONS),
                "operators": list(seccomp.OPERATORS),
                "archs": list(seccomp.ARCHITECTURES),
                "knownFlags": list(seccomp.FLAGS),
                "supportedFlags": list(seccomp_flags),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "netDevices": {"enabled": True},
            "memoryPolicy": {"modes": list(attributes.MEMORY_MODES), "flags": list(attributes.MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()
