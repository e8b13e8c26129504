from __future__ import annotations

import sys

import pytest
from containerd_shimkit.linux.ebpf import (
    Instruction,
    Jump,
    Label,
    assemble,
    copy,
    exit_,
    keep,
    load,
    move,
    shift_right,
)

if sys.byteorder != "little":
    pytest.skip("the expected bytes are those of a little-endian machine", allow_module_level=True)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [  # as `llvm-mc -triple bpfel -show-encoding` gives them
        (move(0, 1), "b7 00 00 00 01 00 00 00"),
        (copy(2, 3), "bf 32 00 00 00 00 00 00"),
        (load(4, 1, 8), "61 14 08 00 00 00 00 00"),
        (shift_right(2, 16), "74 02 00 00 10 00 00 00"),
        (keep(3, 0xFFFF), "54 03 00 00 ff ff 00 00"),
        (keep(3, 0xFFFFFFFE), "54 03 00 00 fe ff ff ff"),
        (exit_(), "95 00 00 00 00 00 00 00"),
    ],
)
def test_an_instruction_becomes_the_kernels_bytes(instruction: Instruction, expected: str) -> None:
    assert assemble([instruction]) == bytes.fromhex(expected)


def test_a_jump_counts_the_instructions_that_it_leaves_out() -> None:
    program: list[Instruction] = [
        Jump("end", "!=", 3, 2),
        Jump("middle", "&", 2, 6),
        Jump("end", "==", 4, 0x80000000),
        Label("middle"),
        Jump("end"),
        move(0, 0),
        Label("end"),
        exit_(),
    ]
    assert assemble(program).hex(" ", 8).split(" ") == [
        "5603040002000000",
        "4602010006000000",
        "1604020000000080",
        "0500010000000000",
        "b700000000000000",
        "9500000000000000",
    ]


@pytest.mark.parametrize(
    "program",
    [
        [Jump("nowhere"), exit_()],
        [Label("back"), move(0, 0), Jump("back")],
        [Jump("far"), *[move(0, 0)] * (1 << 15), Label("far"), exit_()],
    ],
)
def test_a_jump_that_the_kernel_could_not_take_is_an_error(program: list[Instruction]) -> None:
    with pytest.raises(ValueError, match="no jump leads from instruction"):
        assemble(program)
