"""What a profile may say, and what is said of one that says something else."""

from __future__ import annotations

import pytest
from containerd_shimkit import InvalidArgumentError, ShimError
from containerd_shimkit.oci.seccomp import (
    Argument,
    Listener,
    Rule,
    Seccomp,
    flags_of,
    listener_of,
    seccomp_of,
    without_listener,
)

RULE = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
ASKED = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}


def test_every_field_is_read() -> None:
    found = seccomp_of(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                RULE,
                {"names": ["a", "b"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
                {
                    "names": ["personality"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [
                        {"index": 0, "value": 2**64 - 1, "op": "SCMP_CMP_EQ"},
                        {"index": 5, "value": 15, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"},
                    ],
                },
            ],
        }
    )
    assert found == Seccomp(
        "SCMP_ACT_ERRNO",
        38,
        ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86"),
        ("SECCOMP_FILTER_FLAG_LOG",),
        (
            Rule(("read",), "SCMP_ACT_ALLOW", 1),
            Rule(("a", "b"), "SCMP_ACT_TRACE", 7),
            Rule(
                ("personality",),
                "SCMP_ACT_ERRNO",
                1,
                (Argument(0, 2**64 - 1, 0, "SCMP_CMP_EQ"), Argument(5, 15, 3, "SCMP_CMP_MASKED_EQ")),
            ),
        ),
    )


def test_what_is_absent_has_its_default() -> None:
    assert seccomp_of({"defaultAction": "SCMP_ACT_ALLOW"}) == Seccomp("SCMP_ACT_ALLOW", 1)
    assert flags_of({}) is None
    assert flags_of({"flags": []}) == ()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"defaultAction": ""}, InvalidArgumentError, "linux.seccomp.defaultAction is ''; it must"),
        ({"defaultAction": "ALLOW"}, InvalidArgumentError, "linux.seccomp.defaultAction is 'ALLOW'; it must be one of"),
        (
            {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/run/agent"},
            InvalidArgumentError,
            "defaultAction is 'SCMP_ACT_NOTIFY'; it must be another action",
        ),
        ({"listenerMetadata": "x"}, InvalidArgumentError, "listenerMetadata is 'x'; it must be absent"),
        (
            {"syscalls": [RULE, ASKED]},
            InvalidArgumentError,
            r"listenerPath is absent; it must be the path of a socket, as syscalls\[1\].action is SCMP_ACT_NOTIFY",
        ),
        (
            {"syscalls": [{**ASKED, "names": ["mkdir", "write"]}], "listenerPath": "/run/agent"},
            InvalidArgumentError,
            r"syscalls\[0\].names has 'write', and its action is SCMP_ACT_NOTIFY",
        ),
        (
            {"syscalls": [{**ASKED, "names": ["read"]}], "listenerPath": "/run/agent"},
            InvalidArgumentError,
            r"syscalls\[0\].names has 'read'",
        ),
        ({"defaultErrnoRet": 2}, InvalidArgumentError, "defaultErrnoRet is 2; it must be absent"),
        (
            {"architectures": ["x86"]},
            InvalidArgumentError,
            r"architectures is \['x86'\]; it must be made of SCMP_ARCH_",
        ),
        (
            {"flags": ["NEW_LISTENER"]},
            InvalidArgumentError,
            r"flags is \['NEW_LISTENER'\]; it must be made of SECCOMP_",
        ),
        ({"flags": [1]}, InvalidArgumentError, r"flags\[0\] is 1"),
        ({"syscalls": [{**RULE, "names": []}]}, InvalidArgumentError, r"syscalls\[0\].names is \[\]"),
        ({"syscalls": [RULE, {**RULE, "action": "x"}]}, InvalidArgumentError, r"syscalls\[1\].action is 'x'"),
        ({"syscalls": [{**RULE, "errnoRet": 1}]}, InvalidArgumentError, "errnoRet is 1; it must be absent"),
        (
            {"syscalls": [{**RULE, "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}]},
            InvalidArgumentError,
            "errnoRet is 4096; it must be an error number, at most 4095",
        ),
        (
            {"syscalls": [{**RULE, "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]},
            InvalidArgumentError,
            r"args\[0\].index is 6",
        ),
        (
            {"syscalls": [{**RULE, "args": [{"index": 0, "value": 0, "op": "EQ"}]}]},
            InvalidArgumentError,
            r"args\[0\].op is 'EQ'; it must be one of SCMP_CMP_NE",
        ),
    ],
)
def test_what_a_profile_cannot_say_is_named(change: dict[str, object], kind: type[ShimError], words: str) -> None:
    with pytest.raises(kind, match=words):
        seccomp_of({"defaultAction": "SCMP_ACT_ALLOW", **change})


def test_a_profile_has_a_listener_when_it_has_something_to_ask() -> None:
    asking = {"syscalls": [RULE, ASKED], "listenerPath": "/run/agent", "listenerMetadata": "as it is"}
    assert listener_of(asking) == Listener("/run/agent", "as it is")
    assert listener_of({**asking, "listenerMetadata": ""}) == Listener("/run/agent", "")
    assert listener_of({**asking, "syscalls": [RULE]}) is None
    assert listener_of({"syscalls": [ASKED]}) is None, "which is refused when it is compiled"


@pytest.mark.parametrize("path", ["agent", "/a\0b", "/" + "x" * 107, 7])
def test_a_listener_has_a_path_that_a_socket_can_have(path: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux\.seccomp\.listenerPath is "):
        listener_of({"syscalls": [ASKED], "listenerPath": path})


def test_who_listens_does_not_count_for_the_filter() -> None:
    first, second = (
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [ASKED], "listenerPath": f"/{name}", "listenerMetadata": name}
        for name in ("a", "b")
    )
    assert without_listener(first) == without_listener(second)
    assert seccomp_of(without_listener(first)) == seccomp_of(first)
    alone = {"syscalls": [ASKED], "listenerMetadata": "x"}
    assert without_listener(alone) is alone
