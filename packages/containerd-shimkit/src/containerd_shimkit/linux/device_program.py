"""From device rules to the eBPF program that decides over each use of a device in a version 2 group. Pure.

What a rule says holds for each kind of access by itself: the last rule that names the device and `r` decides over
reading, whatever others say of writing. What no rule names is denied. Source: kernel, include/uapi/linux/bpf.h
(bpf_cgroup_dev_ctx), admin-guide/cgroup-v2 ("Device controller").
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from ..errors import InvalidArgumentError
from ..oci.resources import DeviceRule
from .ebpf import Instruction, Jump, Label, assemble, copy, exit_, keep, load, move, shift_right

__all__ = ["ACCESS", "TYPES", "compile_rules"]

TYPES: Final = {"b": 1, "c": 2}
"""BPF_DEVCG_DEV_*, the lower half of the context's first word."""

ACCESS: Final = {"m": 1, "r": 2, "w": 4}
"""BPF_DEVCG_ACC_*, the upper half."""

_RESULT, _CONTEXT, _WANTED, _TYPE, _MAJOR, _MINOR = range(6)  # registers; the kernel gives the context in the second


@lru_cache(maxsize=16)
def compile_rules(rules: tuple[DeviceRule, ...]) -> bytes:
    """The program of *rules*. Raises: InvalidArgumentError for an allow rule that allows nothing."""
    return assemble(list(_program(rules)))


def _program(rules: tuple[DeviceRule, ...]) -> Iterator[Instruction]:
    yield load(_TYPE, _CONTEXT, 0)
    yield copy(_WANTED, _TYPE)
    yield shift_right(_WANTED, 16)
    yield keep(_TYPE, 0xFFFF)
    yield load(_MAJOR, _CONTEXT, 4)
    yield load(_MINOR, _CONTEXT, 8)
    # from the last rule to the first: in the register stays what none has decided over yet
    for index in reversed(range(len(rules))):
        yield from _rule(rules[index], f"devices[{index}]")
        if rules[index] in (DeviceRule(True, access="rwm"), DeviceRule(False), DeviceRule(False, access="rwm")):
            return  # what stands before is never asked
    yield move(_RESULT, 0)
    yield exit_()


def _rule(rule: DeviceRule, field: str) -> Iterator[Instruction]:
    if rule.allow and not rule.access:
        raise InvalidArgumentError(f"linux.resources.{field}.access is empty; an allow rule needs some of r, w and m")
    mask = sum({ACCESS[letter] for letter in rule.access or "rwm"})
    next_rule = f"after {field}"
    is_checked = False
    for register, number in ((_TYPE, TYPES.get(rule.type)), (_MAJOR, rule.major), (_MINOR, rule.minor)):
        if number is not None:
            is_checked = True
            yield Jump(next_rule, "!=", register, number)
    everything = mask == sum(ACCESS.values())
    if rule.allow:
        if not everything:
            is_checked = True
            yield keep(_WANTED, ~mask & 0xFFFF)
            yield Jump(next_rule, "!=", _WANTED, 0)
        yield move(_RESULT, 1)
        yield exit_()
    else:
        if not everything:
            is_checked = True
            denied = f"denied by {field}"
            yield Jump(denied, "&", _WANTED, mask)
            yield Jump(next_rule)
            yield Label(denied)
        yield move(_RESULT, 0)
        yield exit_()
    if is_checked:
        yield Label(next_rule)
