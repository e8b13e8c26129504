"""`linux.seccomp` of a config.json: which system calls a container may make, as typed values. Pure.

Source: OCI runtime specification 1.2, config-linux.md, "Seccomp".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import UnimplementedError
from .strict_json import UINT32, UINT64, JsonObject

__all__ = ["ACTIONS", "ARCHITECTURES", "FLAGS", "OPERATORS", "Argument", "Rule", "Seccomp", "flags_of", "seccomp_of"]

ACTIONS: Final = (
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
)
OPERATORS: Final = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)
ARCHITECTURES: Final = tuple(
    f"SCMP_ARCH_{name}"
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "RISCV64", "S390", "S390X", "PARISC", "PARISC64"),
        *("MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "M68K"),
        *("SH", "SHEB"),
    )
)
FLAGS: Final = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")

_EPERM: Final = 1  # what a call that is refused gets, unless the profile says something else
_LAST_ARGUMENT: Final = 5
_MAX_ERRNO: Final = 4095  # include/linux/err.h


@dataclass(frozen=True, slots=True)
class Argument:
    """A condition on one argument of a call; for SCMP_CMP_MASKED_EQ `value` is the mask, and `value_two` the value."""

    index: int
    value: int
    value_two: int
    op: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the calls *names*: of those whose arguments meet all conditions, or of all if there are none."""

    names: tuple[str, ...]
    action: str
    errno: int
    args: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class Seccomp:
    """`linux.seccomp`. `flags` is None where the profile leaves them to the runtime."""

    default_action: str
    default_errno: int
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] | None = None
    rules: tuple[Rule, ...] = ()


def seccomp_of(values: Mapping[str, object], source: str = "config.json") -> Seccomp:
    """Read the fields of a `linux.seccomp` object.

    Raises: InvalidArgumentError; UnimplementedError for what needs a process that is asked about each call.
    """
    profile = JsonObject(values, source, "linux.seccomp")
    if profile.text("listenerPath") or profile.text("listenerMetadata"):
        raise UnimplementedError(
            f"{source}: linux.seccomp.listenerPath: this version hands no calls to a listener (SCMP_ACT_NOTIFY); use a "
            "profile that decides by itself"
        )
    action = _one_of(profile, "defaultAction", ACTIONS)
    architectures = profile.texts("architectures")
    for name in architectures:
        if name not in ARCHITECTURES:
            raise profile.error("architectures", f"made of {', '.join(ARCHITECTURES)}")
    return Seccomp(
        action,
        _errno(profile, "defaultErrnoRet", action),
        tuple(dict.fromkeys(architectures)),
        flags_of(values, source),
        tuple(_rule(each) for each in profile.children("syscalls")),
    )


def flags_of(values: Mapping[str, object], source: str = "config.json") -> tuple[str, ...] | None:
    """The flags alone. Raises: InvalidArgumentError."""
    profile = JsonObject(values, source, "linux.seccomp")
    if profile.raw_array("flags") is None:
        return None
    flags = profile.texts("flags")
    if "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in flags:
        raise UnimplementedError(
            f"{source}: linux.seccomp.flags has SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, which is for calls that a "
            "listener decides on; this version has none"
        )
    if set(flags) - set(FLAGS):
        raise profile.error("flags", f"made of {', '.join(FLAGS)}")
    return flags


def _rule(rule: JsonObject) -> Rule:
    action, names = _one_of(rule, "action", ACTIONS), rule.texts("names")
    if not names or not all(names):
        raise rule.error("names", "an array of the names of system calls")
    return Rule(
        names, action, _errno(rule, "errnoRet", action), tuple(_argument(each) for each in rule.children("args"))
    )


def _argument(argument: JsonObject) -> Argument:
    return Argument(
        argument.required_integer("index", (0, _LAST_ARGUMENT)),
        argument.required_integer("value", UINT64),
        argument.integer("valueTwo", UINT64),
        _one_of(argument, "op", OPERATORS),
    )


def _errno(values: JsonObject, key: str, action: str) -> int:
    number = values.optional_integer(key, UINT32)
    if number is None:
        return _EPERM
    if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        raise values.error(key, f"absent, as the action is {action}")
    if action == "SCMP_ACT_ERRNO" and number > _MAX_ERRNO:
        raise values.error(key, f"an error number, at most {_MAX_ERRNO}")
    return number & 0xFFFF


def _one_of(values: JsonObject, key: str, known: tuple[str, ...]) -> str:
    word = values.required_text(key)
    if word == "SCMP_ACT_NOTIFY":
        raise UnimplementedError(
            f"linux.seccomp: {key} is SCMP_ACT_NOTIFY: this version hands no calls to a listener; use a profile that "
            "decides by itself"
        )
    if word not in known:
        raise values.error(key, f"one of {', '.join(known)}")
    return word
