"""A place for sockets whose path fits into the kernel's 107 bytes, wherever pytest keeps its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ttrpc-", dir="/tmp") as directory:
        yield str(Path(directory) / "s")
