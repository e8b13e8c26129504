"""Seccomp filters: compiled from a profile by libseccomp, and put on this process.

The library is loaded by who compiles, and nobody else: what a process that is about to be a container needs are the
bytes of the compiled program. Source: seccomp(2); libseccomp's seccomp.h, 2.4 and newer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from typing import Final

from ..errors import FailedPreconditionError, InternalError, InvalidArgumentError
from ..oci.seccomp import Argument, Rule, Seccomp
from .libc import syscall

__all__ = ["compile_filter", "filter_flags", "install_filter", "library_identity", "supported_flags"]

LIBRARY: Final = "libseccomp.so.2"

_SECCOMP_SET_MODE_FILTER: Final = 1  # include/uapi/linux/seccomp.h
_FILTER_FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
_NEW_LISTENER: Final = 1 << 3
_TSYNC_ESRCH: Final = 1 << 4  # beside a listener TSYNC needs it: the result is the descriptor, and no thread's number
_ACTIONS: Final = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS: Final = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_LETTING_THROUGH: Final = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
)  # a profile that refuses by its rules alone
_FLTATR_CTL_NNP, _FLTATR_CTL_OPTIMIZE = 3, 8
_BINARY_TREE: Final = 2
_NO_SYSCALL: Final = -1  # __NR_SCMP_ERROR: nobody has heard of it
_X32: Final = 0x4000003E  # as libseccomp calls it; to the kernel it is x86_64 with a bit in the number
_X86_64: Final = 0xC000003E
_X32_BIT: Final = 0x40000000

# classic BPF: include/uapi/linux/bpf_common.h
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_INSTRUCTION: Final = struct.Struct("=HBBI")
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
_ENOSYS: Final = _ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS
_MOST_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
_DIRECTORIES: Final = (
    *(f"{top}/lib/{os.uname().machine}-linux-gnu" for top in ("/usr", "")),
    *("/usr/lib64", "/lib64", "/usr/lib", "/lib"),
)


class _ArgumentComparison(ctypes.Structure):  # struct scmp_arg_cmp
    _fields_ = (("arg", c_uint), ("op", c_int), ("datum_a", c_uint64), ("datum_b", c_uint64))


def library_identity() -> str:
    """What changes when libseccomp is exchanged: a newer one knows more system calls. Empty where it is not found."""
    for directory in _DIRECTORIES:
        try:
            status = os.stat(f"{directory}/{LIBRARY}")
        except OSError:
            continue
        return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    return ""


def filter_flags(flags: Iterable[str] | None, *, notifies: bool = False) -> int:
    """The bits of seccomp(2) for a profile's flags; without any word of the profile, what runtimes take then.

    A filter that *notifies* gets a listener; what is about listeners alone is left out of the others' bits.
    """
    if flags is None:
        bits = _FILTER_FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    else:
        bits = sum(_FILTER_FLAGS[flag] for flag in set(flags))
    if not notifies:
        return bits & ~_FILTER_FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    if bits & _FILTER_FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]:
        bits |= _TSYNC_ESRCH
    return bits | _NEW_LISTENER


def supported_flags() -> tuple[str, ...]:
    """The specification's flags that this kernel takes. Nothing is installed."""
    found: list[str] = []
    for name in _FILTER_FLAGS:
        try:
            syscall("seccomp", _SECCOMP_SET_MODE_FILTER, filter_flags((name,), notifies=True), 0)
        except OSError as error:
            if error.errno == errno.EFAULT:  # the flags come first: it has looked for the program
                found.append(name)
    return tuple(found)


def install_filter(program: bytes, flags: int) -> int:
    """Put the compiled *program* on this thread, for good; its listener, closed by an execve, when it notifies, else 0.

    Needs no_new_privs or CAP_SYS_ADMIN. Raises: OSError.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("H6xP", len(program) // _INSTRUCTION.size, ctypes.addressof(instructions))
    return syscall("seccomp", _SECCOMP_SET_MODE_FILTER, flags, described)


def compile_filter(profile: Seccomp) -> bytes:
    """The program of *profile*: classic BPF, for all of its architectures and the machine's own.

    A system call that the library does not know is left out: no profile could be used on two machines otherwise. A call
    newer than all that the profile speaks of is answered by ENOSYS and not by the default action, for programs fall
    back to an older one on that alone.

    Raises: FailedPreconditionError without libseccomp; InvalidArgumentError for a profile that is none.
    """
    library = _Library()
    default = _action(profile.default_action, profile.default_errno)
    context = library.init(default)
    if not context:
        raise InvalidArgumentError(
            f"linux.seccomp.defaultAction: libseccomp or this kernel does not know {profile.default_action}; choose "
            "another, or install a newer libseccomp"
        )
    try:
        library.set(context, _FLTATR_CTL_NNP, 0)  # is for the configuration to say
        library.set(context, _FLTATR_CTL_OPTIMIZE, _BINARY_TREE)  # older ones than 2.5 have none
        tokens = [library.add_architecture(context, name) for name in profile.architectures]
        for index, rule in enumerate(profile.rules):
            if _action(rule.action, rule.errno) == default:
                continue  # the library refuses what changes nothing
            for name in rule.names:
                _add_rule(library, context, name, rule, index)
        program = library.export(context)
    finally:
        library.release(context)
    prefix = b""
    if profile.default_action not in _LETTING_THROUGH and profile.default_errno != errno.ENOSYS:
        names = {name for rule in profile.rules for name in rule.names}
        prefix = _answer_newer_calls(library, dict.fromkeys((library.native(), *tokens)), names)
    whole = prefix + program
    if len(whole) // _INSTRUCTION.size > _MOST_INSTRUCTIONS:
        raise InvalidArgumentError(
            f"linux.seccomp: the filter has {len(whole) // _INSTRUCTION.size} instructions, and the kernel takes "
            f"{_MOST_INSTRUCTIONS}; name fewer architectures or calls"
        )
    return whole


def _add_rule(library: _Library, context: int, name: str, rule: Rule, index: int) -> None:
    number = library.number(name)
    if number == _NO_SYSCALL:
        return
    action = _action(rule.action, rule.errno)
    for conditions in _alternatives(rule.args):
        if problem := library.add_rule(context, action, number, conditions):
            raise InvalidArgumentError(
                f"linux.seccomp.syscalls[{index}]: libseccomp refuses the rule for {name}: {os.strerror(problem)}"
            )


def _alternatives(arguments: tuple[Argument, ...]) -> list[tuple[Argument, ...]]:
    """All conditions together; or, when two are about one argument, each by itself: so runtimes read them."""
    if len({argument.index for argument in arguments}) < len(arguments):
        return [(argument,) for argument in arguments]
    return [arguments]


def _action(name: str, number: int) -> int:
    return _ACTIONS[name] | (number if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else 0)


def _answer_newer_calls(library: _Library, tokens: Iterable[int], names: Iterable[str]) -> bytes:
    """Instructions that go before a filter's own: numbers above all that *names* have get ENOSYS."""
    last: dict[int, int] = {}
    for token in tokens:
        numbers = [number for name in names if (number := library.number_on(token, name)) >= 0]
        if numbers:
            last[token] = max(numbers)
    return b"".join(_block(token, last[token], last.get(_X32)) for token in last if token != _X32)


def _block(token: int, last: int, last_x32: int | None) -> bytes:
    """The instructions for one architecture. A jump's two numbers say how many it skips, when it is so and when not."""
    answer = _INSTRUCTION.pack(_RETURN, 0, 0, _ENOSYS)
    if token != _X86_64:
        checks = [_INSTRUCTION.pack(_JUMP_GREATER, 0, 1, last), answer]
    elif last_x32 is None:
        checks = [
            _INSTRUCTION.pack(_JUMP_GREATER_EQUAL, 2, 0, _X32_BIT),
            _INSTRUCTION.pack(_JUMP_GREATER, 0, 1, last),
            answer,
        ]
    else:
        checks = [
            _INSTRUCTION.pack(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT),
            _INSTRUCTION.pack(_JUMP_GREATER, 1, 2, last_x32 | _X32_BIT),
            _INSTRUCTION.pack(_JUMP_GREATER, 0, 1, last),
            answer,
        ]
    checks.insert(0, _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER_AT))
    return b"".join(
        (
            _INSTRUCTION.pack(_LOAD, 0, 0, _ARCHITECTURE_AT),
            _INSTRUCTION.pack(_JUMP_EQUAL, 0, len(checks), token),
            *checks,
        )
    )


class _Library:
    """The calls of libseccomp that are made here."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise FailedPreconditionError(
                f"linux.seccomp asks for a filter, and {LIBRARY} cannot be loaded ({error}); install libseccomp on "
                "this node (Debian: libseccomp2)"
            ) from error
        self._library = library
        library.seccomp_init.restype = c_void_p
        library.seccomp_init.argtypes = (c_uint32,)
        library.seccomp_release.argtypes = (c_void_p,)
        library.seccomp_attr_set.argtypes = (c_void_p, c_int, c_uint32)
        library.seccomp_arch_native.restype = c_uint32
        library.seccomp_arch_resolve_name.restype = c_uint32
        library.seccomp_arch_resolve_name.argtypes = (c_char_p,)
        library.seccomp_arch_add.argtypes = (c_void_p, c_uint32)
        library.seccomp_syscall_resolve_name.argtypes = (c_char_p,)
        library.seccomp_syscall_resolve_name_arch.argtypes = (c_uint32, c_char_p)
        library.seccomp_rule_add_array.argtypes = (c_void_p, c_uint32, c_int, c_uint, POINTER(_ArgumentComparison))
        library.seccomp_export_bpf.argtypes = (c_void_p, c_int)

    def init(self, action: int) -> int | None:
        context: int | None = self._library.seccomp_init(action)
        return context

    def release(self, context: int) -> None:
        self._library.seccomp_release(context)

    def set(self, context: int, attribute: int, value: int) -> None:
        self._library.seccomp_attr_set(context, attribute, value)

    def native(self) -> int:
        return int(self._library.seccomp_arch_native())

    def add_architecture(self, context: int, name: str) -> int:
        """Add the architecture of the specification's *name*; libseccomp's token for it."""
        token = int(self._library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode()))
        if token == 0:
            raise InvalidArgumentError(
                f"linux.seccomp.architectures has {name}, which this node's libseccomp does not know; leave it out, or "
                "install a newer one"
            )
        problem = -int(self._library.seccomp_arch_add(context, token))
        if problem not in (0, errno.EEXIST):
            raise InvalidArgumentError(
                f"linux.seccomp.architectures has {name}, which libseccomp refuses beside the others "
                f"({os.strerror(problem)}); leave it out"
            )
        return token

    def number(self, name: str) -> int:
        return int(self._library.seccomp_syscall_resolve_name(name.encode()))

    def number_on(self, token: int, name: str) -> int:
        return int(self._library.seccomp_syscall_resolve_name_arch(token, name.encode()))

    def add_rule(self, context: int, action: int, number: int, arguments: tuple[Argument, ...]) -> int:
        """0, or the number of the error."""
        compared = (_ArgumentComparison * len(arguments))(
            *(_ArgumentComparison(each.index, _OPERATORS[each.op], each.value, each.value_two) for each in arguments)
        )
        return -int(self._library.seccomp_rule_add_array(context, action, number, len(arguments), compared))

    def export(self, context: int) -> bytes:
        with os.fdopen(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b") as file:
            problem = -int(self._library.seccomp_export_bpf(context, file.fileno()))
            if problem:
                raise InternalError(f"libseccomp cannot write the filter: {os.strerror(problem)}")
            file.seek(0)
            return file.read()
