"""A fork on behalf of the parent."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from containerd_shimkit.linux.sibling import fork_sibling

InChild = Callable[[Callable[[], object]], None]


def test_a_sibling_is_a_child_of_its_forkers_parent_which_collects_it(in_child: InChild) -> None:
    def work() -> None:
        ours, theirs = os.pipe()
        forker = os.fork()
        if forker == 0:
            pid = fork_sibling()
            if pid == 0:
                os.write(theirs, f"{os.getpid()} {os.getppid()} {threading.active_count()}\n".encode())
                os._exit(42)
            os._exit(0)
        os.close(theirs)
        with open(ours) as pipe:
            pid, parent, threads = map(int, pipe.read().split())
        statuses = {child: os.waitstatus_to_exitcode(status) for child, status in (os.wait(), os.wait())}
        assert statuses == {forker: 0, pid: 42}
        assert (parent, threads) == (os.getpid(), 1)

    in_child(work)


def test_the_forker_is_told_the_pid_and_its_sibling_may_fork_again(in_child: InChild) -> None:
    def work() -> None:
        ours, theirs = os.pipe()
        if os.fork() == 0:
            pid = fork_sibling()
            if pid == 0:
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(5)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
            os.write(theirs, f"{pid}\n".encode())
            os._exit(0)
        os.close(theirs)
        with open(ours) as pipe:
            told = int(pipe.read())
        assert os.waitstatus_to_exitcode(os.waitpid(told, 0)[1]) == 5

    in_child(work)
