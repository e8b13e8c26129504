"""A process of the shim's that does one thing after the other when it is asked to: it forks, or it waits.

A fork costs both sides: what either writes to afterwards is copied first, page by page, and a shim's loop writes all
the time. So from a pod's second container on, a helper that is otherwise idle forks the inits, which become the shim's
own children; and another removes what containers leave, which may have to wait for a disk.

Helpers begin as copies of the shim, share its code, and talk to nobody else: what they are sent is pickled.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import UnavailableError
from ..linux import process
from ..shim.reaper import Reaper
from .channel import Channel, Message
from .init import error_from, error_message, forget_parent
from .worker import fork_child

__all__ = ["Helper", "Work"]

Work = Callable[[Any, Sequence[int]], object]
"""What a helper does with a request and its descriptors, which are closed afterwards; the answer."""


class _PickledChannel(Channel):
    """Between processes of the same code that trust each other."""

    @staticmethod
    def encode(message: Message) -> bytes:
        return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def decode(data: bytes) -> Message:
        message: Message = pickle.loads(data)  # noqa: S301  (ours: the other end is a fork of this process)
        return message


class Helper:
    """One such process, from the shim's side. It ends with the shim, or when it is closed."""

    def __init__(self, name: str, work: Work, reaper: Reaper) -> None:
        """Fork it. Raises: OSError, InternalError."""
        self._name = name
        self._channel, theirs = _PickledChannel.pair()
        self._turn = asyncio.Lock()
        try:
            self.pid = fork_child()
            if self.pid == 0:
                _be_helper(name, work, theirs)
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self._ended = reaper.watch(self.pid)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return not self._ended.done() and self._channel.fileno() >= 0

    async def ask(self, request: object, descriptors: Sequence[int] = ()) -> Any:
        """Have *request* done; its answer. Requests wait for their turn. When cancelled, it is done all the same.

        Raises: the ShimError that the work raised; UnavailableError when the helper has ended.
        """
        await self._turn.acquire()
        try:
            if self._channel.fileno() < 0:  # whoever asked before found it dead
                raise BrokenPipeError
            self._channel.send({"request": request}, descriptors)
        except BaseException as error:
            self._turn.release()
            if isinstance(error, BrokenPipeError):
                raise self._has_ended() from None
            raise
        # from here on an answer is coming, whether anybody waits for it or not
        message = await asyncio.shield(asyncio.ensure_future(self._receive()))
        if message is None:
            raise self._has_ended()
        if message["kind"] == "error":
            raise error_from(message)
        return message["answer"]

    async def _receive(self) -> Message | None:
        try:
            message, _none = await self._channel.receive_async()
            return message
        finally:
            self._turn.release()

    def _has_ended(self) -> UnavailableError:
        self.close()
        return UnavailableError(f"the shim's helper {self._name} (process {self.pid}) has ended")

    def close(self) -> None:
        """Let it end. May be called twice."""
        self._channel.close()


def _be_helper(name: str, work: Work, channel: Channel) -> NoReturn:
    try:
        forget_parent({channel.fileno()})
        process.set_name(name)
        while True:
            message, descriptors = channel.receive()
            if message is None:
                break
            try:
                answer: Message = {"kind": "answer", "answer": work(message["request"], descriptors)}
            except Exception as error:
                answer = error_message(error)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            channel.send(answer)
    except OSError:
        pass  # the shim is gone
    finally:
        os._exit(0)
