from __future__ import annotations

import struct

import pytest
from containerd_shimkit import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from containerd_shimkit.zygote import messages
from containerd_shimkit.zygote.messages import (
    COMMITTED,
    HEADER_SIZE,
    MAX_BODY,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    request_size,
)
from hypothesis import given
from hypothesis import strategies as st

texts = st.text(st.characters(blacklist_characters="\0=", blacklist_categories=["Cs"]), max_size=20)
names = texts.filter(bool)


@given(words=st.lists(texts, min_size=1, max_size=8), environment=st.dictionaries(names, texts, max_size=8))
def test_a_request_is_decoded_as_it_was_encoded(words: list[str], environment: dict[str, str]) -> None:
    data = encode_request(words, environment)
    assert request_size(data[:HEADER_SIZE]) == len(data)
    assert decode_request(data) == Request(tuple(words), environment)


def test_bytes_that_are_no_text_survive() -> None:
    words, environment = ["a\udcff"], {"B": "\udc80"}
    assert decode_request(encode_request(words, environment)) == Request(tuple(words), environment)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_decoder_fail_otherwise_than_by_its_errors(data: bytes) -> None:
    for content in (data, b"SKZ1" + data, struct.pack("<4s3I", b"SKZ1", len(data), 1, 1) + data):
        try:
            decode_request(content)
        except (InvalidArgumentError, ResourceExhaustedError):
            pass
    for content in (data, b"SKR1" + data, struct.pack("<4s3I", b"SKR1", 0, len(data), 0) + data):
        reply = decode_reply(content) if not content.startswith(COMMITTED) else None
        assert reply is None or encode_reply(reply) == content


@pytest.mark.parametrize(
    ("words", "environment", "what"),
    [
        (["a" * MAX_BODY], {}, "bytes"),
        (["a"] * (messages.MAX_WORDS + 1), {}, "words"),
        (["a"], {str(n): "" for n in range(messages.MAX_VARIABLES + 1)}, "environment variables"),
    ],
)
def test_what_is_beyond_a_bound_is_named(words: list[str], environment: dict[str, str], what: str) -> None:
    with pytest.raises(ResourceExhaustedError, match=what):
        encode_request(words, environment)


def test_a_nul_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="NUL"):
        encode_request(["a\0b"], {})


def test_of_two_variables_of_one_name_the_first_counts_and_what_is_none_is_left_out() -> None:
    body = b"word\0A=1\0A=2\0nothing\0=x\0"
    data = struct.pack("<4s3I", b"SKZ1", len(body), 1, 4) + body
    assert decode_request(data) == Request(("word",), {"A": "1"})


@pytest.mark.parametrize("reply", [Reply(0), Reply(255, b"out", b"err"), Reply(1, b"", b"why\n")])
def test_a_reply_is_decoded_as_it_was_encoded_and_only_whole(reply: Reply) -> None:
    data = encode_reply(reply)
    assert decode_reply(data) == decode_reply(COMMITTED + data) == reply
    for cut in range(len(data)):
        assert decode_reply(data[:cut]) is None
    assert decode_reply(data + b"x") is None


def test_a_reply_that_breaks_off_after_input_was_read_cannot_be_made_good() -> None:
    with pytest.raises(UnavailableError, match="try again"):
        decode_reply(COMMITTED + encode_reply(Reply(0, b"out"))[:-1])


def test_a_reply_that_is_too_long_is_cut_at_the_end_of_stderr_first() -> None:
    found = decode_reply(encode_reply(Reply(1, b"o" * 10, b"e" * MAX_BODY)))
    assert found == Reply(1, b"o" * 10, b"e" * (MAX_BODY - 10))
