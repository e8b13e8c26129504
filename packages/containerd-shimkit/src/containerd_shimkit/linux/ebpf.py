"""A small assembler for eBPF programs: instructions in, the kernel's bytes out. Pure.

Source: kernel, Documentation/bpf/standardization/instruction-set.rst; include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Exit", "Instruction", "Jump", "Label", "Load", "Move", "Operate", "assemble"]

_ALU64: Final = 0x07
_ALU32: Final = 0x04
_JMP32: Final = 0x06
_JMP: Final = 0x05
_LDX_W: Final = 0x61  # a 32-bit word of memory
_FROM_REGISTER: Final = 0x08
_EXIT: Final = 0x95
_OPERATIONS: Final = {"and": 0x50, "rsh": 0x70}
_CONDITIONS: Final = {"==": 0x10, "!=": 0x50, "&": 0x40}
_REACH: Final = 1 << 15  # a jump's offset has 16 bits, with its sign


@dataclass(frozen=True, slots=True)
class Move:
    """Put *value* into a register, 0 to 9: a number, or another register."""

    register: int
    value: int
    from_register: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Put the 32-bit word at *offset* behind the address in register *base* into a register."""

    register: int
    base: int
    offset: int


@dataclass(frozen=True, slots=True)
class Operate:
    """Change the lower 32 bits of a register by a number: `and`, `rsh`; the upper ones become 0."""

    operation: str
    register: int
    value: int


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


@dataclass(frozen=True, slots=True)
class Exit:
    """End the program; register 0 is its result."""


Instruction: TypeAlias = Move | Load | Operate | Jump | Label | Exit


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
        match each:
            case Move(register, value, True):
                code.append(_encode(_ALU64 | 0xB0 | _FROM_REGISTER, register, source=value))
            case Move(register, value):
                code.append(_encode(_ALU64 | 0xB0, register, immediate=value))
            case Load(register, base, offset):
                code.append(_encode(_LDX_W, register, source=base, offset=offset))
            case Operate(operation, register, value):
                code.append(_encode(_ALU32 | _OPERATIONS[operation], register, immediate=value))
            case Jump(label, condition, register, value):
                offset = places.get(label, -1) - len(code) - 1
                if not 0 <= offset < _REACH:
                    raise ValueError(f"no jump leads from instruction {len(code)} to {label!r}")
                kind = _JMP32 | _CONDITIONS[condition] if condition else _JMP
                code.append(_encode(kind, register, offset=offset, immediate=value))
            case Exit():
                code.append(_encode(_EXIT, 0))
            case Label():
                pass
    return b"".join(code)


def _encode(opcode: int, target: int, *, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    registers = source << 4 | target if _LITTLE else target << 4 | source
    return struct.pack("=BBhI", opcode, registers, offset, immediate & 0xFFFFFFFF)


_LITTLE: Final = struct.pack("=H", 1) == b"\1\0"
