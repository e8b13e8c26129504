from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.linux.memory_policy import set_memory_policy

InChild = Callable[[Callable[[], object]], None]

if not Path("/proc/self/numa_maps").exists():
    pytest.skip("this kernel has no NUMA", allow_module_level=True)


def policies() -> set[str]:
    return {line.split()[1] for line in Path("/proc/self/numa_maps").read_text().splitlines()}


def test_memory_is_taken_as_asked(in_child: InChild) -> None:
    def work() -> None:
        set_memory_policy("MPOL_BIND", (0,), ("MPOL_F_STATIC_NODES",))
        assert "bind=static:0" in policies()
        set_memory_policy("MPOL_INTERLEAVE", (0,), ())
        assert "interleave:0" in policies()
        set_memory_policy("MPOL_DEFAULT", (), ())
        assert "default" in policies()

    in_child(work)


def test_a_node_that_is_not_there_is_an_error(in_child: InChild) -> None:
    def work() -> None:
        with pytest.raises(OSError, match="set_mempolicy") as caught:
            set_memory_policy("MPOL_BIND", (1023,), ())
        assert caught.value.errno == errno.EINVAL

    in_child(work)
