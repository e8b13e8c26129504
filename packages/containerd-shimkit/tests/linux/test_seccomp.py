"""Compiled filters, by what they do to a process that makes the calls."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable

import pytest
from containerd_shimkit import FailedPreconditionError, InvalidArgumentError
from containerd_shimkit.linux import seccomp as module
from containerd_shimkit.linux.libc import libc
from containerd_shimkit.linux.process import set_no_new_privs
from containerd_shimkit.linux.seccomp import compile_filter, filter_flags, install_filter, supported_flags
from containerd_shimkit.oci.seccomp import FLAGS, Argument, Rule, Seccomp, seccomp_of

try:
    ctypes.CDLL(module.LIBRARY)
except OSError:
    pytest.skip("there is no libseccomp here", allow_module_level=True)

NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
ALLOW, ERRNO, KILL = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"


def outcome(profile: Seccomp, work: Callable[[], int]) -> int:
    """What *work* returns in a child under the filter; below 0 the signal that ended it."""
    program = compile_filter(profile)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            set_no_new_privs()
            install_filter(program, 0)
            status = work()
        except OSError as error:
            status = error.errno or 98
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def succeed() -> int:
    os.getppid()
    os.sched_yield()
    return 0


def yield_once() -> int:
    os.sched_yield()
    return 0


def raw(number: int) -> Callable[[], int]:
    def work() -> int:
        result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
        return ctypes.get_errno() if result < 0 else 0

    return work


def test_what_no_rule_is_about_gets_the_default() -> None:
    assert outcome(Seccomp(ALLOW, 1), succeed) == 0


def test_a_rule_is_about_its_calls_alone() -> None:
    profile = Seccomp(ALLOW, 1, rules=(Rule(("sched_yield",), ERRNO, errno.EDOM),))
    assert outcome(profile, yield_once) == errno.EDOM
    assert outcome(profile, lambda: 0 if os.getppid() else 1) == 0


def test_a_call_can_end_the_process() -> None:
    profile = Seccomp(ALLOW, 1, rules=(Rule(("sched_yield",), KILL, 1),))
    assert outcome(profile, succeed) == -signal.SIGSYS


def test_names_that_nobody_knows_are_left_out() -> None:
    profile = Seccomp(ALLOW, 1, rules=(Rule(("no_such_call", "sched_yield"), ERRNO, errno.EDOM),))
    assert outcome(profile, succeed) == errno.EDOM


def test_a_rule_that_repeats_the_default_is_no_mistake() -> None:
    assert outcome(Seccomp(ALLOW, 1, rules=(Rule(("sched_yield",), ALLOW, 1),)), succeed) == 0


def kill_with(number: int) -> Callable[[], int]:
    def work() -> int:
        os.kill(os.getpid(), number)
        return 0

    return work


def test_conditions_on_several_arguments_must_all_be_met() -> None:
    conditions = (Argument(1, 0, 0, "SCMP_CMP_EQ"), Argument(0, 1, 0, "SCMP_CMP_GT"))
    profile = Seccomp(ALLOW, 1, rules=(Rule(("kill",), ERRNO, errno.EDOM, conditions),))
    assert outcome(profile, kill_with(0)) == errno.EDOM
    assert outcome(profile, kill_with(signal.SIGWINCH)) == 0
    assert outcome(profile, lambda: 0 if _raises(lambda: os.kill(1, 0)) in (0, errno.EPERM) else 1) == 0


def _raises(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


def test_conditions_on_one_argument_are_alternatives() -> None:
    conditions = tuple(Argument(1, number, 0, "SCMP_CMP_EQ") for number in (signal.SIGWINCH, signal.SIGURG))
    profile = Seccomp(ALLOW, 1, rules=(Rule(("kill",), ERRNO, errno.EDOM, conditions),))
    assert [outcome(profile, kill_with(each)) for each in (signal.SIGWINCH, signal.SIGURG, 0)] == [
        errno.EDOM,
        errno.EDOM,
        0,
    ]


def test_bits_can_be_compared() -> None:
    profile = Seccomp(ALLOW, 1, rules=(Rule(("kill",), ERRNO, errno.EDOM, (Argument(1, 1, 1, "SCMP_CMP_MASKED_EQ"),)),))
    assert outcome(profile, kill_with(signal.SIGURG)) == errno.EDOM, "23"
    assert outcome(profile, kill_with(signal.SIGWINCH)) == 0, "28"


def everything_but(*refused: str) -> Seccomp:
    """A profile that names what a small Python program needs, and answers all else by EPERM."""
    needed = "read write close exit exit_group rt_sigreturn futex brk mmap munmap getppid clone3 openat2 prctl"
    return Seccomp(ERRNO, 1, rules=(Rule(tuple(set(needed.split()) - set(refused)), ALLOW, 1),))


def test_a_call_newer_than_the_profile_is_answered_as_an_older_kernel_would() -> None:
    profile = everything_but()  # the newest that it names is openat2, 437
    assert outcome(profile, raw(439)) == errno.ENOSYS  # faccessat2
    assert outcome(profile, raw(4000)) == errno.ENOSYS
    assert outcome(profile, yield_once) == errno.EPERM
    assert outcome(everything_but("openat2"), raw(437)) == errno.ENOSYS


@pytest.mark.parametrize("architectures", [(NATIVE,), ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")])
def test_the_same_goes_for_each_architecture(architectures: tuple[str, ...]) -> None:
    if NATIVE not in architectures:
        pytest.skip("architectures of another machine")
    profile = Seccomp(ERRNO, 1, architectures, None, everything_but().rules)
    assert outcome(profile, raw(4000)) == errno.ENOSYS
    assert outcome(profile, yield_once) == errno.EPERM
    assert outcome(profile, lambda: 0 if os.getppid() else 1) == 0
    if "SCMP_ARCH_X32" in architectures:  # the kernel may have none of these calls, but the filter comes first
        assert outcome(profile, raw(0x40000000 | 24)) == errno.EPERM
        assert outcome(profile, raw(0x40000000 | 4000)) == errno.ENOSYS


def test_where_all_is_allowed_newer_calls_are_too() -> None:
    allowing = compile_filter(Seccomp(ALLOW, 1, rules=(Rule(("read",), ERRNO, 5),)))
    assert module._ENOSYS.to_bytes(4, sys.byteorder) not in allowing
    assert module._ENOSYS.to_bytes(4, sys.byteorder) in compile_filter(everything_but())


@pytest.mark.parametrize("default", ["SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_where_nothing_is_refused_newer_calls_are_not_either(default: str) -> None:
    program = compile_filter(Seccomp(default, 1, rules=everything_but().rules))
    assert module._ENOSYS.to_bytes(4, sys.byteorder) not in program


def test_two_names_of_one_action_are_one_action() -> None:
    profile = Seccomp("SCMP_ACT_KILL", 1, rules=(Rule(("read",), "SCMP_ACT_KILL_THREAD", 1), *everything_but().rules))
    assert outcome(profile, succeed) == -signal.SIGSYS


def test_rules_for_a_default_without_words_about_errors() -> None:
    profile = seccomp_of(
        {"defaultAction": KILL, "syscalls": [{"names": list(everything_but().rules[0].names), "action": ALLOW}]}
    )
    assert outcome(profile, succeed) == -signal.SIGSYS
    assert outcome(profile, raw(4000)) == errno.ENOSYS


def test_an_architecture_that_the_library_does_not_know_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="architectures has SCMP_ARCH_VAX, which this node's libseccomp"):
        compile_filter(Seccomp(ALLOW, 1, ("SCMP_ARCH_VAX",)))


def test_a_filter_that_is_too_long_for_the_kernel_is_refused() -> None:
    rules = tuple(Rule(("kill",), ERRNO, number, (Argument(1, number, 0, "SCMP_CMP_EQ"),)) for number in range(1, 3000))
    with pytest.raises(InvalidArgumentError, match=r"the filter has \d+ instructions, and the kernel takes 4096"):
        compile_filter(Seccomp(ALLOW, 1, rules=rules))


def test_without_the_library_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARY", "libseccomp.so.0")
    with pytest.raises(FailedPreconditionError, match=r"libseccomp\.so\.0 cannot be loaded .*install libseccomp"):
        compile_filter(Seccomp(ALLOW, 1))
    assert module.library_identity() == ""


def test_the_library_is_known_by_its_file() -> None:
    assert module.library_identity().count(":") == 3


def test_flags_become_bits() -> None:
    assert filter_flags(None) == 4, "as the kernel's own mitigation costs every container"
    assert filter_flags(()) == 0
    assert filter_flags(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]) == 3
    assert filter_flags(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]) == 0, "it is for those that notify"


def test_the_kernel_is_asked_for_the_flags_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = supported_flags()
    assert found[:3] == FLAGS[:3]
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in found) == (release >= (5, 19))
    monkeypatch.setitem(module._FILTER_FLAGS, "SECCOMP_FILTER_FLAG_LOG", 1 << 30)
    assert "SECCOMP_FILTER_FLAG_LOG" not in supported_flags()


def test_a_filter_that_notifies_has_a_listener() -> None:
    assert filter_flags(None, notifies=True) == 4 | 8
    assert filter_flags(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"], notifies=True) == 32 | 8
    assert filter_flags(["SECCOMP_FILTER_FLAG_TSYNC"], notifies=True) == 1 | 16 | 8

    profile = Seccomp(ALLOW, 1, rules=(Rule(("mkdir", "mkdirat"), "SCMP_ACT_NOTIFY", 1),))

    def work() -> int:
        descriptor = install_filter(compile_filter(profile), filter_flags((), notifies=True))
        assert os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:seccomp notify"
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
        try:
            os.mkdir("/nowhere/x")
        except OSError as error:
            return error.errno or 0
        return 0

    assert outcome(Seccomp(ALLOW, 1), work) == errno.ENOSYS, "nobody listens any more"


def test_what_is_no_program_is_refused_by_the_kernel() -> None:
    pid = os.fork()
    if pid == 0:
        set_no_new_privs()
        try:
            install_filter(b"\0" * 8, 0)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EINVAL
