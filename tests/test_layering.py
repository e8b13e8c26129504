"""Arrows point one way: between the packages, between the rooms of containerd_shimkit, and away from Linux."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {path.name: path for path in ROOT.glob("packages/*/src/*") if (path / "__init__.py").is_file()}

SHIMKIT = "containerd_shimkit"
SHIM_WASM = "containerd_shim_wasm"
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    SHIMKIT: frozenset(),
    SHIM_WASM: frozenset({SHIMKIT}),
    "containerd_shim_wasmtime": frozenset({SHIM_WASM}),
    "containerd_shim_wasmer": frozenset({SHIM_WASM}),
    "containerd_shim_wamr": frozenset({SHIM_WASM}),
    "containerd_shim_wasmedge": frozenset({SHIM_WASM}),
    "containerd_shim_wasm_test_modules": frozenset(),
    "oci_tar_builder": frozenset(),
    "wasi_demo_app": frozenset({SHIMKIT, "oci_tar_builder"}),
}

# Rooms and modules of shimkit that are tested on any system: no event loop, no Linux, no protobuf, near or far.
PORTABLE = (
    "errors",
    "instance",
    "tracing",
    "wire",
    "oci.spec",
    "task.state",
    "ttrpc",
    "shim.args",
    "shim.address",
    "shim.messages",
    "zygote.messages",
    "launcher.block",
    "container.plan",
    "container.operations",
)
PORTABLE_BUT = ("ttrpc.aio",)
NOT_PORTABLE = ("asyncio", f"{SHIMKIT}.linux", f"{SHIMKIT}.proto")
LINUX_ROOMS = ("linux", "container", "shim", "zygote", "cli", "local", "runtime")
MAY_USE_LINUX = tuple(f"{SHIMKIT}.{room}" for room in LINUX_ROOMS)

# What an author on macOS or Windows imports: the portable rooms, and those that need asyncio or protobuf only.
IMPORTABLE_ANYWHERE = (*PORTABLE, "ttrpc.aio", "task")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name as it stands in a module; *late* ones do not run when the module is imported."""

    target: str
    line: int
    late: bool


def module_name(path: Path) -> str:
    source = next(parent for parent in path.parents if parent.name == "src")
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for source in SOURCES.values() for path in source.rglob("*.py")}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def imports_of(tree: ast.AST, package: str, late: bool = False) -> Iterator[Import]:
    """Give every import below *tree*; from-imports by the module and by each name, which may be a module too."""
    for node in ast.iter_child_nodes(tree):
        inner = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield Import(base, node.lineno, late)
            yield from (Import(f"{base}.{alias.name}", node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            for statement in node.body:
                yield from imports_of(ast.Module([statement], []), package, late=True)
            for statement in node.orelse:
                yield from imports_of(ast.Module([statement], []), package, late)
        elif isinstance(node, ast.Call) and (name := dynamic_import(node)):
            yield Import(name, node.lineno, late)
            yield from imports_of(node, package, inner)
        else:
            yield from imports_of(node, package, inner)


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def dynamic_import(call: ast.Call) -> str | None:
    """Give the module that ``import_module("...")`` or ``__import__("...")`` names, if it is written out."""
    if ast.unparse(call.func).rpartition(".")[2] not in ("import_module", "__import__") or not call.args:
        return None
    name = call.args[0]
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


@cache
def imports(module: str) -> tuple[Import, ...]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(imports_of(ast.parse(path.read_bytes()), package))


def loaded_by(module: str) -> Iterator[str]:
    """Give what runs or is looked up when *module* is imported: its parents, and what it imports at once."""
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts)))
    yield from (found.target for found in imports(module) if not found.late)


def chain_to(module: str, forbidden: tuple[str, ...]) -> list[str]:
    """Find how importing *module* comes to import something of *forbidden*; empty if it does not."""
    waiting, seen = [[module]], {module}
    while waiting:
        chain = waiting.pop(0)
        for target in loaded_by(chain[-1]):
            if any(within(target, room) for room in forbidden):
                return [*chain, target]
            if target in MODULES and target not in seen:
                seen.add(target)
                waiting.append([*chain, target])
    return []


def place(module: str, line: int) -> str:
    return f"{MODULES[module].relative_to(ROOT)}:{line}"


def portable_modules(rooms: tuple[str, ...]) -> list[str]:
    excluded = [f"{SHIMKIT}.{room}" for room in PORTABLE_BUT if room not in rooms]
    return sorted(
        module
        for module in MODULES
        if any(within(module, f"{SHIMKIT}.{room}") for room in rooms)
        and not any(within(module, room) for room in excluded)
    )


def test_every_package_has_its_place_in_the_order() -> None:
    assert set(SOURCES) <= set(MAY_IMPORT)
    assert {SHIMKIT, SHIM_WASM, "containerd_shim_wasmtime", "oci_tar_builder"} <= set(SOURCES)


@pytest.mark.parametrize("package", sorted(SOURCES))
def test_a_package_imports_only_the_packages_below_it(package: str) -> None:
    wrong = [
        f"{place(module, found.line)} imports {found.target}"
        for module in MODULES
        if within(module, package)
        for found in imports(module)
        if (top := found.target.partition(".")[0]) in MAY_IMPORT and top not in {package, *MAY_IMPORT[package]}
    ]
    assert wrong == []


def test_linux_is_used_only_where_processes_and_containers_are_made() -> None:
    wrong = [
        f"{place(module, found.line)} imports {found.target}"
        for module in MODULES
        if not any(within(module, room) for room in MAY_USE_LINUX)
        for found in imports(module)
        if within(found.target, f"{SHIMKIT}.linux")
    ]
    assert wrong == []


@pytest.mark.parametrize("module", portable_modules(PORTABLE))
def test_a_portable_module_imports_no_loop_no_linux_no_protobuf(module: str) -> None:
    direct = [
        f"{place(module, found.line)} imports {found.target}"
        for found in imports(module)
        if any(within(found.target, room) for room in NOT_PORTABLE)
    ]
    assert direct == []
    assert " -> ".join(chain_to(module, NOT_PORTABLE)) == ""


def test_the_reader_of_imports_sees_every_way_to_import() -> None:
    text = """
import asyncio
from . import linux
from ..proto.task import v2
def late():
    import json
    import_module("ctypes.util")
if TYPE_CHECKING:
    import typing_only
else:
    import at_once
class Body:
    import in_class
try:
    import tried
except ImportError:
    import otherwise
"""
    found = {(one.target, one.late) for one in imports_of(ast.parse(text), "ours.room")}
    assert found == {
        ("asyncio", False),
        ("ours.room", False),
        ("ours.room.linux", False),
        ("ours.proto.task", False),
        ("ours.proto.task.v2", False),
        ("json", True),
        ("ctypes.util", True),
        ("typing_only", True),
        ("at_once", False),
        ("in_class", False),
        ("tried", False),
        ("otherwise", False),
    }


# Imported for real in a process that pretends. What the standard library and protobuf need of this system is imported
# first, as theirs is not the question; then what the other system lacks is taken away.
PRETEND = """
import sys
import asyncio, concurrent.futures, ctypes, ctypes.util, dataclasses, hashlib, hmac, http, ipaddress, json, logging
import multiprocessing, os, pathlib, platform, random, secrets, shutil, signal, socket, ssl, stat, struct, subprocess
import tarfile, tempfile, threading, time, typing, typing_extensions, urllib.parse, uuid, zipfile
import click, google.protobuf.descriptor_pool, google.protobuf.runtime_version, google.protobuf.symbol_database
import google.protobuf.internal.builder
from google.protobuf import any_pb2, empty_pb2, timestamp_pb2

def absent(module, *names):
    for name in names:
        if name in vars(module):
            delattr(module, name)

def no_library(*_):
    raise OSError("no such library on this system")

LINUX_ONLY = (
    "pidfd_open", "memfd_create", "eventfd", "pipe2", "setns", "unshare", "getrandom", "posix_fadvise", "splice",
    "copy_file_range", "sched_setaffinity", "sched_getaffinity", "getxattr", "setxattr", "listxattr", "setresuid",
    "setresgid", "getresuid", "getresgid", "fdatasync", "O_PATH", "O_TMPFILE", "O_NOATIME", "O_DIRECT", "O_LARGEFILE",
)
POSIX_ONLY = (
    "fork", "forkpty", "posix_spawn", "posix_spawnp", "wait", "wait3", "wait4", "waitid", "WNOHANG", "WIFEXITED",
    "WEXITSTATUS", "WTERMSIG", "WIFSIGNALED", "waitstatus_to_exitcode", "getuid", "geteuid", "getgid", "getegid",
    "getgroups", "getpgid", "getpgrp", "getsid", "setuid", "setgid", "setgroups", "setsid", "setpgid", "seteuid",
    "initgroups", "killpg", "chown", "fchown", "lchown", "chroot", "mkfifo", "mknod", "makedev", "major", "minor",
    "uname", "nice", "getpriority", "setpriority", "sync", "openpty", "ttyname", "pread", "pwrite", "readv", "writev",
    "sendfile", "statvfs", "fchdir", "fchmod", "lockf", "getloadavg", "sched_yield", "O_CLOEXEC", "O_NOFOLLOW",
    "O_DIRECTORY", "O_NONBLOCK", "O_SYNC", "O_DSYNC", "O_NOCTTY", "ctermid", "sysconf", "confstr", "register_at_fork",
)
system = sys.argv[1]
sys.platform = system
ctypes.CDLL = no_library
ctypes.cdll.LoadLibrary = no_library
absent(os, *LINUX_ONLY)
absent(signal, "pidfd_send_signal", "SIGPOLL", "SIGPWR", "SIGRTMIN", "SIGRTMAX", "SIGSTKFLT")
absent(socket, "SO_PASSCRED", "SO_PEERCRED", "SCM_CREDENTIALS", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_NETLINK")
import select
absent(select, "epoll")
if system == "win32":
    os.name = "nt"
    absent(os, *POSIX_ONLY)
    absent(socket, "AF_UNIX", "SCM_RIGHTS", "CMSG_LEN", "CMSG_SPACE", "send_fds", "recv_fds")
    absent(signal, *(name for name in dir(signal) if name.startswith("SIG") and name not in (
        "SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN")))
    absent(signal, "pthread_sigmask", "sigwait", "sigwaitinfo", "sigtimedwait", "setitimer")
    absent(select, "poll")
    absent(asyncio, "open_unix_connection", "start_unix_server")
    for name in ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"):
        sys.modules[name] = None

import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
print("imported", len(sys.argv[2:]))
"""


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_the_portable_part_imports_on_other_systems(system: str) -> None:
    builder = [module for module in MODULES if within(module, "oci_tar_builder") and not module.endswith("__main__")]
    modules = [SHIMKIT, *portable_modules(IMPORTABLE_ANYWHERE), *sorted(builder)]
    command = [sys.executable, "-c", PRETEND, system, *modules]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.stderr == "", finished.stderr
    assert finished.stdout == f"imported {len(modules)}\n"


@pytest.mark.parametrize("line", ["import fcntl", "import os; os.fork", "import ctypes; ctypes.CDLL(None)"])
def test_pretending_takes_away_what_windows_lacks(line: str) -> None:
    finished = subprocess.run([sys.executable, "-c", PRETEND + line, "win32"], capture_output=True, check=False)
    assert finished.returncode == 1
