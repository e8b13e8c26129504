"""The kernel, one facility a module. Only where containers are made is this imported."""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError(
        f"containerd_shimkit.linux works on Linux only, and this is {sys.platform}: "
        "import containerd_shimkit.instance, .ttrpc, .task or .oci here, and leave .container and .shim to Linux"
    )
