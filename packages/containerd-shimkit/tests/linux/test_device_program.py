from __future__ import annotations

import struct

import pytest
from containerd_shimkit.errors import InvalidArgumentError
from containerd_shimkit.linux.device_program import ACCESS, TYPES, compile_rules
from containerd_shimkit.oci.resources import DeviceRule
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.sampled_from([0, 1, 3, 5, 0xFFFFFFFF])


def run(program: bytes, kind: str, access: str, major: int, minor: int) -> int:
    """Do what the kernel does with a program; a machine of its own, which shares nothing with the assembler."""
    context = struct.pack("=III", sum(ACCESS[each] for each in access) << 16 | TYPES[kind], major, minor)
    code = list(struct.iter_unpack("=BBhI", program))
    registers = [0] * 10
    place = 0
    for _ in range(len(code)):
        opcode, pair, offset, immediate = code[place]
        target, source = pair & 15, pair >> 4
        place += 1
        low = registers[target] & 0xFFFFFFFF
        match opcode:
            case 0xB7:
                registers[target] = immediate
            case 0xBF:
                registers[target] = registers[source]
            case 0x61:
                assert source == 1, "only the context is readable"
                (registers[target],) = struct.unpack_from("=I", context, offset)
            case 0x74:
                registers[target] = low >> immediate
            case 0x54:
                registers[target] = low & immediate
            case 0x05:
                place += offset
            case 0x16 | 0x56 | 0x46:
                jumps = {0x16: low == immediate, 0x56: low != immediate, 0x46: bool(low & immediate)}
                place += offset if jumps[opcode] else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"unknown instruction {opcode:#x}")
    raise AssertionError("the program does not end")


def is_allowed(rules: tuple[DeviceRule, ...], kind: str, access: str, major: int, minor: int) -> bool:
    """What the rules mean: for each kind of access, the last one that names the device and it."""

    def decision(letter: str) -> bool:
        for rule in reversed(rules):
            if (
                rule.type in ("", "a", kind)
                and rule.major in (None, major)
                and rule.minor in (None, minor)
                and letter in (rule.access or "rwm")
            ):
                return rule.allow
        return False

    return all(map(decision, access))


RULES = st.builds(
    DeviceRule,
    st.booleans(),
    st.sampled_from(["", "a", "b", "c"]),
    st.none() | NUMBERS,
    st.none() | NUMBERS,
    st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters))),
)


@given(
    st.lists(RULES, max_size=6).map(tuple),
    st.sampled_from("bc"),
    st.sets(st.sampled_from("rwm"), min_size=1),
    NUMBERS,
    NUMBERS,
)
def test_the_program_decides_as_the_rules_mean(
    rules: tuple[DeviceRule, ...], kind: str, access: set[str], major: int, minor: int
) -> None:
    wanted = "".join(access)
    expected = is_allowed(rules, kind, wanted, major, minor)
    assert run(compile_rules(rules), kind, wanted, major, minor) == int(expected)


def test_what_two_rules_allow_together_is_allowed_in_one_call() -> None:
    program = compile_rules((DeviceRule(True, "c", 1, 3, "r"), DeviceRule(True, "c", 1, 3, "w")))
    assert run(program, "c", "rw", 1, 3) == 1
    assert run(program, "c", "rwm", 1, 3) == 0


@pytest.mark.parametrize("rules", [(), (DeviceRule(False),)])
def test_what_no_rule_allows_is_denied(rules: tuple[DeviceRule, ...]) -> None:
    assert run(compile_rules(rules), "c", "r", 1, 3) == 0


def test_rules_before_one_of_everything_are_left_out() -> None:
    last = DeviceRule(False, "a", access="rwm")
    one = compile_rules((DeviceRule(True, access="rwm"),))
    many = compile_rules((DeviceRule(True, "c", 1, 3, "rw"), last, DeviceRule(True, access="rwm")))
    assert one == many
    assert run(one, "b", "rwm", 8, 0) == 1


def test_an_allow_rule_without_access_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"linux.resources.devices\[1\].access is empty"):
        compile_rules((DeviceRule(False), DeviceRule(True, "c", 1, 3)))


def test_equal_rules_are_compiled_once() -> None:
    rules = (DeviceRule(False), DeviceRule(True, "c", 1, 3, "rw"))
    assert compile_rules(rules) is compile_rules((DeviceRule(False), DeviceRule(True, "c", 1, 3, "rw")))
