"""`linux.seccomp` of a config.json: which system calls a container may make, as typed values. Pure.

Source: OCI runtime specification 1.2, config-linux.md, "Seccomp".
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidArgumentError
from .strict_json import UINT32, UINT64, JsonObject

__all__ = [
    "ACTIONS",
    "ARCHITECTURES",
    "FLAGS",
    "NOTIFY",
    "OPERATORS",
    "Argument",
    "Listener",
    "Rule",
    "Seccomp",
    "flags_of",
    "listener_of",
    "seccomp_of",
    "without_listener",
]

NOTIFY: Final = "SCMP_ACT_NOTIFY"

ACTIONS: Final = (
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    NOTIFY,
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
FLAGS: Final = (
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
)

_EPERM: Final = 1  # what a call that is refused gets, unless the profile says something else
_LAST_ARGUMENT: Final = 5
_MAX_ERRNO: Final = 4095  # include/linux/err.h
# what a filtered process does until its listener has been handed over: it says so, waits, and may need memory for it
_BEFORE_LISTENER: Final = ("write", "read", "futex", "brk", "mmap", "munmap", "mremap", "madvise")
_LONGEST_PATH: Final = 107  # bytes: sun_path of unix(7)


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


@dataclass(frozen=True, slots=True)
class Listener:
    """Who decides on the calls of SCMP_ACT_NOTIFY: the socket at *path*, which is told *metadata* as it is."""

    path: str
    metadata: str


def seccomp_of(values: Mapping[str, object], source: str = "config.json") -> Seccomp:
    """Read the fields of a `linux.seccomp` object.

    Raises: InvalidArgumentError.
    """
    profile = JsonObject(values, source, "linux.seccomp")
    action = _one_of(profile, "defaultAction", ACTIONS)
    architectures = profile.texts("architectures")
    for name in architectures:
        if name not in ARCHITECTURES:
            raise profile.error("architectures", f"made of {', '.join(ARCHITECTURES)}")
    found = Seccomp(
        action,
        _errno(profile, "defaultErrnoRet", action),
        tuple(dict.fromkeys(architectures)),
        flags_of(values, source),
        tuple(_rule(each) for each in profile.children("syscalls")),
    )
    _check_notified(found, profile, source)
    return found


def flags_of(values: Mapping[str, object], source: str = "config.json") -> tuple[str, ...] | None:
    """The flags alone. Raises: InvalidArgumentError."""
    profile = JsonObject(values, source, "linux.seccomp")
    if profile.raw_array("flags") is None:
        return None
    flags = profile.texts("flags")
    if set(flags) - set(FLAGS):
        raise profile.error("flags", f"made of {', '.join(FLAGS)}")
    return flags


def listener_of(values: Mapping[str, object], source: str = "config.json") -> Listener | None:
    """The profile's listener; None where it has no call for one. A profile that wants none costs nothing here.

    Raises: InvalidArgumentError.
    """
    if not values.get("listenerPath"):
        return None  # `seccomp_of` refuses the rest without
    profile = JsonObject(values, source, "linux.seccomp")
    path, metadata = profile.text("listenerPath"), profile.text("listenerMetadata")
    if not posixpath.isabs(path) or "\0" in path or len(path.encode(errors="surrogateescape")) > _LONGEST_PATH:
        raise profile.error("listenerPath", f"the absolute path of a socket, of at most {_LONGEST_PATH} bytes")
    if all(rule.text("action") != NOTIFY for rule in profile.children("syscalls")):
        return None
    return Listener(path, metadata)


def without_listener(values: Mapping[str, object]) -> Mapping[str, object]:
    """The profile with nothing in it of who listens but that somebody does: all that its filter depends on."""
    if not values.get("listenerPath"):
        return values
    return {**values, "listenerPath": "/", "listenerMetadata": ""}


def _check_notified(found: Seccomp, profile: JsonObject, source: str) -> None:
    """Refuse what would leave a call without anybody to decide on it, for ever."""
    path = profile.text("listenerPath")
    if profile.text("listenerMetadata") and not path:
        raise profile.error("listenerMetadata", "absent, as there is no listenerPath")
    if found.default_action == NOTIFY:
        raise profile.error(
            "defaultAction",
            f"another action than {NOTIFY}, for the process makes calls before its listener is handed over; name those "
            "that are to be notified in syscalls",
        )
    for index, rule in enumerate(found.rules):
        if rule.action != NOTIFY:
            continue
        if not path:
            raise profile.error("listenerPath", f"the path of a socket, as syscalls[{index}].action is {NOTIFY}")
        for name in rule.names:
            if name in _BEFORE_LISTENER:
                raise InvalidArgumentError(
                    f"{source}: linux.seccomp.syscalls[{index}].names has {name!r}, and its action is {NOTIFY}: "
                    "the process needs that call to hand its listener over, and nobody would decide on it; leave it out"
                )


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
    if word not in known:
        raise values.error(key, f"one of {', '.join(known)}")
    return word
