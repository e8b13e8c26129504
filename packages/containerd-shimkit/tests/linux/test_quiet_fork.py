"""Forks without the standard library's work for threads: in forked children, for it cannot be taken back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from containerd_shimkit.linux.quiet_fork import quieten_forks

log = logging.getLogger(__name__)
InChild = Callable[[Callable[[], object]], None]


def test_children_and_grandchildren_can_log(in_child: InChild) -> None:
    def work() -> None:
        ours, theirs = os.pipe()
        logging.basicConfig(handlers=[logging.StreamHandler(os.fdopen(theirs, "w"))], force=True, format="%(message)s")
        quieten_forks()
        child = os.fork()
        if child == 0:
            log.warning("child")
            grandchild = os.fork()
            if grandchild == 0:
                log.warning("grandchild")
                logging.getLogger("new").addHandler(logging.NullHandler())
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        log.warning("parent")
        assert os.read(ours, 100).split() == [b"child", b"grandchild", b"parent"]

    in_child(work)


def test_the_lock_of_logging_is_free_on_both_sides(in_child: InChild) -> None:
    def is_free() -> bool:
        found: list[bool] = []
        lock = logging._lock  # type: ignore[attr-defined]
        other = threading.Thread(target=lambda: found.append(lock.acquire(timeout=2)))
        other.start()
        other.join()
        return found == [True]

    def work() -> None:
        quieten_forks()
        child = os.fork()
        if child == 0:
            os._exit(0 if is_free() else 9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert is_free()

    in_child(work)
