"""What a profile may say, and what is said of one that says something else."""

from __future__ import annotations

import pytest
from containerd_shimkit import InvalidArgumentError, ShimError, UnimplementedError
from containerd_shimkit.oci.seccomp import Argument, Rule, Seccomp, flags_of, seccomp_of

RULE = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}


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
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, UnimplementedError, "defaultAction is SCMP_ACT_NOTIFY"),
        ({"listenerPath": "/run/agent.sock"}, UnimplementedError, "linux.seccomp.listenerPath"),
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
        ({"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}, UnimplementedError, "WAIT_KILLABLE_RECV"),
        ({"flags": [1]}, InvalidArgumentError, r"flags\[0\] is 1"),
        ({"syscalls": [{**RULE, "names": []}]}, InvalidArgumentError, r"syscalls\[0\].names is \[\]"),
        ({"syscalls": [RULE, {**RULE, "action": "x"}]}, InvalidArgumentError, r"syscalls\[1\].action is 'x'"),
        ({"syscalls": [{**RULE, "action": "SCMP_ACT_NOTIFY"}]}, UnimplementedError, "SCMP_ACT_NOTIFY"),
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
