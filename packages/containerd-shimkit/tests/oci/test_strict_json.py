from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.oci.strict_json import MAX_SIZE, UINT32, JsonObject, decode_object
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "valid JSON"),
        (b"{", "valid JSON"),
        (b"\xff{}", "utf-8"),
        ("\ufeff{}", "valid JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' stands twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "valid JSON"),
        (b"[]", "it must be a JSON object"),
        (b"null", "it must be a JSON object"),
        (b" " * (MAX_SIZE + 1), f"has {MAX_SIZE + 1} bytes"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_json_object_is_refused_by_name(data: bytes | str, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^thing\.json ") as caught:
        decode_object(data, "thing.json")
    assert says in str(caught.value)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_an_object_comes_back_as_it_was(values: dict[str, object]) -> None:
    assert decode_object(json.dumps(values), "x").values == values


@given(st.binary() | st.text())
def test_garbage_is_an_object_or_an_error(data: bytes | str) -> None:
    try:
        assert isinstance(decode_object(data, "x"), JsonObject)
    except InvalidArgumentError:
        pass


@pytest.mark.parametrize(
    ("value", "read", "place"),
    [
        (1, lambda o: o.text("k"), "a.k is 1; it must be a string"),
        ("x\0y", lambda o: o.text("k"), "a.k is 'x\\x00y'"),
        ("\ud800", lambda o: o.text("k"), "a.k is '\\ud800'"),
        ("", lambda o: o.required_text("k"), "a.k is ''; it must be a string that is not empty"),
        (None, lambda o: o.required_text("k"), "a.k is absent"),
        (["x", None], lambda o: o.texts("k"), "a.k[1] is absent"),
        ("x", lambda o: o.texts("k"), "a.k is 'x'; it must be an array"),
        ({"x": 1}, lambda o: o.text_mapping("k"), "a.k['x'] is 1"),
        ({"\ud800": ""}, lambda o: o.text_mapping("k"), "a.k (a key of it) is '\\ud800'"),
        ("true", lambda o: o.flag("k"), "a.k is 'true'; it must be true or false"),
        (0, lambda o: o.optional_flag("k"), "a.k is 0; it must be true or false"),
        (True, lambda o: o.integer("k", UINT32), "a.k is True; it must be an integer from 0 to 4294967295"),
        (1.0, lambda o: o.integer("k", UINT32), "a.k is 1.0; it must be an integer"),
        (1 << 32, lambda o: o.integer("k", UINT32), "a.k is 4294967296; it must be an integer"),
        (None, lambda o: o.required_integer("k", UINT32), "a.k is absent; it must be an integer"),
        ([1, -1], lambda o: o.integers("k", UINT32), "a.k[1] is -1; it must be an integer"),
        ([], lambda o: o.child("k"), "a.k is []; it must be an object"),
        ([{}, 1], lambda o: o.children("k"), "a.k[1] is 1; it must be an object"),
        ({}, lambda o: o.raw_array("k"), "a.k is {}; it must be an array"),
        ("x" * 1000, lambda o: o.raw_object("k"), "...xxx"),
    ],
)
def test_an_error_names_the_field_its_value_and_what_it_must_be(
    value: object, read: Callable[[JsonObject], object], place: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        read(JsonObject({"k": value}, "f", "a"))
    assert str(caught.value).startswith("f: ")
    assert place in str(caught.value)
    assert len(str(caught.value)) < 250


def test_what_is_absent_or_null_has_its_default() -> None:
    for found in (JsonObject({}, "f", ""), JsonObject({"k": None}, "f", "")):
        assert (found.text("k", "d"), found.texts("k"), found.text_mapping("k")) == ("d", (), {})
        assert (found.flag("k"), found.optional_flag("k")) == (False, None)
        assert (found.integer("k", UINT32, 3), found.optional_integer("k", UINT32)) == (3, None)
        assert (found.integers("k", UINT32), found.child("k"), found.children("k")) == ((), None, [])
        assert (found.raw_object("k"), found.raw_array("k")) == (None, None)


def test_a_key_that_stands_twice_among_very_many_is_found_at_once() -> None:
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    with pytest.raises(InvalidArgumentError, match="'last' stands twice"):
        decode_object(f'{{{keys},"last":0,"last":0}}', "f")
