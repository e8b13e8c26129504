"""A shim for native programs, of containerd-shimkit alone; `-v` names the process that has found the version out."""

import os
import sys
from importlib.metadata import version

from containerd_shimkit.container.instance import ContainerInstance
from containerd_shimkit.shim.bootstrap import Shim, main

PROCESS = os.getpid()  # the zygote's, in its children too

if __name__ == "__main__":
    sys.exit(main(Shim("bare", lambda: f"{version('containerd-shimkit')} by {PROCESS}", ContainerInstance)))
