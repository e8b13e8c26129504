from __future__ import annotations

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.shim.args import ShimArgs, parse_args

REQUIRED = ["-namespace", "default", "-id", "c1"]


def test_containerds_start_is_understood() -> None:
    argv = [
        *REQUIRED,
        "-address",
        "/run/containerd/containerd.sock",
        "-publish-binary",
        "/usr/bin/containerd",
        "-debug",
        "start",
    ]
    assert parse_args(argv) == ShimArgs(
        namespace="default",
        id="c1",
        address="/run/containerd/containerd.sock",
        publish_binary="/usr/bin/containerd",
        debug=True,
        action="start",
    )


def test_containerds_delete_is_understood() -> None:
    args = parse_args(["-bundle", "/run/b", *REQUIRED, "-address", "", "delete"])
    assert (args.action, args.bundle, args.address, args.debug) == ("delete", "/run/b", "", False)


@pytest.mark.parametrize("words", [["-id", "x"], ["-id=x"], ["--id", "x"], ["--id=x"]])
def test_flags_have_one_dash_or_two_and_a_value_behind_a_space_or_an_equals_sign(words: list[str]) -> None:
    assert parse_args(["-namespace", "n", *words, "serve"]).id == "x"


def test_a_value_may_look_like_a_flag_or_hold_an_equals_sign() -> None:
    args = parse_args([*REQUIRED, "-bundle", "-debug", "-socket=a=b", "start"])
    assert (args.bundle, args.socket, args.debug) == ("-debug", "a=b", False)


@pytest.mark.parametrize(
    ("word", "value"), [("-debug", True), ("-debug=true", True), ("-debug=0", False), ("--debug=F", False)]
)
def test_a_boolean_takes_its_value_only_behind_an_equals_sign(word: str, value: bool) -> None:
    args = parse_args([*REQUIRED, word, "start"])
    assert (args.debug, args.action) == (value, "start")


def test_the_last_of_two_equal_flags_counts() -> None:
    assert parse_args([*REQUIRED, "-id", "c2", "start"]).id == "c2"


def test_two_dashes_alone_end_the_flags() -> None:
    assert parse_args([*REQUIRED, "--", "start"]).action == "start"


@pytest.mark.parametrize("flag", ["-v", "--v", "-version"])
def test_version_needs_nothing_else(flag: str) -> None:
    assert parse_args([flag]) == ShimArgs(version=True)


def test_info_needs_nothing_else() -> None:
    assert parse_args(["-info"]) == ShimArgs(info=True)


def test_an_unknown_flag_is_refused_with_the_list_of_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match=r"unknown flag '-x'.*-address, -bundle, -debug, -id, -info"):
        parse_args([*REQUIRED, "-x", "start"])


@pytest.mark.parametrize("word", ["---id", "-=x", "-ID", "-i", "-identity=1"])
def test_near_misses_are_no_flags(word: str) -> None:
    with pytest.raises(InvalidArgumentError, match="unknown flag"):
        parse_args([*REQUIRED, word, "start"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*REQUIRED, "-bundle"], "flag -bundle needs a value"),
        ([*REQUIRED, "-debug=yes", "start"], "flag -debug is 'yes'"),
        ([*REQUIRED, "-debug=", "start"], "flag -debug is ''"),
        (REQUIRED, "no action is given: it must be one of start, delete, serve"),
        ([], "no action is given"),
        ([*REQUIRED, "stop"], "unknown action 'stop': the actions are start, delete, serve"),
        ([*REQUIRED, ""], "unknown action ''"),
        ([*REQUIRED, "-"], "unknown action '-'"),
        ([*REQUIRED, "start", "-debug"], "unexpected '-debug' behind the action start"),
        (["-id", "c1", "start"], "namespace .flag -namespace. is empty"),
        (["-namespace", "n", "start"], "id .flag -id. is empty"),
        (["-namespace", "a/b", "-id", "c1", "start"], "namespace .flag -namespace. 'a/b' is malformed"),
        (["-namespace", "n", "-id", "../c1", "start"], "id .flag -id. '../c1' is malformed"),
        (["-namespace", "n", "-id", "a" * 77, "start"], "has 77 characters"),
    ],
)
def test_what_is_wrong_is_named(argv: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_args(argv)
