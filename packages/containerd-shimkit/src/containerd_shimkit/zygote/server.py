"""The zygote: imports everything, then only forks. One thread, no event loop, no state that matters: killing it loses
nothing.

A caller connects, sends its request, and hears "accepted" before anything is done for it; from then on a child of the
zygote holds the connection, does what was asked, and replies. After a `start` that child becomes the shim. What needs
no child (`-v`, `-info`, and what is in `quick`) is answered by the zygote itself.

The zygote never opens a path that a caller names: it could hang there, and everybody with it. That is a child's work.
"""

from __future__ import annotations

import errno
import gc
import importlib
import marshal
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Final, cast

from ..errors import ShimError
from ..linux import process
from ..linux.rlimits import raise_descriptor_limit
from ..shim.actions import Outcome, Service, Shim, failure, fork_failure, perform, runtime_info, version_text
from ..shim.args import ShimArgs, parse_args
from ..shim.bootstrap import log_failure
from ..shim.group import remove_dead_socket
from ..shim.messages import MAX_INPUT_BYTES, shim_title
from . import messages
from .caller import Caller
from .client import ensure_directory, say_ready
from .identity import Identity
from .messages import Reply, Request
from .naming import entry_command, socket_path
from .quick import delete_response, input_at_hand, start_outcome

__all__ = ["run_zygote"]

_BACKLOG: Final = 4096  # the kernel cuts it to net.core.somaxconn
_IDLE_SECONDS: Final = 3600.0  # after the last of its shims has gone
_QUIET: Final = 0.3  # seconds without a caller after which there is time for a rehearsal
_TICK: Final = 60.0  # seconds between two looks at whether it is needed still
_FULL: Final = 0.01  # seconds to wait when there is no room for a caller
_SPARE: Final = 32  # descriptors that it needs for its own work at most
_PIECE: Final = 1 << 16


def run_zygote(shim: Shim, path: str) -> int:
    """Be the zygote of *shim* that listens at *path*, until it is needed no more; the process's exit status.

    What goes wrong before it listens is said on standard error, which whoever started it reads.
    """
    process.close_descriptors(set())
    os.chdir("/")
    os.umask(0o077)
    _import_asyncio_without_tls()
    for name in ("shim.rehearsal", "container.cleanup"):  # a child's `delete` needs that; imports are closed after this
        importlib.import_module(f"containerd_shimkit.{name}")
    from ..shim.serve import prepare

    fixed = _fixed_texts(shim)
    identity = Identity()  # while it is still known where code comes from
    prepare(shim)
    ensure_directory(os.path.dirname(path))
    if path != socket_path(entry_command(), os.path.dirname(path)):
        os.write(2, b"its context is another than its caller's\n")
        return 1
    identity.add_loaded()
    raise_descriptor_limit()  # each caller takes three; a container gets the limit that was there
    zygote = _Zygote(shim, path, fixed, identity)
    _settle_memory()
    process.set_name("shim-zygote")
    process.set_command_line(f"containerd-shim-{shim.name}-v1 zygote")
    say_ready()
    zygote.run()
    return 0


def _settle_memory() -> None:
    """Take all objects there are out of the collector's sight: what exists now is shared with every child."""
    gc.collect()
    gc.freeze()


def _fixed_texts(shim: Shim) -> tuple[bytes, bytes]:
    """What -v and -info print. Found out in a child, for what that imports every fork would copy."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            texts = (version_text(shim, f"containerd-shim-{shim.name}-v1"), runtime_info(shim))
            with open(theirs, "wb") as pipe:
                marshal.dump(texts, pipe)
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        version, info = marshal.load(pipe)  # noqa: S302  (a child's of this process)
    os.waitpid(pid, 0)
    return version, info


def _import_asyncio_without_tls() -> None:
    """asyncio does without `ssl` where there is none; a megabyte that every fork would copy, and no shim uses."""
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = cast("ModuleType", None)  # as if it could not be imported
    try:
        importlib.import_module("asyncio")
    finally:
        del sys.modules["ssl"]


class _Zygote:
    """The listener, its callers, its children."""

    def __init__(self, shim: Shim, path: str, fixed: tuple[bytes, bytes], identity: Identity) -> None:
        self._shim = shim
        self._path = path
        self._identity = identity
        self._is_rehearsed = False
        self._listener = _listen(path)
        self._own = os.stat(path)
        self._fixed = fixed  # what -v and -info print
        self._most_callers = _most_callers()
        self._poll = select.poll()
        self._coming: dict[int, Caller] = {}
        self._accepted: deque[tuple[Caller, Request]] = deque()
        self._children = 0
        self._idle_since = time.monotonic()
        self._is_over = False

    def run(self) -> None:
        """Serve until nobody needs this zygote, or it is not the current one."""
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        _wake_at_ends(waker)
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(woken, select.POLLIN)
        while not self._is_over:
            ready = self._poll.poll(self._patience() * 1000)
            if not ready and not self._is_rehearsed:
                self._rehearse()
                _wake_at_ends(waker)  # an event loop that ends takes that away
            for descriptor, _events in ready:
                if descriptor == woken:
                    os.read(woken, _PIECE)
                elif descriptor in self._coming:
                    self._hear(self._coming[descriptor])
            self._accept()
            while self._accepted:
                self._serve(*self._accepted.popleft())
                self._accept()  # who comes meanwhile hears at once that it has been heard
            self._collect()
            self._look_around()
        self._let_go()

    def _patience(self) -> float:
        """For how many seconds nothing has to be done, if nothing happens."""
        quiet = _TICK if self._is_rehearsed else _QUIET
        oldest = next(iter(self._coming.values()), None)
        return quiet if oldest is None else min(quiet, oldest.left)

    def _rehearse(self) -> None:
        """Do now, while nobody asks for anything, what the first children would be slower for."""
        self._is_rehearsed = True
        from ..shim.rehearsal import rehearse

        try:
            rehearse()
        except Exception:
            # no room for a file, no descriptor left: its children are slower, and that is all
            return
        _settle_memory()

    def _accept(self) -> None:
        while True:
            if len(self._coming) + len(self._accepted) >= self._most_callers:
                if not self._accepted:
                    time.sleep(_FULL)  # all of them are slow, and let go in their time
                return
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    time.sleep(_FULL)  # children hold none of ours: it passes
                return
            connection.setblocking(False)
            caller = Caller(connection)
            if not caller.is_our_own:
                caller.close()
                continue
            self._coming[connection.fileno()] = caller
            self._poll.register(connection, select.POLLIN)
            self._hear(caller)

    def _hear(self, caller: Caller) -> None:
        """Take what *caller* has sent; accept its request when it is whole."""
        try:
            if not caller.receive():
                return
            request = messages.decode_request(bytes(caller.data))
            if not self._is_current():
                raise EOFError
            caller.connection.send(messages.ACCEPTED)
        except (OSError, ShimError, EOFError):
            self._forget(caller)
            caller.close()
            return
        self._forget(caller)
        self._accepted.append((caller, request))

    def _forget(self, caller: Caller) -> None:
        self._poll.unregister(caller.connection)
        del self._coming[caller.connection.fileno()]

    def _is_current(self) -> bool:
        """Whether the code in memory is the code on disk; while it is being replaced, the old is what works."""
        verdict = self._identity.check()
        if verdict.is_current or not verdict.is_settled:
            return True
        self._is_over = True
        return False

    def _serve(self, caller: Caller, request: Request) -> None:
        """Answer; with a child, where one is needed, be it to serve or to do all of it."""
        self._idle_since = time.monotonic()
        data, outcome = None, None
        try:
            args = parse_args(request.words[1:])
            if args.action == "start":
                data = input_at_hand(caller.stdin, lambda: caller.connection.send(messages.COMMITTED))
            outcome = self._outcome_at_once(args, caller, data)
        except ShimError as error:
            args, outcome = ShimArgs(), Outcome(failure(self._shim, error))
        except OSError:
            caller.close()  # gone before its input was read
            return
        try:
            if outcome is None:
                self._fork(lambda: self._be_child(caller, request, args, data))
            else:
                if outcome.service is not None:
                    self._start_shim(outcome.service, caller, request)
                _send_reply(caller.connection, outcome.reply)
        except OSError as error:
            if data or outcome is not None:  # its input is read, or its group's socket was made
                self._refuse(caller, error)
            # else the end of its connection tells the caller that nobody works for it: it does so itself
        finally:
            caller.close()

    def _refuse(self, caller: Caller, error: OSError) -> None:
        try:
            _send_reply(caller.connection, fork_failure(self._shim, error))
        except OSError:
            pass  # the caller is gone

    def _outcome_at_once(self, args: ShimArgs, caller: Caller, data: bytes | None) -> Outcome | None:
        """What needs no child; None for what does, be it because no descriptor is left here. Raises: ShimError."""
        version, info = self._fixed
        if args.version or args.info:
            return Outcome(Reply(0, version if args.version else info))
        if args.action == "delete":
            try:
                response = delete_response(args.bundle, caller.directory)
            except OSError:
                return None
            return None if response is None else Outcome(Reply(0, response))
        if args.action == "start" and data is not None:
            return start_outcome(self._shim, args, caller.directory, data)
        return None

    def _start_shim(self, service: Service, caller: Caller, request: Request) -> None:
        """Fork the process that serves. Raises: OSError, with nothing left."""
        try:
            self._fork(lambda: self._be_shim(service, caller, request))
        except OSError:
            path = service.listener.getsockname()
            service.listener.close()
            remove_dead_socket(path)
            raise
        service.listener.close()

    def _fork(self, live: Callable[[], int]) -> None:
        if os.fork() == 0:
            status = 1
            try:
                status = live()
            except BaseException as error:
                log_failure(self._shim, error)
            finally:
                os._exit(status)
        self._children += 1

    def _be_child(self, caller: Caller, request: Request, args: ShimArgs, data: bytes | None) -> int:
        connection, stdin = caller.connection, caller.stdin
        _take_place_of(caller, request, {connection.fileno(), stdin})
        connection.setblocking(True)
        return _carry_out(self._shim, args, request.words[0], connection, stdin, data)

    def _be_shim(self, service: Service, caller: Caller, request: Request) -> int:
        _take_place_of(caller, request, {service.listener.fileno()})
        from ..shim.serve import serve  # which is here since `prepare`

        serve(self._shim, service)
        return 0

    def _collect(self) -> None:
        while self._children:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._children = 0
                return
            if pid == 0:
                return
            self._children -= 1
            self._idle_since = time.monotonic()

    def _look_around(self) -> None:
        for caller in [each for each in self._coming.values() if not each.left]:
            self._forget(caller)
            caller.close()
        idle = not self._children and time.monotonic() - self._idle_since > _IDLE_SECONDS
        self._is_over = self._is_over or idle or not self._stands_there()

    def _stands_there(self) -> bool:
        """Whether the socket at the path is ours: another zygote comes when this one has not answered."""
        try:
            return os.path.samestat(os.stat(self._path, follow_symlinks=False), self._own)
        except FileNotFoundError:
            return False

    def _let_go(self) -> None:
        if self._stands_there():
            os.unlink(self._path)
        self._listener.close()


def _take_place_of(caller: Caller, request: Request, keep: Collection[int]) -> None:
    """In a child: be as *caller* was: in its directory, with its environment and no descriptors but *keep*."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.fchdir(caller.directory)
    process.detach(keep)
    os.environ.update(request.environment)
    os.umask(0o022)
    process.set_command_line(shim_title(request.words))


def _carry_out(
    shim: Shim, args: ShimArgs, program: str, connection: socket.socket, stdin: int, data: bytes | None
) -> int:
    """In the child: do what was asked, reply, and after a `start` that found no shim be the shim."""

    def read_input() -> bytes:
        if data is not None:
            return data
        connection.send(messages.COMMITTED)  # what is read now nobody can read again
        with open(stdin, "rb", closefd=False) as file:
            return file.read(MAX_INPUT_BYTES + 1)

    outcome = perform(shim, args, program, read_input)
    _send_reply(connection, outcome.reply)
    if outcome.service is None:
        return outcome.reply.status
    connection.close()
    os.close(stdin)
    from ..shim.serve import serve  # which is here since `prepare`

    serve(shim, outcome.service)
    return 0


def _send_reply(connection: socket.socket, reply: Reply) -> None:
    data = messages.encode_reply(reply)
    sent = connection.send(data)
    if sent < len(data):
        connection.setblocking(True)
        connection.sendall(data[sent:])


def _listen(path: str) -> socket.socket:
    """A listener at *path*, in the place of whatever is there, from one moment to the next."""
    temporary = f"{path}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    previous = os.umask(0o177)
    try:
        listener.bind(temporary)
    finally:
        os.umask(previous)
    listener.listen(_BACKLOG)
    os.rename(temporary, path)
    return listener


def _most_callers() -> int:
    """How many callers it has room for at once, each with a connection and two descriptors; the others wait."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = limit if limit != resource.RLIM_INFINITY else 1 << 20
    return max(1, (room - len(os.listdir("/proc/self/fd")) - _SPARE) // (1 + messages.DESCRIPTORS))


def _wake_at_ends(waker: int) -> None:
    """Have something written to *waker* whenever a child ends."""
    signal.signal(signal.SIGCHLD, _note)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)


def _note(number: int, frame: object) -> None:
    """Nothing: that a child has ended is seen by the wake-up."""
    del number, frame
