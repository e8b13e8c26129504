"""After the pivot nothing of the image may become code of ours: no import, no library, no name service module.

Closed in the shim already, before anything is forked: its own installation may be upgraded under it, too.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec
from types import ModuleType
from typing import Final

from ..linux.booted import is_systemd_init

__all__ = ["close_imports", "pin_libraries"]

# what the standard library imports only when it first needs it, and we, for commands that need it not at all
_LAZY: Final = (
    "containerd_shimkit.container.stats",
    "containerd_shimkit.linux.cgroup_none",
    "containerd_shimkit.linux.cgroup_v2",
    "containerd_shimkit.linux.id_map_programs",
    "containerd_shimkit.linux.programs",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_8",
    "json.decoder",
    "json.encoder",
    "linecache",
    "stringprep",
    "textwrap",
    "tomli",
    "tomllib",
    "tokenize",
    "traceback",
    "unicodedata",
    "_colorize",
    "_strptime",
    "concurrent.futures._base",
)
_FOR_ONE_CONTAINER: Final = ("encodings.ascii", "encodings.latin_1")
_WITHOUT_ROOT: Final = ("containerd_shimkit.linux.id_map_programs",)
_WITH_SYSTEMD: Final = ("containerd_shimkit.linux.systemd_cgroups",)
# glibc 2.34 and newer have "files" and "dns" built in; before, they are these libraries. libgcc_s is for unwinding.
_LIBRARIES: Final = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1")
_DATABASES: Final = ("passwd", "group", "shadow", "hosts", "networks", "protocols", "services", "ethers", "rpc")


class _Closed:
    """A finder that finds nothing and says why."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        raise ModuleNotFoundError(
            f"imports are closed in a shim, so {name} cannot be imported now: "
            "import it at the top of your module, or in Engine.warm()",
            name=name,
        )


def close_imports(*, lives_on: bool = True) -> None:
    """Make every later import of a file fail with ModuleNotFoundError; what is built into Python still works.

    What a process that *lives_on* may still come to need is imported first. Others, which make one container, have it.
    """
    with_systemd = _WITH_SYSTEMD if is_systemd_init() else ()
    for_one = (*_FOR_ONE_CONTAINER, *(_WITHOUT_ROOT if os.geteuid() else ()))
    for name in (*_LAZY, *with_systemd) if lives_on else for_one:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # of another Python version
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, _Closed]


def pin_libraries() -> None:
    """Load what the C library would load later, and fix its name services to files and dns.

    Otherwise an image's nsswitch.conf would choose libraries, and its own file system would be where they come from.
    """
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            pass  # another C library, or a static one: it has nothing to load
    configure = getattr(ctypes.CDLL(None), "__nss_configure_lookup", None)
    if configure is None:
        return
    configure.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    for database in _DATABASES:
        configure(database.encode(), b"files dns" if database in ("hosts", "networks") else b"files")
