"""A small assembler for eBPF programs: instructions in, the kernel's bytes out. Pure.

Source: kernel, Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Instruction", "Jump", "Label", "assemble", "copy", "exit_", "keep", "load", "move", "shift_right"]

_ALU64_MOVE: Final = 0xB7
_ALU64_COPY: Final = 0xBF
_ALU32_AND: Final = 0x54
_ALU32_SHIFT: Final = 0x74  # without regard to a sign
_LOAD_WORD: Final = 0x61
_JUMP: Final = 0x05
_JUMP32: Final = {"==": 0x16, "!=": 0x56, "&": 0x46}
_EXIT: Final = 0x95
_REACH: Final = 1 << 15  # a jump's offset has 16 bits, with its sign


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on at *label*: always, or when a register's lower half is `==` or `!=` a number, or has (`&`) some of it."""

    label: str
    condition: str = ""
    register: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """A place to jump to; no instruction."""

    name: str


Instruction: TypeAlias = bytes | Jump | Label
"""Eight bytes as the kernel takes them, or what becomes clear only when the whole program is there."""


def move(register: int, value: int) -> bytes:
    """Put a number into a register, 0 to 9."""
    return _encode(_ALU64_MOVE, register, immediate=value)


def copy(register: int, source: int) -> bytes:
    """Put what is in the register *source* into another."""
    return _encode(_ALU64_COPY, register, source)


def load(register: int, base: int, offset: int) -> bytes:
    """Put the 32-bit word at *offset* behind the address in register *base* into a register."""
    return _encode(_LOAD_WORD, register, base, offset)


def keep(register: int, mask: int) -> bytes:
    """Leave in a register the bits of *mask*, of which there may be 32."""
    return _encode(_ALU32_AND, register, immediate=mask)


def shift_right(register: int, bits: int) -> bytes:
    """Move the lower 32 bits of a register down; the upper ones become 0."""
    return _encode(_ALU32_SHIFT, register, immediate=bits)


def exit_() -> bytes:
    """End the program; register 0 is its result."""
    return _encode(_EXIT, 0)


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program as the kernel takes it, 8 bytes an instruction, in this machine's order of bytes.

    Raises: ValueError for a jump that leads nowhere, backwards, or too far.
    """
    places: dict[str, int] = {}
    count = 0
    for each in program:
        if isinstance(each, Label):
            places[each.name] = count
        else:
            count += 1
    code: list[bytes] = []
    for each in program:
        if isinstance(each, bytes):
            code.append(each)
        elif isinstance(each, Jump):
            offset = places.get(each.label, -1) - len(code) - 1
            if not 0 <= offset < _REACH:
                raise ValueError(f"no jump leads from instruction {len(code)} to {each.label!r}")
            opcode = _JUMP32[each.condition] if each.condition else _JUMP
            code.append(_encode(opcode, each.register, offset=offset, immediate=each.value))
    return b"".join(code)


def _encode(opcode: int, target: int, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    registers = source << 4 | target if sys.byteorder == "little" else target << 4 | source
    return struct.pack("=BBhI", opcode, registers, offset, immediate & 0xFFFFFFFF)
