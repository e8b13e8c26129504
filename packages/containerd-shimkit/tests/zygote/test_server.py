"""The zygote's side, against callers that are not as they should be, and against a world that is not."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from containerd_shimkit.zygote.messages import ACCEPTED, MAX_BODY, decode_reply, encode_request

from .conftest import LivingZygote, Start, header, read_to_end, send

REQUEST = encode_request(["shim", "-v"], {})
PATIENCE = 2.0  # caller._REQUEST_SECONDS
REHEARSED = "server._QUIET = 0.05"


def wait_until(condition: Callable[[], object], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"nothing of it within {timeout:g} s"
        time.sleep(0.01)


def serves(zygote: LivingZygote) -> bool:
    """Whether the zygote answers `-v` as it should."""
    answer = zygote.ask("-v")
    reply = decode_reply(answer[1:])
    return answer.startswith(ACCEPTED) and reply is not None and b"Version: 7\n" in reply.stdout


def keeps_nothing(zygote: LivingZygote, before: int) -> None:
    """Fail unless it has as many descriptors as before, and serves."""
    assert serves(zygote)
    wait_until(lambda: zygote.descriptors() == before, timeout=1)


# Callers that are not as they should be.


@pytest.mark.parametrize("length", [0, 1, 15, 16, len(REQUEST) - 1])
def test_who_sends_half_a_request_is_let_go_and_keeps_nobody_waiting(living_zygote: LivingZygote, length: int) -> None:
    before = living_zygote.descriptors()
    with living_zygote.connect() as connection:
        began = time.monotonic()
        if length:
            send(connection, REQUEST[:length])
        assert serves(living_zygote), "others are served meanwhile"
        assert time.monotonic() - began < 1
        assert read_to_end(connection) == b""
        assert PATIENCE - 0.1 < time.monotonic() - began < PATIENCE + 1
    keeps_nothing(living_zygote, before)


def test_who_sends_a_byte_now_and_then_is_let_go_as_well(living_zygote: LivingZygote) -> None:
    with living_zygote.connect() as connection:
        began = time.monotonic()
        send(connection, REQUEST[:1])
        with pytest.raises(BrokenPipeError):
            for number in range(1, len(REQUEST)):
                connection.send(REQUEST[number : number + 1])
                time.sleep(0.2)
        assert PATIENCE - 0.1 < time.monotonic() - began < PATIENCE + 1


def test_who_goes_in_the_middle_of_a_request_leaves_nothing(living_zygote: LivingZygote) -> None:
    before = living_zygote.descriptors()
    for length in (0, 1, 15, 16, 17, len(REQUEST) - 1):
        with living_zygote.connect() as connection:
            if length:
                send(connection, REQUEST[:length])
    for _ in range(50):  # it has gone before it is accepted, with its request whole
        with living_zygote.connect() as connection:
            send(connection, REQUEST)
    keeps_nothing(living_zygote, before)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: zygote\r\n\r\n", id="another protocol"),
        pytest.param(os.urandom(4096), id="noise"),
        pytest.param(b"SKZ2" + REQUEST[4:], id="another version"),
        pytest.param(header(b"SKZ1", MAX_BODY + 1, 1, 0), id="too long"),
        pytest.param(header(b"SKZ1", 0xFFFFFFFF, 1, 0), id="as long as can be"),
        pytest.param(header(b"SKZ1", 8, 65, 0), id="too many words"),
        pytest.param(header(b"SKZ1", 8, 1, 0xFFFFFFFF), id="too many variables"),
        pytest.param(header(b"SKZ1", 0, 0, 0), id="no words"),
        pytest.param(header(b"SKZ1", 4, 2, 0) + b"abc\0", id="fewer words than it says"),
        pytest.param(header(b"SKZ1", 4, 1, 0) + b"a\0b\0", id="more words than it says"),
        pytest.param(header(b"SKZ1", 3, 1, 0) + b"abc", id="no end"),
        pytest.param(REQUEST + b"x", id="more than a request"),
    ],
)
def test_what_is_no_request_is_refused_at_once(living_zygote: LivingZygote, data: bytes) -> None:
    before = living_zygote.descriptors()
    with living_zygote.connect() as connection:
        began = time.monotonic()
        send(connection, data)
        assert read_to_end(connection) == b""
        assert time.monotonic() - began < 1
    keeps_nothing(living_zygote, before)


@pytest.mark.parametrize("words", [["start"], ["-id", "../x", "start"], ["nonsense"], ["-id"], ["\udcff" * 1000]])
def test_a_command_that_means_nothing_is_answered_with_why(living_zygote: LivingZygote, words: list[str]) -> None:
    answer = living_zygote.ask(*words)
    assert answer.startswith(ACCEPTED)
    reply = decode_reply(answer[1:])
    assert reply is not None
    assert (reply.status, reply.stdout) == (1, b"")
    assert reply.stderr.startswith(b"containerd-shim-faulty-v1: ")
    assert serves(living_zygote)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 250])
def test_a_request_with_more_or_fewer_descriptors_than_two_is_refused(living_zygote: LivingZygote, count: int) -> None:
    before = living_zygote.descriptors()
    with open("/dev/null", "rb") as null:
        assert living_zygote.ask("-v", descriptors=[null.fileno()] * count) == b""
    keeps_nothing(living_zygote, before)


def test_descriptors_that_come_again_and_again_are_not_collected(living_zygote: LivingZygote) -> None:
    before = living_zygote.descriptors()
    with living_zygote.connect() as connection:
        with pytest.raises(BrokenPipeError):
            for number in range(len(REQUEST) - 1):
                send(connection, REQUEST[number : number + 1])
                time.sleep(0.02)
                assert living_zygote.descriptors() <= before + 5
        assert read_to_end(connection) == b""
    assert living_zygote.descriptors() == before


def test_descriptors_of_another_kind_harm_nobody(living_zygote: LivingZygote) -> None:
    before = living_zygote.descriptors()
    words = ["-namespace", "ns", "-id", "c1"]
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null", "rb") as null, open("/proc/self/status", "rb") as file:
        theirs.close()
        for directory in (null, file, ours):
            for action in ("start", "delete"):
                answer = living_zygote.ask(*words, action, descriptors=[directory.fileno(), null.fileno()])
                assert answer == ACCEPTED, "nobody has done it, so its caller does it itself"
    keeps_nothing(living_zygote, before)


def connect_as(path: str, uid: int, gid: int) -> str:
    """In a forked child, as another user: what the zygote makes of a request; "refused" when it does not hear it."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            os.close(ours)
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5)
                connection.connect(path)
                try:
                    send(connection, REQUEST)
                except BrokenPipeError:
                    pass
                os.write(theirs, b"answered" if read_to_end(connection) else b"refused")
        except BaseException as error:
            os.write(theirs, repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as pipe:
        said = pipe.read()
    os.wait()
    return said


@pytest.mark.root
def test_another_user_or_group_is_not_heard(living_zygote: LivingZygote) -> None:
    if os.geteuid():
        pytest.skip(f"becoming another user needs root, this is uid {os.geteuid()}")
    assert "PermissionError" in connect_as(living_zygote.path, 65534, 65534)
    os.chmod(os.path.dirname(living_zygote.path), 0o711)  # as if somebody had opened the way to it
    os.chmod(living_zygote.path, 0o666)
    before = living_zygote.descriptors()
    assert connect_as(living_zygote.path, 65534, 65534) == "refused"
    assert connect_as(living_zygote.path, 65534, 0) == "refused"
    assert connect_as(living_zygote.path, 0, 65534) == "refused"
    assert connect_as(living_zygote.path, 0, 0) == "answered"
    keeps_nothing(living_zygote, before)


# A world that is not as it should be.


def test_an_idle_zygote_ends_and_takes_its_socket_away(start_zygote: Start) -> None:
    zygote = start_zygote("server._IDLE_SECONDS, server._TICK, server._QUIET = 1.0, 0.1, 0.1")
    for _ in range(4):
        time.sleep(0.5)
        assert serves(zygote), "every request begins the time anew"
    began = time.monotonic()
    assert zygote.process.wait(5) == 0
    assert time.monotonic() - began > 0.8
    assert not os.path.lexists(zygote.path)


def test_a_caller_that_sends_nothing_does_not_keep_an_idle_zygote(start_zygote: Start) -> None:
    zygote = start_zygote("server._IDLE_SECONDS, server._TICK, server._QUIET = 1.0, 0.1, 0.1")
    with zygote.connect() as connection:
        assert zygote.process.wait(5) == 0
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("replacement", ["another's socket", "nothing"])
def test_a_zygote_whose_socket_is_not_its_own_any_more_ends_and_leaves_what_is_there(
    start_zygote: Start, replacement: str
) -> None:
    zygote = start_zygote("server._TICK = server._QUIET = 0.2")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        if replacement == "nothing":
            os.unlink(zygote.path)
        else:
            other.bind(f"{zygote.path}.new")
            other.listen()
            os.rename(f"{zygote.path}.new", zygote.path)
        assert zygote.process.wait(5) == 0
        assert os.path.lexists(zygote.path) == (replacement != "nothing")


def test_a_zygote_that_was_stopped_drops_who_has_gone_meanwhile(living_zygote: LivingZygote) -> None:
    before = living_zygote.descriptors()
    os.kill(living_zygote.pid, signal.SIGSTOP)
    gone = [living_zygote.connect() for _ in range(100)]
    for connection in gone:
        send(connection, encode_request(["shim", "-namespace", "ns", "-id", "c1", "delete"], {}))
        connection.close()
    os.kill(living_zygote.pid, signal.SIGCONT)
    keeps_nothing(living_zygote, before)
    assert children_of(living_zygote.pid) == [], "nobody has asked for it any more"


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_delete_is_done_for_a_shim_that_makes_no_containers_of_ours(living_zygote: LivingZygote) -> None:
    reply = decode_reply(living_zygote.ask("-namespace", "ns", "-id", "c1", "delete")[1:])
    assert reply is not None
    assert (reply.status, reply.stderr) == (0, b"")


def test_a_child_that_has_ended_is_collected_at_once_though_nobody_asks(start_zygote: Start) -> None:
    zygote = start_zygote(REHEARSED)
    time.sleep(0.5)  # from now on it looks around once a minute, if nothing makes it
    answer = zygote.ask("-namespace", "ns", "-id", "c1", "delete")
    assert answer.startswith(ACCEPTED)
    wait_until(lambda: children_of(zygote.pid) == [], timeout=2)


def test_a_zygote_that_cannot_rehearse_serves_all_the_same(start_zygote: Start) -> None:
    zygote = start_zygote("")
    _, hard = resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (zygote.descriptors(), hard))
    time.sleep(1)
    assert zygote.is_alive
    resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert serves(zygote)
    zygote.ask("-namespace", "ns", "-id", "c1", "delete")
    wait_until(lambda: children_of(zygote.pid) == [], timeout=2)


# few descriptors; and it is not in its caller's context then, on purpose
LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 100))
server.socket_path = lambda *_: sys.argv[sys.argv.index("-socket") + 1]
server._QUIET = 60.0
"""


def test_callers_beyond_the_limit_of_descriptors_wait_and_are_served(start_zygote: Start) -> None:
    zygote = start_zygote(LIMITED)
    before = zygote.descriptors()
    waiting = [zygote.connect() for _ in range(200)]
    for connection in waiting:
        send(connection, REQUEST)
    answers = [read_to_end(connection) for connection in waiting]
    for connection in waiting:
        connection.close()
    assert [answer[:1] for answer in answers] == [ACCEPTED] * 200
    keeps_nothing(zygote, before)


def test_callers_that_take_all_the_room_are_let_go_and_the_next_is_served(start_zygote: Start) -> None:
    zygote = start_zygote(LIMITED)
    before = zygote.descriptors()
    slow = [zygote.connect() for _ in range(40)]
    for connection in slow:
        send(connection, REQUEST[:-1])
    began = time.monotonic()
    assert serves(zygote)
    assert time.monotonic() - began < 2 * PATIENCE + 1, "two turns of those who say nothing"
    for connection in slow:
        connection.close()
    keeps_nothing(zygote, before)


def test_a_zygote_whose_limit_of_descriptors_is_lowered_leaves_what_it_cannot_take(living_zygote: LivingZygote) -> None:
    before = living_zygote.descriptors()
    _, hard = resource.prlimit(living_zygote.pid, resource.RLIMIT_NOFILE)
    for room in range(4):
        resource.prlimit(living_zygote.pid, resource.RLIMIT_NOFILE, (before + room, hard))
        with living_zygote.connect() as connection:
            send(connection, REQUEST)
            connection.settimeout(0.3)
            try:
                assert connection.recv(1 << 16)[:1] == (ACCEPTED if room > 2 else b"")
            except TimeoutError:
                assert room == 0
    assert living_zygote.is_alive
    resource.prlimit(living_zygote.pid, resource.RLIMIT_NOFILE, (hard, hard))
    keeps_nothing(living_zygote, before)


def test_an_action_is_the_same_when_its_child_has_to_do_it_for_want_of_descriptors(
    living_zygote: LivingZygote, tmp_path: Path
) -> None:
    before = living_zygote.descriptors()
    _, hard = resource.prlimit(living_zygote.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(living_zygote.pid, resource.RLIMIT_NOFILE, (before + 3, hard))
    bundle = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with open("/dev/null", "rb") as null:
        answers = [
            decode_reply(
                living_zygote.ask("-namespace", "ns", "-id", "c1", action, descriptors=[bundle, null.fileno()])[1:]
            )
            for action in ("start", "delete")
        ]
    os.close(bundle)
    start, delete = answers
    assert start is not None
    assert (start.status, start.stdout) == (1, b"")
    assert f"{tmp_path}/config.json does not exist; `start`".encode() in start.stderr
    assert delete is not None
    assert (delete.status, delete.stderr) == (0, b"")
    assert delete.stdout != b"", "a DeleteResponse, though there was nothing to delete"
