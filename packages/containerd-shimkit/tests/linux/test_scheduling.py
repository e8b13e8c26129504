from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from containerd_shimkit.linux import scheduling
from containerd_shimkit.linux.libc import SYSCALLS, libc

InChild = Callable[[Callable[[], object]], None]


def io_priority() -> int:
    number = {251: 252, 30: 31}[SYSCALLS["ioprio_set"]]  # ioprio_get has the next number
    return int(libc.syscall(number, 1, 0))


def test_a_process_is_scheduled_as_asked(in_child: InChild) -> None:
    def work() -> None:
        scheduling.set_scheduler("SCHED_BATCH", 7, 0, ("SCHED_FLAG_RESET_ON_FORK",) * 2, 0, 0, 0)
        assert os.sched_getscheduler(0) == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK
        assert os.getpriority(os.PRIO_PROCESS, 0) == 7
        scheduling.set_scheduler("SCHED_IDLE", 0, 0, (), 0, 0, 0, pid=os.getpid())
        assert os.sched_getscheduler(0) == os.SCHED_IDLE

    in_child(work)


@pytest.mark.root
def test_a_real_time_policy_has_a_priority(in_child: InChild) -> None:
    if os.geteuid():
        pytest.skip("it takes CAP_SYS_NICE")

    def work() -> None:
        scheduling.set_scheduler("SCHED_RR", 0, 3, (), 0, 0, 0)
        assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == (os.SCHED_RR, 3)
        with pytest.raises(OSError, match="sched_setattr"):
            scheduling.set_scheduler("SCHED_RR", 0, 0, (), 0, 0, 0)

    in_child(work)


def test_disks_serve_a_process_as_asked(in_child: InChild) -> None:
    def work() -> None:
        scheduling.set_io_priority("IOPRIO_CLASS_IDLE", 0)
        assert io_priority() == 3 << 13
        scheduling.set_io_priority("IOPRIO_CLASS_BE", 6)
        assert io_priority() == 2 << 13 | 6

    in_child(work)
