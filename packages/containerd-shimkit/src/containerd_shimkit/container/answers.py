"""Answers to what an executor asks from inside a container."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from ..errors import InvalidArgumentError
from .channel import Message

__all__ = ["Answer", "answer_while", "no_answer"]

Answer: TypeAlias = Callable[[Message, Sequence[int]], Awaitable[tuple[Message, Sequence[int]]]]
"""Answers a question of the executor's. The descriptors that it gets and gives are closed by the caller."""


async def no_answer(question: Message, descriptors: Sequence[int]) -> tuple[Message, Sequence[int]]:
    """Of a container whose executor has nothing to ask. Raises: InvalidArgumentError."""
    del question, descriptors
    raise InvalidArgumentError("this container's executor asked a question that nobody here can answer")


async def answer_while(
    answer: Awaitable[tuple[Message, Sequence[int]]], ended: asyncio.Future[Any]
) -> tuple[Message, Sequence[int]] | None:
    """What *answer* gives, or None as soon as whoever asked has *ended*: nobody would hear it."""
    answering = asyncio.ensure_future(answer)
    try:
        waiting: set[asyncio.Future[Any]] = {answering, ended}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        if not answering.done():
            answering.cancel()
            (late,) = await asyncio.gather(answering, return_exceptions=True)
            if not isinstance(late, BaseException):  # it was ready in the same moment
                for descriptor in late[1]:
                    os.close(descriptor)
