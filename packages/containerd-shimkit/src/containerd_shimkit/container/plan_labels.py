"""Plans the SELinux context of what a container mounts. Pure.

Source: OCI runtime specification 1.2, config-linux.md, "Mount Label"; mount(8), "context=".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from ..errors import InvalidArgumentError
from .operations import CopiedTmpfs, FilesystemMount, Operation, SetFileContext

__all__ = ["labelled_mounts"]

_WITHOUT: Final = ("proc", "sysfs", "cgroup", "cgroup2")  # the policy itself says what their files are
_BY_ATTRIBUTE: Final = ("mqueue",)  # takes no such option, but has files that can be labelled


def labelled_mounts(steps: Iterable[Operation], context: str) -> Iterator[Operation]:
    """*steps*, with the new file systems among them in *context*; as they are without one.

    What is shown from the host keeps the labels that it has there. Raises: InvalidArgumentError.
    """
    if not context:
        yield from steps
        return
    if '"' in context:
        raise InvalidArgumentError(f"config.json: linux.mountLabel {context!r} has a quotation mark, as no context has")
    for step in steps:
        fstype = step.fstype if isinstance(step, FilesystemMount) else ""
        if not isinstance(step, FilesystemMount | CopiedTmpfs) or fstype in _WITHOUT:
            yield step
        elif fstype in _BY_ATTRIBUTE:
            yield step
            yield SetFileContext(step.target, context)
        else:
            option = f'context="{context}"'  # quoted, for its categories stand behind commas
            yield replace(step, data=f"{step.data},{option}" if step.data else option)
