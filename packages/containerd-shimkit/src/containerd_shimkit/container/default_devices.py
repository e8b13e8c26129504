"""The devices that every container has. Source: OCI runtime specification, config-linux.md, "Default Devices"."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_DEVICES"]

DEFAULT_DEVICES: Final = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
"""Name in /dev, major, minor: all of them for characters."""
