"""`containerd-shimkit install NAME...`: put the launcher where containerd finds it, as the program of a runtime."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence

import click

from ..errors import AlreadyExistsError, FailedPreconditionError, NotFoundError, ShimError
from ..launcher import build
from ..launcher.block import fill_command, is_launcher, machine_of
from .handler import DEFAULT_CONFIG, add_handler, runtime_class
from .owners import package_owning
from .programs import Kind, Program, RuntimeName, interpreter_of, program_name, read_program, runtime_name
from .search_path import SearchPath, containerd_search_paths, same_directory

__all__ = ["DEFAULT_DIRECTORY", "install"]

DEFAULT_DIRECTORY = "/usr/local/bin"
_PROBE_TIMEOUT = 60.0
_NO_LAUNCHER = (
    "this install of containerd-shimkit has no launcher ({reason}). Install its wheel for Linux on x86_64 or aarch64"
    " (pip install --force-reinstall containerd-shimkit), or have one compiled here: --compile. The shim works without"
    " it, only slower: have containerd find {scripts}"
)


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=RuntimeName())
@click.option(
    "--directory",
    default=DEFAULT_DIRECTORY,
    show_default=True,
    type=click.Path(file_okay=False, resolve_path=False),
    help="Where to put it: a directory on containerd's PATH.",
)
@click.option(
    "--compile", "compile_here", is_flag=True, help="Compile the launcher with the C compiler of this machine."
)
@click.option(
    "--kubernetes",
    is_flag=True,
    help="Also make each a handler in containerd's configuration, and print the RuntimeClass that names it.",
)
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    show_default=True,
    type=click.Path(dir_okay=False),
    help="containerd's configuration, for --kubernetes.",
)
def install(names: tuple[str, ...], directory: str, compile_here: bool, kubernetes: bool, config: str) -> None:
    """Let containerd find the runtimes io.containerd.NAME.v1 that are installed in this Python environment.

    A small native program goes into the directory, which hands containerd's requests to a warm process of the shim's.
    """
    directory = os.path.abspath(directory)
    failed = False
    for name in names:
        try:
            click.echo(_install(name, directory, compile_here))
            if kubernetes:
                _add_handler(name, os.path.abspath(config))
        except (ShimError, build.CompileError) as error:
            click.echo(f"error: {name}: {error}", err=True)
            failed = True
        except OSError as error:
            click.echo(f"error: {name}: {error.filename or directory}: {error.strerror}{_cure(error)}", err=True)
            failed = True
        else:
            for search_path in containerd_search_paths():
                if warning := warning_about(search_path, directory, program_name(name)):
                    click.echo(f"warning: {warning}", err=True)
    if failed:
        sys.exit(1)


def _add_handler(name: str, config: str) -> None:
    """Make *name* a handler; say so on stderr, and print its RuntimeClass. Raises: ShimError, OSError."""
    written = add_handler(name, config)
    said = f"the handler {name} is in {written}; restart containerd" if written else f"{config} has a handler {name}"
    click.echo(said, err=True)
    click.echo(f"---\n{runtime_class(name)}", nl=False)


def _cure(error: OSError) -> str:
    refused = isinstance(error, PermissionError) or error.errno == errno.EROFS
    return "; run this as root, or give another --directory" if refused else ""


def _install(name: str, directory: str, compile_here: bool) -> str:
    """Install one; what has been done, for people. Raises: ShimError, CompileError, OSError."""
    if not os.path.isdir(directory):
        raise NotFoundError(f"{directory} is no directory; make it, or give another --directory")
    command = command_of(name)
    path = os.path.join(directory, program_name(name))
    existing = read_program(path)
    if existing is not None:
        check_replaceable(existing)
    data = fill_command(_compiled() if compile_here else _template(), command)
    if existing is not None and existing.data == data and os.stat(path).st_mode & 0o7777 == 0o755:
        return f"{path} is installed already"
    if existing is not None and (owner := package_owning(path)):
        raise AlreadyExistsError(f"{path} belongs to a package of the distribution ({owner}); it is left alone")
    check_command(command)
    _write(path, data, replacing=existing is not None)
    old = existing.command if existing else ()  # a damaged one has none
    before = f", which ran {' '.join(old)}" if old and old != tuple(command) else ""
    return f"{'replaced' if existing else 'installed'} {path}{before}: it runs {' '.join(command)}"


def command_of(name: str) -> list[str]:
    """The words that run the shim's console script beside this Python. Raises: NotFoundError."""
    directories = dict.fromkeys((os.path.dirname(sys.executable), sysconfig.get_path("scripts")))
    for directory in directories:
        script = os.path.join(directory, program_name(name))
        if os.path.isfile(script) and os.access(script, os.X_OK):
            return [_interpreter(script), "-I", script]
    there = sorted({each for directory in directories for each in _shims_in(directory)})
    known = f"there are: {', '.join(there)}" if there else "there is no shim at all"
    raise NotFoundError(
        f"no program {program_name(name)} in {' or '.join(directories)}: pip install containerd-shim-{name}"
        f" into the environment of {sys.executable} ({known})"
    )


def _interpreter(script: str) -> str:
    """The Python that the script itself names, so that both ways to run it are one program to its zygote."""
    with open(script, "rb") as file:
        named = interpreter_of(file.read(4096))
    ours = os.path.isabs(named) and same_directory(os.path.dirname(named), os.path.dirname(sys.executable))
    return named if ours and os.access(named, os.X_OK) else sys.executable


def _shims_in(directory: str) -> list[str]:
    try:
        return [name for program in os.listdir(directory) if (name := runtime_name(program))]
    except OSError:
        return []


def check_replaceable(existing: Program) -> None:
    """Only a launcher may be replaced. Raises: AlreadyExistsError, saying what stands there."""
    if existing.kind is Kind.LAUNCHER:
        return
    what = "a console script, as pip makes them" if existing.kind is Kind.CONSOLE_SCRIPT else "no launcher of ours"
    if os.path.islink(existing.path):
        what = f"a link to {os.readlink(existing.path)}"
    owner = package_owning(existing.path)
    raise AlreadyExistsError(
        f"{existing.path} is {what}{f' ({owner})' if owner else ''}; it is left alone: remove it by what has made it,"
        " or give another --directory"
    )


def check_command(command: Sequence[str]) -> None:
    """Have the shim print its version, from elsewhere and isolated, as the launcher would run it.

    Raises: FailedPreconditionError with what it printed.
    """
    try:
        done = subprocess.run(
            [*command, "-v"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_PROBE_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise FailedPreconditionError(f"{' '.join(error.cmd)} did not end within {_PROBE_TIMEOUT:g} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise FailedPreconditionError(
            f"{' '.join([*command, '-v'])} ended with {done.returncode}: {said[-1] if said else 'no word'}"
        )


def _template() -> bytes:
    """The launcher of this install, made for no command yet. Raises: FailedPreconditionError, with the cure."""
    path = os.path.join(build.DIRECTORY, build.BINARY)
    reason = ""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        data, reason = b"", "it is the pure wheel, or no C compiler was there"
    if not reason and not is_launcher(data):
        reason = f"{path} is none of this version"
    if not reason and (machine := machine_of(data)) != os.uname().machine:
        reason = f"{path} is for {machine}, this machine is {os.uname().machine}"
    if reason:
        raise FailedPreconditionError(_NO_LAUNCHER.format(reason=reason, scripts=os.path.dirname(sys.executable)))
    return data


def _compiled() -> bytes:
    compiler = build.find_compiler()
    if compiler is None:
        raise FailedPreconditionError("no C compiler (cc, gcc, clang) on PATH; install one, or leave --compile out")
    with tempfile.TemporaryDirectory(prefix="launcher-") as scratch:
        output = os.path.join(scratch, build.BINARY)
        build.compile_launcher(compiler, output)
        with open(output, "rb") as file:
            return file.read()


def _write(path: str, data: bytes, replacing: bool) -> None:
    """Put *data* at *path*, whole or not at all; where nothing was, only if nothing still is.

    Raises: AlreadyExistsError, when somebody has been faster; OSError, which names the directory.
    """
    directory, name = os.path.split(path)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o755)
                file.flush()
                os.fsync(file.fileno())
            if replacing:
                os.rename(temporary, path)
            else:
                _put_in_free_place(temporary, path)
        finally:
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass
    except FileExistsError as error:
        raise AlreadyExistsError(f"{path} has just been made by somebody else; it is left alone") from error
    except OSError as error:  # the temporary file's name would tell nobody anything
        raise OSError(error.errno, error.strerror, directory) from error


def _put_in_free_place(temporary: str, path: str) -> None:
    """Give the file its name, unless somebody has been faster. Raises: FileExistsError; OSError."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)  # a file system without hard links


def warning_about(search_path: SearchPath, directory: str, program: str) -> str:
    """Why containerd would not execute *program* of *directory*; "" when it would."""
    if not search_path.has(directory):
        looked = ":".join(search_path.directories)
        return (
            f"{search_path.owner} does not look in {directory} but in {looked}: give one of these by --directory, or"
            f" name {os.path.join(directory, program)} as the runtime's path in containerd's configuration"
        )
    found = search_path.finds(program)
    if found is not None and not same_directory(os.path.dirname(found), directory):
        return (
            f"{search_path.owner} finds {found} first and executes that; remove it, or install with --directory there"
        )
    return ""
