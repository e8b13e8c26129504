"""Carries a decision out in the shim: gives a program's compiled code as an open file, compiled at most once a node.

A program that the cache has costs a few system calls. One that it has not is compiled in a child, under a lock that
every shim of the node takes for it, and stored by another. Whatever is wrong with the cache is logged, and the program
is compiled for this container alone: only what is wrong with the program, or with its compiling, fails a container.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from containerd_shimkit import (
    NO_TRACE,
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    ShimError,
    TraceContext,
    span,
)
from containerd_shimkit.container.worker import run_in_child
from containerd_shimkit.shim.reaper import Reaper

from .cache_directory import BadEntryError, CacheError
from .cache_entry import EntryName
from .compile_cache import CompileCache, Found
from .compiler import check_size, compile_program
from .digests import DigestMemory, FileIdentity
from .engine import Engine, Settings

__all__ = ["ProgramDigest", "cache_of", "compile_guest", "entry_name", "wants_digest"]

_log = logging.getLogger(__name__)

_FIRST_RETRY: Final = 0.002  # seconds, between looks at a lock; each is half as long again as the one before
_LAST_RETRY: Final = 0.05
_DISK_TIMEOUT: Final = 60.0
_DIGESTS: Final = DigestMemory(1024)


async def compile_guest(
    engine: Engine, descriptor: int, digest: str = "", trace: TraceContext = NO_TRACE, *, container: str = ""
) -> int | None:
    """The compiled code of the program in the open file *descriptor*; None for "run it as it is".

    The answer is a descriptor of a file that nobody writes to any more: the cache's, or a sealed memory file. *digest*
    is the SHA-256 (64 hexadecimal digits) of the program as `wants_digest` asks for it; without one nothing is cached.
    *container* is an id for the log.

    Raises: ShimError when the program is not valid, or could not be compiled within the settings' limits.
    """
    if engine.can_precompile() is None:
        return None
    check_size(engine, descriptor)
    cache = cache_of(engine.settings) if digest else None
    if cache is not None:
        try:
            return _code_or_none(await _through_cache(cache, engine, descriptor, digest, trace, container))
        except CacheError as error:
            _log.warning("compiling without the cache: %s", error, extra={"instance": container})
    return _code_or_none(await compile_program(engine, descriptor, digest, trace, container))


def wants_digest(engine: Engine) -> bool:
    """Whether `compile_guest` would use a digest."""
    return engine.can_precompile() is not None and engine.settings.compile_cache_bytes > 0


def entry_name(engine: Engine, digest: str) -> EntryName:
    """What *engine* keeps the program under. Raises: CacheError when its key cannot be part of a name."""
    try:
        return EntryName(engine.name, engine.can_precompile() or "", digest)
    except InvalidArgumentError as error:
        raise CacheError(str(error)) from error


def cache_of(settings: Settings) -> CompileCache | None:
    """The cache that *settings* ask for, one object for all that ask for the same; None for none."""
    if settings.compile_cache_bytes <= 0:
        return None
    return _cache(settings.compile_cache_directory, settings.compile_cache_bytes)


@functools.lru_cache(maxsize=16)
def _cache(directory: str, limit_bytes: int) -> CompileCache:
    return CompileCache(directory, limit_bytes)


class ProgramDigest:
    """The digest of one container's program: remembered by the shim, or asked of the init, then remembered."""

    def __init__(self) -> None:
        self._asked_for: FileIdentity | None = None

    def recall(self, engine: Engine, descriptor: int) -> str | None:
        """The program's digest; empty when none is wanted; None: ask for it, and `learn` the answer.

        Raises: InvalidArgumentError for a program that is too big to be compiled, and so to be hashed.
        """
        if not wants_digest(engine):
            return ""
        check_size(engine, descriptor)
        identity = FileIdentity.of(os.fstat(descriptor))
        known = _DIGESTS.recall(identity)
        if known:
            return known
        self._asked_for = identity if identity.is_settled(time.time_ns()) else None
        return None

    def learn(self, descriptor: int, digest: str) -> None:
        """Remember *digest*, the answer to what `recall` asked for, if the file has not changed meanwhile."""
        if self._asked_for is not None and self._asked_for == FileIdentity.of(os.fstat(descriptor)):
            _DIGESTS.remember(self._asked_for, digest)


async def _through_cache(
    cache: CompileCache, engine: Engine, descriptor: int, digest: str, trace: TraceContext, container: str
) -> int:
    """A descriptor of the code. Raises: CacheError when the cache is of no use, before anything was compiled."""
    name = entry_name(engine, digest)
    try:
        found = cache.find(name)
    except BadEntryError:
        found = None  # it is looked at again, by one at a time
    if found is not None:
        if found.record is None:
            return found.descriptor
        os.close(found.descriptor)
    async with _locked(cache, name, engine.settings.compile_timeout) as lock:
        code = await _find_whole(cache, name, container)
        if code is not None:
            return code
        code = await compile_program(engine, descriptor, digest, trace, container)
        try:
            stored = await _store(cache, name, code, os.fstat(descriptor).st_size, lock, trace)
        except CacheError as error:
            _log.warning("not kept for other containers: %s", error, extra={"instance": container})
            return code
        except BaseException:
            os.close(code)
            raise
        os.close(code)
        return stored


@asynccontextmanager
async def _locked(cache: CompileCache, name: EntryName, patience: float) -> AsyncGenerator[int, None]:
    """Hold the entry's lock. Whoever has it compiles, which takes no longer than *patience* seconds."""
    retry, deadline = _FIRST_RETRY, time.monotonic() + patience
    while (lock := cache.try_lock(name)) is None:
        if time.monotonic() > deadline:
            raise CacheError(f"another process has been making {name.text} for more than {patience:g} s")
        await asyncio.sleep(retry)
        retry = min(retry * 1.5, _LAST_RETRY)
    try:
        yield lock
    finally:
        cache.unlock(name, lock)


async def _find_whole(cache: CompileCache, name: EntryName, container: str) -> int | None:
    """The entry's code, verified if need be; None when it is to be made, with nothing of a bad one left."""
    try:
        found = cache.find(name)
        if found is None or found.record is None:
            return found.descriptor if found else None
        return await _verify(cache, name, found)
    except BadEntryError as error:
        _log.warning("compiling anew: %s", error, extra={"instance": container})
        cache.discard(name)
        return None


async def _verify(cache: CompileCache, name: EntryName, found: Found) -> int:
    try:
        await _work_on_disk(lambda: cache.verify(name, found), f"verifying {name.text}", found.descriptor)
    except BaseException:
        os.close(found.descriptor)
        raise
    return found.descriptor


async def _store(
    cache: CompileCache, name: EntryName, code: int, program_bytes: int, lock: int, trace: TraceContext
) -> int:
    """Keep *code*; a descriptor of the file that it is in now. Raises: CacheError."""
    with span("store", trace, entry=name.text):
        work = functools.partial(cache.store, name, code, program_bytes, lock)
        await _work_on_disk(work, f"storing {name.text}", code, lock)
    found = cache.find(name)
    if found is None:
        raise CacheError(f"{name.text} was removed as soon as it was there; is compile_cache_bytes too small?")
    if found.record is not None:
        os.close(found.descriptor)
        raise CacheError(f"{name.text} is not the file that was written; is its file system shared with other nodes?")
    return found.descriptor


async def _work_on_disk(work: Callable[[], None], what: str, *keep: int) -> None:
    """Do *work* in a child: it may wait for the disk. With the lock it goes on to its end when the shim is killed.

    Raises: BadEntryError as *work* does; CacheError for all other failures.
    """

    def be_worker() -> None:
        try:
            work()
        except BadEntryError as error:  # a shim's child reports shimkit's errors alone
            raise FailedPreconditionError(str(error)) from error
        except CacheError as error:
            raise AbortedError(str(error)) from error

    try:
        await run_in_child(be_worker, Reaper.current(), what=what, timeout=_DISK_TIMEOUT, keep=keep)
    except FailedPreconditionError as error:
        raise BadEntryError(str(error)) from error
    except (ShimError, OSError) as error:
        raise CacheError(str(error)) from error


def _code_or_none(code: int) -> int | None:
    if os.fstat(code).st_size:
        return code
    os.close(code)
    return None
