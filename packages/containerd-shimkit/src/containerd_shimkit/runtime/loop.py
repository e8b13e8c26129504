"""An event loop for the length of one command."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..shim.reaper import Reaper

__all__ = ["with_loop"]

T = TypeVar("T")


def with_loop(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` for what may leave a container's init behind, which is then somebody else's child."""

    async def whole() -> T:
        reaper = Reaper.current()
        try:
            return await main
        finally:
            reaper.stop()

    return asyncio.run(whole())
