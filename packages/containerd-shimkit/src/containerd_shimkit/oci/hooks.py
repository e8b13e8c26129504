"""Lifecycle hooks of a config.json, and the state that each of them reads from its standard input.

Source: OCI runtime specification 1.2, config.md (POSIX-platform hooks) and runtime.md (state).
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .strict_json import INT64, JsonObject

__all__ = ["HOOK_KINDS", "Hook", "hooks_of", "state_document", "state_of"]

HOOK_KINDS: Final = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
"""In the order in which they run."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One program: *args* with the program's name first, *env* entries `NAME=value`, *timeout* in seconds or None."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


def hooks_of(hooks: JsonObject | None) -> Mapping[str, tuple[Hook, ...]]:
    """The hooks of each kind, in their order; kinds without any are absent. Raises: InvalidArgumentError."""
    if hooks is None:
        return {}
    found = {kind: tuple(map(_hook, hooks.children(kind))) for kind in HOOK_KINDS}
    return {kind: each for kind, each in found.items() if each}


def _hook(hook: JsonObject) -> Hook:
    path = hook.required_text("path")
    if not posixpath.isabs(path):
        raise hook.error("path", "an absolute path")
    timeout = hook.optional_integer("timeout", INT64)
    if timeout is not None and timeout <= 0:
        raise hook.error("timeout", "a number of seconds above 0")
    return Hook(path, hook.texts("args"), hook.texts("env"), timeout)


def state_document(
    id: str,  # noqa: A002
    status: str,
    pid: int,
    bundle: str,
    annotations: Mapping[str, str],
) -> bytes:
    """A container's state as JSON, of what `state_of` says."""
    return json.dumps(state_of(id, status, pid, bundle, annotations), separators=(",", ":")).encode()


def state_of(
    id: str,  # noqa: A002
    status: str,
    pid: int,
    bundle: str,
    annotations: Mapping[str, str],
) -> dict[str, object]:
    """A container's state; *status* is one of creating, created, running, stopped. No pid when it is 0."""
    state: dict[str, object] = {"ociVersion": "1.2.0", "id": id, "status": status}
    if pid:
        state["pid"] = pid
    state["bundle"] = bundle
    if annotations:
        state["annotations"] = dict(annotations)
    return state
