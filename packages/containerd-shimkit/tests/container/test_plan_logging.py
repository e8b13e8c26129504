from __future__ import annotations

import pytest
from containerd_shimkit import InvalidArgumentError
from containerd_shimkit.container.plan_logging import LogCommand, plan_logging


def test_a_logging_program_is_named_by_the_uri_of_both_streams() -> None:
    uri = "binary:///usr/bin/a%20b?id=1&empty=&flag&two=x+y&id=2"
    arguments = ("id", "1", "empty", "", "flag", "", "two", "x y")
    assert plan_logging(uri, uri) == LogCommand(uri, "/usr/bin/a b", arguments, must_say_ready=False)
    assert plan_logging("binary-v2:///x", "") == LogCommand("binary-v2:///x", "/x", (), must_say_ready=True)
    assert plan_logging("binary:///x", "/a/fifo", terminal=True) is not None


def test_other_streams_have_none() -> None:
    assert plan_logging("", "") is None
    assert plan_logging("/a/path", "file:///another") is None
    assert plan_logging("", "binary:///x", terminal=True) is None


@pytest.mark.parametrize(
    ("stdout", "stderr", "words"),
    [
        ("binary:///x", "/a/path", "but stderr to '/a/path'; it must go there as well"),
        ("binary:///x", "binary:///y", "but stderr to 'binary:///y'"),
        ("/a/path", "binary:///x", "stderr 'binary:///x' is a logging program's; it must be that of stdout"),
        ("binary://x", "", r"has no absolute path; it must be binary:///PATH"),
        ("binary://host/x", "", r"has no absolute path"),
        ("binary-v2://", "", r"it must be binary-v2:///PATH"),
        ("binary:///x%00", "", r"has no absolute path"),
        ("binary:///x?a=%00", "", r"has a NUL in an argument"),
        ("binary:///x?a=%ff", "", r"cannot be read"),
        ("binary:///x?" + "&" * 300, "", r"cannot be read"),
        ("binary://[/x", "", r"cannot be read"),
    ],
)
def test_what_is_no_programs_uri_is_refused_by_the_streams_name(stdout: str, stderr: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        plan_logging(stdout, stderr)
