"""The command line. Its words and flags are those of other OCI runtimes, for the programs that drive these.

They start it several times for each container: so what a command does not need is not imported.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeAlias

from ..errors import ShimError
from . import commands

__all__ = ["main"]

_log = logging.getLogger(__name__)
_PROGRAM: Final = "containerd-shimkit-oci"

Add: TypeAlias = Callable[[argparse.ArgumentParser], None]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Carry out one command; what goes wrong is said on standard error, and in the file of `--log`."""
    words = sys.argv[1:] if args is None else args
    chosen = _parser(words).parse_args(words)
    _configure_log(chosen)
    try:
        status = chosen.run(chosen)
    except (ShimError, OSError) as error:
        _log.error("%s", error)
        if chosen.log:
            print(f"{_PROGRAM}: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _configure_log(chosen: argparse.Namespace) -> None:
    from .logs import configure

    configure(chosen.log, as_json=chosen.log_format == "json", debug=chosen.debug)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f"{_PROGRAM} version {version('containerd-shimkit')}\nspec: 1.2.0")
        sys.exit(0)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of *words*: only commands that stand there have their own arguments."""
    parser = argparse.ArgumentParser(_PROGRAM, description="Run containers from OCI bundles.", allow_abbrev=False)
    parser.add_argument("--root", metavar="DIR", help="where containers are kept")
    parser.add_argument("--log", metavar="FILE", default="", help="where messages go, in place of standard error")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--systemd-cgroup", action="store_true", help="have systemd make the control groups")
    parser.add_argument("--rootless", default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--criu", help=argparse.SUPPRESS)
    parser.add_argument("-v", "--version", action=_Version, nargs=0, help="print the version and end")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command, add in _COMMANDS:
        text = (command.__doc__ or "").partition("\n")[0]
        each = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        each.set_defaults(run=command)
        if name in words:
            add(each)
    return parser


def _id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID")


def _new_container(parser: argparse.ArgumentParser) -> None:
    _bundle(parser)
    parser.add_argument("--console-socket", metavar="PATH", default="", help="the socket that is sent the terminal")
    parser.add_argument("--pid-file", metavar="FILE", default="", help="where the init's pid is written")
    parser.add_argument("--preserve-fds", metavar="N", type=int, default=0, help="hand on N descriptors from 3 on")
    parser.add_argument("--no-new-keyring", action="store_true", help="leave the session keyring as it is")
    parser.add_argument("--no-pivot", action="store_true", help=argparse.SUPPRESS)
    _id(parser)


def _bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-b", "--bundle", metavar="DIR", default=".", help="the bundle (default: here)")


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for the container's end")
    parser.add_argument("--keep", action="store_true", help="do not delete the container after its end")
    parser.add_argument("--no-subreaper", action="store_true", help=argparse.SUPPRESS)
    _new_container(parser)


def _kill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="every process of the container")
    _id(parser)
    parser.add_argument("signal", nargs="?", default="SIGTERM")


def _delete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="end it first; nothing to delete is no error")
    _id(parser)


def _format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")


def _list(parser: argparse.ArgumentParser) -> None:
    _format(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="names alone")


def _ps(parser: argparse.ArgumentParser) -> None:
    _format(parser)
    _id(parser)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="for ps(1)")


def _spec(parser: argparse.ArgumentParser) -> None:
    _bundle(parser)
    parser.add_argument("--rootless", action="store_true", help="for a user other than root")


def _exec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--process", metavar="FILE", default="", help="all of the process, as JSON")
    parser.add_argument("--cwd", default="", help="its working directory in the container")
    parser.add_argument("-e", "--env", metavar="NAME=VALUE", action="append", default=[], help="one more, each time")
    parser.add_argument("-t", "--tty", action="store_true", help="with a terminal")
    parser.add_argument("-u", "--user", metavar="UID[:GID]", default="", help="whom it runs as")
    parser.add_argument("-g", "--additional-gids", metavar="GID", type=int, action="append", default=[])
    parser.add_argument("-c", "--cap", metavar="NAME", action="append", default=[], help="one capability more")
    parser.add_argument("--no-new-privs", action="store_true")
    parser.add_argument("--apparmor", metavar="PROFILE", default="")
    parser.add_argument("--process-label", metavar="LABEL", default="", help="for SELinux")
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait for its end")
    parser.add_argument("--console-socket", metavar="PATH", default="", help="the socket that is sent the terminal")
    parser.add_argument("--pid-file", metavar="FILE", default="", help="where its pid is written")
    parser.add_argument("--preserve-fds", metavar="N", type=int, default=0, help="hand on N descriptors from 3 on")
    _id(parser)
    parser.add_argument("args", metavar="PROGRAM", nargs=argparse.REMAINDER, help="and its arguments")


def _update(parser: argparse.ArgumentParser) -> None:
    from .limits import FLAGS

    parser.add_argument("-r", "--resources", metavar="FILE", default="", help="all limits, as JSON; -: standard input")
    for flag, (_field, text) in FLAGS.items():
        parser.add_argument(f"--{flag}", metavar="N", help=text)
    _id(parser)


def _events(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stats", action="store_true", help="print the figures once")
    parser.add_argument("--interval", metavar="SECONDS", type=_seconds, default=5.0, help="as 5 or 5s (default)")
    _id(parser)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _nothing(parser: argparse.ArgumentParser) -> None:
    del parser


_COMMANDS: Final[Sequence[tuple[str, Callable[[argparse.Namespace], int], Add]]] = (
    ("create", commands.create, _new_container),
    ("start", commands.start, _id),
    ("run", commands.run, _run),
    ("state", commands.state, _id),
    ("kill", commands.kill, _kill),
    ("delete", commands.delete, _delete),
    ("list", commands.list_containers, _list),
    ("ps", commands.ps, _ps),
    ("exec", commands.execute, _exec),
    ("pause", commands.pause, _id),
    ("resume", commands.resume, _id),
    ("update", commands.update, _update),
    ("events", commands.events, _events),
    ("spec", commands.spec, _spec),
    ("features", commands.features, _nothing),
)
