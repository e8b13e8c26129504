from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest
from containerd_shimkit.linux import mounts, namespaces
from containerd_shimkit.oci import mount_options as ms

_ALONE = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC


def run_in_child(work: Callable[[], object]) -> None:
    """Call *work* in a forked child; what it raises fails the test, and whatever it changes ends with it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            work()
            status = 0
        except BaseException:
            os.write(writer, traceback.format_exc()[-60_000:].encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    _pid, status = os.waitpid(pid, 0)
    if said or status:
        pytest.fail(f"the child ended with {os.waitstatus_to_exitcode(status)}:\n{said}", pytrace=False)


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], None]:
    """Call a function in a forked child of ours."""
    return run_in_child


@pytest.fixture
def in_namespaces() -> Callable[[Callable[[], object]], None]:
    """Call a function in a forked child with mounts, host name and network of its own: nothing of it is left."""

    def run(work: Callable[[], object]) -> None:
        def alone() -> None:
            namespaces.unshare(_ALONE)
            mounts.mount("", "/", "", ms.MS_REC | ms.MS_PRIVATE)
            work()

        run_in_child(alone)

    return run
