"""Root file systems whose files belong to others than their layers say: the options `uidmap` and `gidmap`.

containerd asks for them for pods in user namespaces, where the snapshotter is overlayfs. An overlay has no mapping of
its own: its layers get one each, as mounts that stand somewhere for the moment in which the overlay takes them.
Source: containerd, core/mount; mount_setattr(2), "ID-mapped mounts".
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from ..errors import InvalidArgumentError
from ..oci.mount_options import MOUNT_ATTR_IDMAP
from .id_mapping import open_mapping
from .libc import encode, last_error, libc
from .mount_tree import copy_mount, move_mount, set_attributes
from .user_namespaces import IdRange

__all__ = ["Mapping", "bind_mapped", "mapped_lowerdirs", "split_mapping"]

_MNT_DETACH: Final = 2
_COLON: Final = re.compile(r"(?<!\\):")
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Whose files are whose: the ids of the file system, and those that they are seen as."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]


def split_mapping(options: Sequence[str]) -> tuple[Mapping | None, tuple[str, ...]]:
    """The mapping among a mount's options, None without one, and the other options.

    Raises: InvalidArgumentError for one that cannot be read, or for one of users without one of groups.
    """
    found = {name: _ranges(name, value) for name, value in _mappings(options)}
    if not found:
        return None, tuple(options)
    if len(found) < 2:
        raise InvalidArgumentError(
            f"the mount that containerd asks for has the option {next(iter(found))!r} alone: it needs both of uidmap "
            "and gidmap"
        )
    rest = tuple(each for each in options if each.partition("=")[0] not in found)
    return Mapping(found["uidmap"], found["gidmap"]), rest


@contextmanager
def mapped_lowerdirs(options: Sequence[str], mapping: Mapping, place: str) -> Generator[tuple[str, ...], None, None]:
    """An overlay's options, with layers that are mapped; they work, and stand at *place*, until the context ends.

    *place* is a path where nothing is. Raises: OSError that names the layer, InvalidArgumentError.
    """
    index = next((number for number, word in enumerate(options) if word.startswith("lowerdir=")), None)
    if index is None:
        raise InvalidArgumentError("an overlay is to be mapped, but has no option lowerdir")
    layers = [_ESCAPED.sub(r"\1", each) for each in _COLON.split(options[index].removeprefix("lowerdir="))]
    if not all(each.startswith("/") for each in layers):
        raise InvalidArgumentError(f"an overlay is to be mapped, but {options[index]!r} are not paths from the root")
    with ExitStack() as undo:
        os.mkdir(place, 0o700)
        undo.callback(os.rmdir, place)
        target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, target)
        descriptors: list[int] = []
        with _opened(mapping) as namespace:
            for layer in layers:
                mount = _mapped_copy(layer, namespace, recursive=False)
                undo.callback(os.close, mount)
                move_mount(mount, target)
                undo.callback(_detach, mount)
                descriptors.append(mount)
        lower = ":".join(f"/proc/self/fd/{each}" for each in descriptors)
        yield (*options[:index], f"lowerdir={lower}", *options[index + 1 :])


def bind_mapped(source: str, target: str, mapping: Mapping, *, recursive: bool) -> None:
    """Show what is at *source* at *target* as well, its owners mapped. Raises: OSError."""
    with _opened(mapping) as namespace, ExitStack() as undo:
        place = os.open(target, os.O_PATH | os.O_CLOEXEC)
        undo.callback(os.close, place)
        mount = _mapped_copy(source, namespace, recursive=recursive)
        undo.callback(os.close, mount)
        move_mount(mount, place)


def _mappings(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    for each in options:
        name, _, value = each.partition("=")
        if name in ("uidmap", "gidmap"):
            yield name, value


def _ranges(name: str, value: str) -> tuple[IdRange, ...]:
    found: list[IdRange] = []
    for each in value.split(","):
        numbers = each.split(":")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise InvalidArgumentError(
                f"the mount that containerd asks for has the option {name}={value!r}; it must be ranges of the form "
                "INSIDE:OUTSIDE:COUNT, with commas between them"
            )
        inside, outside, count = map(int, numbers)
        found.append((inside, outside, count))
    return tuple(found)


@contextmanager
def _opened(mapping: Mapping) -> Generator[int, None, None]:
    namespace = open_mapping(mapping.uids, mapping.gids)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _mapped_copy(source: str, namespace: int, *, recursive: bool) -> int:
    mount = copy_mount(source, recursive=recursive)
    try:
        set_attributes(mount, MOUNT_ATTR_IDMAP, recursive=recursive, user_namespace=namespace)
    except OSError as error:
        os.close(mount)
        if error.errno == errno.EINVAL:
            raise OSError(errno.EINVAL, "this kernel cannot map the ids of this file system", source) from None
        raise
    return mount


def _detach(mount: int) -> None:
    if libc.umount2(encode(f"/proc/self/fd/{mount}"), _MNT_DETACH) < 0:
        raise last_error("umount", f"/proc/self/fd/{mount}")
