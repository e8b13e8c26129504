"""A runtime's handler in containerd's configuration: what Kubernetes' RuntimeClass names.

Every change is tried: the configuration as containerd itself reads it must have the handler afterwards, and be what it
was otherwise, or the change is taken back. So a drop-in is used where an import takes it up without replacing what is
there, as containerd 1.x would; elsewhere a block is appended to the file itself, which stays as it was before it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from glob import has_magic
from importlib import import_module
from typing import Any, Final, cast

from ..errors import AlreadyExistsError, FailedPreconditionError, NotFoundError

__all__ = ["DEFAULT_CONFIG", "add_handler", "block", "remove_handler", "runtime_class", "without_block"]

DEFAULT_CONFIG: Final = "/etc/containerd/config.toml"
_TIMEOUT: Final = 30.0
_PLUGINS: Final = {
    2: "io.containerd.grpc.v1.cri",  # 1.x, and understood by 2.x
    3: "io.containerd.cri.v1.runtime",
    4: "io.containerd.cri.v1.runtime",  # from 2.3 on, where 3 is understood too
}
_TOML: Final = "tomllib" if sys.version_info >= (3, 11) else "tomli"
_OF_NEW_FILES: Final = 3  # the newest version that every 2.x understands
_Config = Mapping[str, Any]


def block(name: str, version: int, *, is_file: bool, kept: Mapping[str, str] | None = None) -> str:
    """The lines that make the handler *name*, in the configuration's *version*; *is_file*: of a file of its own.

    *kept*: types of handlers that containerd has by default, by their names; 1.x forgets them when it reads of another.

    Raises: FailedPreconditionError for a version that has other tables.
    """
    if version not in _PLUGINS:
        known = ", ".join(map(str, _PLUGINS))
        raise FailedPreconditionError(
            f"containerd's configuration has version {version}; handlers are known for {known}: have containerd write "
            "a newer one by `containerd config migrate`"
        )
    header = f"version = {version}\n" if is_file else ""
    tables = "".join(
        f'[plugins."{_PLUGINS[version]}".containerd.runtimes.{each}]\nruntime_type = "{kind}"\n'
        for each, kind in {name: _type_of(name), **(kept or {})}.items()
    )
    return f"{_begin(name)}\n{header}{tables}{_end(name)}\n"


def without_block(text: str, name: str) -> str:
    """A configuration without the block that was appended to it; the same where there is none."""
    before, begin, rest = text.partition(f"{_begin(name)}\n")
    _, end, after = rest.partition(f"{_end(name)}\n")
    return before + after if begin and end else text


def runtime_class(name: str) -> str:
    """The object by which pods ask Kubernetes for the handler."""
    return f"apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: {name}\nhandler: {name}\n"


def add_handler(name: str, config: str, containerd: str = "containerd") -> str:
    """Add the handler *name* to what the containerd program reads from *config*; the path that was written, or "".

    Nothing is written when it is there already. Raises: ShimError, OSError; nothing has been changed then.
    """
    before = _read_by_containerd(containerd, config)
    there = _handlers(before).get(name)
    if there is not None:
        if there.get("runtime_type") == _type_of(name):
            return ""
        raise AlreadyExistsError(
            f"{config} has a handler {name} of the type {there.get('runtime_type')!r}; it is left alone: remove it"
        )

    def is_taken(path: str, text: str) -> bool:
        former = _read(path) if os.path.exists(path) else None
        _write(path, text)
        is_added = False
        try:
            is_added = _is_added(name, before, containerd, config)
        finally:
            if not is_added:
                _restore(path, former)
        return is_added

    version, text = min(int(before["version"]), _OF_NEW_FILES), _read(config)
    for directory in _drop_in_directories(before, text) if text else ():
        path = _drop_in(directory, name)
        if not os.path.lexists(path) and is_taken(path, block(name, version, is_file=True)):
            return path
    version = _version_of(text) if text else version
    lines = block(name, version, is_file=not text)
    separator = "\n" if text and not text.endswith("\n") else ""
    defaults = {each: str(table.get("runtime_type")) for each, table in _handlers(before).items()}
    for added in (lines, block(name, version, is_file=not text, kept=defaults)):
        if is_taken(config, text + separator + added):
            return config
    raise FailedPreconditionError(
        f"containerd would not read {config} as it does now with the handler {name} at its end; it is as it was: add "
        f"by hand\n{lines}"
    )


def remove_handler(name: str, config: str) -> str:
    """Take away what `add_handler` has written; the path that was changed or removed, "" where there is nothing.

    Raises: OSError.
    """
    text = _read(config)
    for directory in _drop_in_directories({}, text):
        path = _drop_in(directory, name)
        if _read(path).startswith(_begin(name)):
            os.unlink(path)
            return path
    rest = without_block(text, name)
    if rest == text:
        return ""
    _restore(config, rest or None)
    return config


def _restore(path: str, former: str | None) -> None:
    if former is None:
        os.unlink(path)
    else:
        _write(path, former)


def _type_of(name: str) -> str:
    return f"io.containerd.{name}.v1"


def _parse(text: str) -> dict[str, Any]:
    """Raises: ValueError."""
    loads: Callable[[str], dict[str, Any]] = import_module(_TOML).loads
    return loads(text)


def _begin(name: str) -> str:
    return f"# containerd-shimkit: begin {name}"


def _end(name: str) -> str:
    return f"# containerd-shimkit: end {name}"


def _drop_in(directory: str, name: str) -> str:
    return os.path.join(directory, f"50-containerd-shimkit-{name}.toml")


def _drop_in_directories(dumped: _Config, text: str) -> list[str]:
    """Directories of which every file ending in .toml is imported; containerd 2.x has one of its own accord."""
    try:
        own = _strings(_parse(text).get("imports"))
    except ValueError:
        own = []
    usual = [f"{os.path.dirname(DEFAULT_CONFIG)}/conf.d/*.toml"]
    patterns = [*own, *(_strings(dumped.get("imports")) if dumped else usual)]
    found = (os.path.split(each) for each in patterns)
    directories = (directory for directory, last in found if last == "*.toml" and not has_magic(directory))
    return [each for each in dict.fromkeys(directories) if os.path.isabs(each) and os.path.isdir(each)]


def _version_of(text: str) -> int:
    try:
        return int(_parse(text).get("version", 1))
    except ValueError as error:
        raise FailedPreconditionError(f"containerd's configuration is no TOML: {error}") from error


def _strings(value: object) -> list[str]:
    return [each for each in cast("list[object]", value) if isinstance(each, str)] if isinstance(value, list) else []


def _is_added(name: str, before: _Config, containerd: str, config: str) -> bool:
    """Whether containerd reads the handler now, and all else as it did."""
    try:
        after = _read_by_containerd(containerd, config)
    except FailedPreconditionError:
        return False
    added = _handlers(after).pop(name, {})
    same = _meant({**before, "imports": None}) == _meant({**after, "imports": None})
    return same and added.get("runtime_type") == _type_of(name)


def _meant(value: Any) -> Any:
    """A configuration without what is empty, zero or false, which containerd shows of some tables and not of others."""
    if not isinstance(value, dict):
        return value
    table = {key: _meant(each) for key, each in cast("dict[str, Any]", value).items()}
    return {key: each for key, each in table.items() if each}


def _handlers(config: _Config) -> dict[str, dict[str, Any]]:
    plugin = config.get("plugins", {}).get(_PLUGINS.get(int(config.get("version", 0)), ""), {})
    handlers: dict[str, dict[str, Any]] = plugin.get("containerd", {}).get("runtimes", {})
    return handlers


def _read_by_containerd(containerd: str, config: str) -> dict[str, Any]:
    """What containerd makes of the file, defaults included. Raises: NotFoundError, FailedPreconditionError."""
    words = [containerd, *(["--config", config] if os.path.exists(config) else []), "config"]
    words.append("dump" if os.path.exists(config) else "default")
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_TIMEOUT)
        return _parse(done.stdout)
    except FileNotFoundError:
        raise NotFoundError(f"no program {containerd}, which has to read {config}; give its path") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        raise FailedPreconditionError(f"containerd cannot read {config}: {said[-1] if said else 'no word'}") from error
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise FailedPreconditionError(f"{' '.join(words)}: {error}") from error


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    """Put *text* at *path*, whole or not at all; mode and owner stay those of what was there."""
    path = os.path.realpath(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".containerd-shimkit.", dir=os.path.dirname(path))
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            mode, owner = 0o644, (-1, -1)
            if os.path.exists(path):
                status = os.stat(path)
                mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
            os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
