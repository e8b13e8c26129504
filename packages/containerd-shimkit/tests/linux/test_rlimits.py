from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.linux.capabilities import CAPABILITIES, permitted_mask
from containerd_shimkit.linux.rlimits import (
    RLIM_INFINITY,
    RLIMITS,
    raise_descriptor_limit,
    raise_hard_limit,
    restore_descriptor_limit,
    set_rlimit,
)


def test_the_numbers_are_the_kernels() -> None:
    known = {name: getattr(resource, name) for name in RLIMITS if hasattr(resource, name)}
    assert len(known) > 10
    assert known == {name: RLIMITS[name] for name in known}
    assert len(RLIMITS) == len(Path("/proc/self/limits").read_text().splitlines()) - 1


def test_a_limit_is_set_in_the_whole_range(in_child: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        set_rlimit("RLIMIT_NOFILE", 100, 200)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 200)
        set_rlimit("RLIMIT_FSIZE", (1 << 63) + 5, RLIM_INFINITY)
        line = next(line for line in Path("/proc/self/limits").read_text().splitlines() if "file size" in line)
        assert line.split()[3:5] == [str((1 << 63) + 5), "unlimited"]

    in_child(work)


def test_a_hard_limit_is_raised_only(in_child: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        set_rlimit("RLIMIT_NOFILE", 100, 200)
        raise_hard_limit("RLIMIT_NOFILE", 150)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 200)
        with pytest.raises(InvalidArgumentError, match="unknown type"):
            raise_hard_limit("RLIMIT_FOO", 1)
        if permitted_mask() >> CAPABILITIES["CAP_SYS_RESOURCE"] & 1:
            raise_hard_limit("RLIMIT_NOFILE", 300)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 300)
        else:
            with pytest.raises(OSError, match="soft 100, hard 300"):
                raise_hard_limit("RLIMIT_NOFILE", 300)

    in_child(work)


@pytest.mark.parametrize(
    ("kind", "soft", "hard", "says"),
    [
        ("RLIMIT_FOO", 1, 1, "unknown type 'RLIMIT_FOO'; known are RLIMIT_CPU, "),
        ("NOFILE", 1, 1, "unknown type 'NOFILE'"),
        ("RLIMIT_CORE", -1, 1, "RLIMIT_CORE has the soft limit -1"),
        ("RLIMIT_CORE", 1, 1 << 64, "RLIMIT_CORE has the hard limit 18446744073709551616"),
    ],
)
def test_what_cannot_be_a_limit_is_refused_by_name(kind: str, soft: int, hard: int, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        set_rlimit(kind, soft, hard)


def test_what_the_kernel_refuses_is_named(in_child: Callable[[Callable[[], object]], None]) -> None:
    def work() -> None:
        with pytest.raises(OSError, match=r"prlimit64: Invalid argument \(RLIMIT_CORE, soft 2, hard 1\)"):
            set_rlimit("RLIMIT_CORE", 2, 1)

    in_child(work)


def test_a_limit_that_is_raised_by_a_process_and_its_child_is_restored_to_the_first(
    in_child: Callable[[Callable[[], object]], None],
) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
        for _ in range(2):
            raise_descriptor_limit()
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 200)
        restore_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 200)

    in_child(work)
