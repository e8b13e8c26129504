from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator

import pytest
from containerd_shimkit.linux import bpf
from containerd_shimkit.linux.bpf import attached_programs, load_device_program, replace_device_program
from containerd_shimkit.linux.cgroup_mounts import read_hierarchies
from containerd_shimkit.linux.device_program import compile_rules
from containerd_shimkit.oci.resources import DeviceRule

InChild = Callable[[Callable[[], object]], None]

NOTHING = DeviceRule(False, access="rwm")
NULL = DeviceRule(True, "c", 1, 3, "rw")
ZERO = DeviceRule(True, "c", 1, 5, "r")

pytestmark = pytest.mark.root


@pytest.fixture
def directory() -> Iterator[str]:
    """A version 2 group of our own."""
    hierarchy = read_hierarchies().v2
    if hierarchy is None:
        pytest.skip("this host has no cgroup version 2 hierarchy")
    path = f"{hierarchy.mount_point}/shimkit-test-bpf-{os.getpid()}"
    os.mkdir(path)
    yield path
    os.rmdir(path)


@pytest.fixture
def group(directory: str) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def guard(group: int, *rules: DeviceRule) -> None:
    program = load_device_program(compile_rules(rules))
    try:
        replace_device_program(group, program)
    finally:
        os.close(program)


def check_devices(directory: str, in_child: InChild, *expected: tuple[str, int, bool]) -> None:
    def work() -> None:
        with open(f"{directory}/cgroup.procs", "w") as file:
            file.write("0")
        for path, flags, allowed in expected:
            try:
                os.close(os.open(path, flags))
                assert allowed, path
            except PermissionError:
                assert not allowed, path

    in_child(work)


def test_a_program_guards_its_group(directory: str, group: int, in_child: InChild) -> None:
    guard(group, NOTHING, NULL, ZERO)
    check_devices(
        directory,
        in_child,
        ("/dev/null", os.O_RDWR, True),
        ("/dev/zero", os.O_RDONLY, True),
        ("/dev/zero", os.O_WRONLY, False),
        ("/dev/full", os.O_RDONLY, False),
    )


def test_a_new_program_takes_the_old_ones_place(directory: str, group: int, in_child: InChild) -> None:
    guard(group, NOTHING, NULL)
    (old,) = attached_programs(group)
    guard(group, NOTHING, ZERO)
    (new,) = attached_programs(group)
    assert new != old
    check_devices(directory, in_child, ("/dev/zero", os.O_RDONLY, True), ("/dev/null", os.O_RDONLY, False))


def test_a_kernel_that_cannot_replace_has_both_for_a_moment(
    directory: str, group: int, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard(group, NOTHING, NULL)
    attach = bpf._attach
    seen: list[int] = []

    def old_kernel(group: int, program: int, flags: int, replaced: int = 0) -> None:
        seen.append(flags)
        if flags & bpf._REPLACE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        attach(group, program, flags, replaced)

    monkeypatch.setattr(bpf, "_attach", old_kernel)
    guard(group, NOTHING, ZERO)
    assert len(seen) == 2
    assert len(attached_programs(group)) == 1
    check_devices(directory, in_child, ("/dev/zero", os.O_RDONLY, True), ("/dev/null", os.O_RDONLY, False))


def test_somebody_elses_program_stays_and_has_to_agree(
    directory: str, group: int, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpf, "_NAME", b"sd_devices")
    guard(group, NOTHING, NULL)
    monkeypatch.undo()
    for _ in range(2):
        guard(group, NOTHING, NULL, ZERO)
        assert len(attached_programs(group)) == 2
    check_devices(directory, in_child, ("/dev/null", os.O_RDONLY, True), ("/dev/zero", os.O_RDONLY, False))


def test_a_program_that_the_kernel_refuses_is_an_error_with_its_reason() -> None:
    with pytest.raises(OSError, match=r"\(.+\)") as caught:
        load_device_program(bytes.fromhex("95 00 00 00 00 00 00 00"))  # without a result
    assert caught.value.errno in (errno.EACCES, errno.EINVAL)


def test_where_programs_are_locked_memory_the_limit_is_raised_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = bpf._load

    def old_kernel(program: bytes) -> int:
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return load(program)

    limits = (1 << 16, 1 << 16)
    set_to: list[tuple[int, int]] = []

    def set_limits(kind: int, to: tuple[int, int]) -> None:
        nonlocal limits
        assert kind == resource.RLIMIT_MEMLOCK
        limits = to
        set_to.append(to)

    monkeypatch.setattr(bpf, "_load", old_kernel)
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits)
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    os.close(load_device_program(compile_rules((NOTHING,))))
    assert set_to == [(resource.RLIM_INFINITY, resource.RLIM_INFINITY), (1 << 16, 1 << 16)]


def test_without_the_right_to_load_programs_it_is_refused(in_child: InChild) -> None:
    def work() -> None:
        os.setuid(65534)
        with pytest.raises(PermissionError):
            load_device_program(compile_rules((NOTHING,)))

    in_child(work)
