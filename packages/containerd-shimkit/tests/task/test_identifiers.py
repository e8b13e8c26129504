from __future__ import annotations

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.task.identifiers import MAX_IDENTIFIER_LENGTH, check_identifier, shorten


@pytest.mark.parametrize("value", ["a", "0", "c1", "a.b-c_d", "k8s.io", "A" * MAX_IDENTIFIER_LENGTH])
def test_identifiers_pass(value: str) -> None:
    assert check_identifier(value, "task id") == value


@pytest.mark.parametrize(
    "value", [".", "..", "a/b", "../a", "-a", "a-", "a..b", "a_-b", "a b", "a\n", "é", "a\0", "A" * 77]
)
def test_what_is_no_identifier_is_refused_by_name_and_value(value: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_identifier(value, "task id")
    assert "task id" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_an_empty_identifier_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="the task id is empty"):
        check_identifier("", "task id")


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_identifier("x" * 1_000_000, "namespace")
    assert len(str(caught.value)) < 400
    assert shorten("x" * 121).endswith("...")
    assert shorten("x" * 120) == repr("x" * 120)
