"""Answers to what an executor asks from inside a container."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ..errors import InvalidArgumentError
from .channel import Message

__all__ = ["Answer", "no_answer"]

Answer: TypeAlias = Callable[[Message, Sequence[int]], Awaitable[tuple[Message, Sequence[int]]]]
"""Answers a question of the executor's. The descriptors that it gets and gives are closed by the caller."""


async def no_answer(question: Message, descriptors: Sequence[int]) -> tuple[Message, Sequence[int]]:
    """Of a container whose executor has nothing to ask. Raises: InvalidArgumentError."""
    del question, descriptors
    raise InvalidArgumentError("this container's executor asked a question that nobody here can answer")
