"""The command line's first lines: a process that is going to fork one of a container begins anew, sealed.

It does so before anything is imported that it would have to import again.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

__all__ = ["main"]

_MAKERS: Final = {"create", "exec", "run"}


def main() -> NoReturn:
    """Carry out the command of sys.argv."""
    if not _MAKERS.isdisjoint(sys.argv[1:]):  # nothing is wrong with one too many
        from ..linux.process import set_name
        from ..linux.sealed_program import ensure_sealed

        ensure_sealed()
        set_name("containerd-shimkit-oci")  # or it would be named after the interpreter, or a descriptor
    from .main import main as carry_out

    carry_out()
