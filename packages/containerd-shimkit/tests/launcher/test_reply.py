"""The launcher's parser of replies, under sanitizers, against what Python makes of the same bytes."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from containerd_shimkit.errors import UnavailableError
from containerd_shimkit.launcher.build import DIRECTORY
from containerd_shimkit.zygote.messages import HEADER_SIZE, MAX_BODY, Reply, decode_reply, encode_reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

UNFINISHED, WHOLE, BAD = 0, 1, 2
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra", "-Werror")


class Driver:
    """The parser in a process of its own; it dies of the first thing that a sanitizer finds."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def judge(self, answers: list[bytes]) -> list[tuple[int, ...]]:
        assert self._process.stdin
        assert self._process.stdout
        verdicts: list[tuple[int, ...]] = []
        for answer in answers:
            self._process.stdin.write(struct.pack("=I", len(answer)) + answer)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            assert line, f"the parser ended at {answer[:64]!r}, {len(answer)} bytes: see stderr"
            verdicts.append(tuple(map(int, line.split())))
        return verdicts

    def close(self) -> None:
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def driver(compiler: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    program = tmp_path_factory.mktemp("driver") / "reply_driver"
    sources = [str(Path(__file__).parent / "reply_driver.c"), f"{DIRECTORY}/reply.c"]
    command = [*compiler, *SANITIZE, f"-I{DIRECTORY}", "-o", str(program), *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and ("asan" in done.stderr or "ubsan" in done.stderr):
        pytest.skip(f"a compiler without sanitizers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    made = Driver(program)
    yield made
    made.close()


def expected(answer: bytes) -> tuple[int, ...]:
    """What the parser ought to say of all that has come so far."""
    committed = answer[:1] == b"C"
    body = answer[committed:]
    try:
        reply = decode_reply(answer)
    except UnavailableError:
        reply = None
    if reply is not None:
        return (WHOLE, committed, *numbers(reply))
    return (UNFINISHED if can_still_be_a_reply(body) else BAD, committed, 0, 0, 0, 0)


def numbers(reply: Reply) -> tuple[int, ...]:
    return reply.status, len(reply.stdout), len(reply.stderr), sum(reply.stdout) + 3 * sum(reply.stderr)


def can_still_be_a_reply(body: bytes) -> bool:
    if len(body) < HEADER_SIZE:
        return b"SKR1".startswith(body[:4])
    magic, status, out, err = struct.unpack_from("<4s3I", body)
    return bool(magic == b"SKR1") and status <= 255 and out + err <= MAX_BODY and len(body) < HEADER_SIZE + out + err


outputs = st.one_of(st.binary(max_size=40), st.integers(0, 3000).map(bytes))
replies = st.builds(Reply, st.integers(0, 255), outputs, outputs).map(encode_reply)
lengths = st.one_of(
    st.integers(0, 64),
    st.sampled_from(
        [MAX_BODY - 1, MAX_BODY, MAX_BODY + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - MAX_BODY, (1 << 32) - 1]
    ),
)
headers = st.builds(
    lambda *fields: struct.pack("<4s3I", *fields),
    st.sampled_from([b"SKR1", b"SKR2", b"CSKR"]),
    lengths,
    lengths,
    lengths,
)
endings = st.binary(max_size=80)
answers = st.builds(
    lambda prefix, body, cut, ending: (prefix + body)[: len(prefix + body) - cut] + ending,
    st.sampled_from([b"", b"", b"C", b"CC", b"A"]),
    st.one_of(replies, headers, st.binary(max_size=60)),
    st.one_of(st.just(0), st.integers(0, 40)),
    st.one_of(st.just(b""), endings),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(answers, max_size=50))
def test_any_answer_is_judged_as_python_judges_it(driver: Driver, batch: list[bytes]) -> None:
    assert driver.judge(batch) == [expected(answer) for answer in batch]


def test_mutated_replies_are_judged_as_python_judges_them(driver: Driver) -> None:
    source = random.Random(4)
    batch = [mutated(source) for _ in range(10_000)]
    verdicts = driver.judge(batch)
    assert verdicts == [expected(answer) for answer in batch]
    assert {verdict[0] for verdict in verdicts} == {UNFINISHED, WHOLE, BAD}


def mutated(source: random.Random) -> bytes:
    reply = Reply(source.randrange(256), source.randbytes(source.randrange(30)), source.randbytes(source.randrange(30)))
    data = bytearray(source.choice([b"", b"C"]) + encode_reply(reply))
    for _ in range(source.choice([0, 1, 1, 2, 5])):
        place = source.randrange(len(data))
        match source.randrange(4):
            case 0:
                data[place] ^= 1 << source.randrange(8)
            case 1:
                data[place] = source.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del data[place : place + source.randrange(1, 9)]
            case _:
                data[place:place] = source.randbytes(source.randrange(1, 9))
        data = data or bytearray(b"C")
    return bytes(data)


def test_every_beginning_of_a_reply_is_unfinished(driver: Driver) -> None:
    whole = b"C" + encode_reply(Reply(9, b"out", b"err"))
    verdicts = driver.judge([whole[:length] for length in range(len(whole) + 1)])
    assert [verdict[0] for verdict in verdicts] == [UNFINISHED] * len(whole) + [WHOLE]


def test_the_largest_reply_is_whole_and_a_larger_one_bad(driver: Driver) -> None:
    largest = encode_reply(Reply(0, bytes(MAX_BODY - 5), b"\1" * 5))
    larger = struct.pack("<4s3I", b"SKR1", 0, MAX_BODY, 1) + bytes(MAX_BODY + 1)
    assert driver.judge([largest, larger]) == [(WHOLE, 0, 0, MAX_BODY - 5, 5, 15), (BAD, 0, 0, 0, 0, 0)]
