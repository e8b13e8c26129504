"""Kernel facilities, one a module: thin typed functions over system calls. Linux only."""

import sys

if sys.platform != "linux":
    raise ImportError(f"containerd_shimkit.linux works on Linux only; this is {sys.platform}")
