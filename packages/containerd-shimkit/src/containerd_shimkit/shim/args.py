"""The command line that containerd gives to a shim, as a value.

Go's flag syntax: `-x v`, `-x=v`, `--x v`; a boolean takes a value only behind `=`; flags end at the first word that is
none, which is the action. argparse would take `-id` for a prefix of something else and stumble over `-address ""`.
Source: containerd, pkg/shim; Go, package flag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from ..errors import InvalidArgumentError
from ..task.identifiers import check_identifier, shorten

__all__ = ["Action", "ShimArgs", "parse_args"]

Action: TypeAlias = Literal["", "start", "delete", "serve", "zygote"]

_ACTIONS: Final = ("start", "delete", "serve", "zygote")
# `padding` makes room in a zygote's command line, in which its children show what they are
_STRINGS: Final = ("namespace", "id", "address", "publish-binary", "bundle", "socket", "padding")
_BOOLEANS: Final[Mapping[str, str]] = {"debug": "debug", "info": "info", "v": "version", "version": "version"}
_TRUE: Final = frozenset(["1", "t", "T", "true", "TRUE", "True"])
_FALSE: Final = frozenset(["0", "f", "F", "false", "FALSE", "False"])


@dataclass(frozen=True, slots=True)
class ShimArgs:
    """What containerd asked of this process; `action` is empty only with `info` or `version`."""

    namespace: str = ""
    id: str = ""
    address: str = ""
    publish_binary: str = ""
    bundle: str = ""
    debug: bool = False
    socket: str = ""
    info: bool = False
    version: bool = False
    action: Action = ""


def parse_args(argv: Sequence[str]) -> ShimArgs:
    """Read the words behind the program's name; a flag given twice counts as given last, as in Go.

    Raises: InvalidArgumentError, naming the flag or word.
    """
    strings: dict[str, str] = {}
    booleans: dict[str, bool] = {}
    words = list(argv)
    while words and _is_flag(words[0]):
        word = words.pop(0)
        if word == "--":
            break
        name, given, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in _BOOLEANS:
            booleans[_BOOLEANS[name]] = _parse_boolean(name, value) if given else True
        elif name in _STRINGS:
            strings[name] = value if given else _take_value(name, words)
        else:
            raise InvalidArgumentError(f"unknown flag {shorten(word)}: the flags are {_flag_list()}")
    args = _args_of(strings, booleans, _parse_action(words))
    if not (args.version or args.info):
        _check(args)
    return args


def _args_of(strings: Mapping[str, str], booleans: Mapping[str, bool], action: Action) -> ShimArgs:
    return ShimArgs(
        namespace=strings.get("namespace", ""),
        id=strings.get("id", ""),
        address=strings.get("address", ""),
        publish_binary=strings.get("publish-binary", ""),
        bundle=strings.get("bundle", ""),
        debug=booleans.get("debug", False),
        socket=strings.get("socket", ""),
        info=booleans.get("info", False),
        version=booleans.get("version", False),
        action=action,
    )


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word.startswith("-")


def _take_value(name: str, words: list[str]) -> str:
    if not words:
        raise InvalidArgumentError(f"flag -{name} needs a value")
    return words.pop(0)


def _parse_boolean(name: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise InvalidArgumentError(f"flag -{name} is {shorten(value)}: it must be true or false")
    return value in _TRUE


def _parse_action(words: Sequence[str]) -> Action:
    if not words:
        return ""
    if words[0] not in _ACTIONS:
        raise InvalidArgumentError(f"unknown action {shorten(words[0])}: the actions are {', '.join(_ACTIONS)}")
    if len(words) > 1:
        raise InvalidArgumentError(f"unexpected {shorten(words[1])} behind the action {words[0]}: flags go before it")
    return cast("Action", words[0])


def _check(args: ShimArgs) -> None:
    if not args.action:
        raise InvalidArgumentError(
            f"no action is given: it must be one of {', '.join(_ACTIONS)} (or -v, or -info); containerd gives it last"
        )
    if args.action == "zygote":
        if not args.socket.startswith("/"):
            raise InvalidArgumentError("the action zygote is the program's own, and needs its -socket: use `start`")
        return
    check_identifier(args.namespace, "namespace (flag -namespace)")
    check_identifier(args.id, "id (flag -id)")


def _flag_list() -> str:
    return ", ".join(f"-{name}" for name in sorted([*_STRINGS, *_BOOLEANS]))
