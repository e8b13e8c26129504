from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from containerd_shimkit.cli.programs import Kind, interpreter_of, program_name, read_program, runtime_name
from containerd_shimkit.launcher.block import MARKER, MAX_FILE_BYTES


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("containerd-shim-wasmtime-v1", "wasmtime"),
        ("containerd-shim-my_own-v1-v1", "my_own-v1"),
        ("containerd-shim-runc-v2", ""),  # io.containerd.runc.v2 is no runtime of ours: they are all v1
        ("containerd-shim--v1", ""),
        ("containerd-shim-x-v1.new", ""),
        ("containerd-shim-x-v1\n", ""),
        (".containerd-shim-x-v1", ""),
        ("containerd-shimkit", ""),
    ],
)
def test_a_programs_name_says_which_runtime_it_is_of(program: str, name: str) -> None:
    assert runtime_name(program) == name
    assert not name or program_name(name) == program


@pytest.mark.parametrize(
    ("data", "interpreter"),
    [
        (b"#!/usr/bin/python3\nprint()\n", "/usr/bin/python3"),
        (b"#! /opt/a/bin/python3.11 -sE\n", "/opt/a/bin/python3.11"),
        (b"#!/opt/pypy3", "/opt/pypy3"),
        (b"#!/bin/sh\n'''exec' \"/opt/with a space/python\" \"$0\" \"$@\"\n' '''\n", "/opt/with a space/python"),
        (b"#!/bin/sh\n'''exec' /opt/long/python3 \"$0\" \"$@\"\n' '''\n", "/opt/long/python3"),
        (b"#!/opt/\xff/python\n", os.fsdecode(b"/opt/\xff/python")),
        (b"#!/bin/sh\n'''exec' \"/unended\n", ""),
        (b"#!/bin/sh\nexec python3 x\n", ""),
        (b"#!/usr/bin/env python3\n", ""),  # which one that is depends on who asks
        (b"#!\n", ""),
        (b"", ""),
        (b"\x7fELF/usr/bin/python3\n", ""),
    ],
)
def test_a_console_script_names_its_python(data: bytes, interpreter: str) -> None:
    assert interpreter_of(data) == interpreter


def test_nothing_is_no_program(tmp_path: Path) -> None:
    assert read_program(str(tmp_path / "missing")) is None


def test_a_launcher_shows_what_it_runs_and_was_built_from(launcher: Path, command: list[str]) -> None:
    program = read_program(str(launcher))
    assert program is not None
    assert (program.kind, program.command, program.problem) == (Kind.LAUNCHER, tuple(command), "")
    assert f"sources={program.sources}\0".encode() in program.data
    assert program.data == launcher.read_bytes()


def test_a_launcher_that_was_copied_and_not_installed_shows_it(launcher: Path, template: bytes) -> None:
    launcher.write_bytes(template)
    program = read_program(str(launcher))
    assert program is not None
    assert (program.kind, program.command) == (Kind.LAUNCHER, ())
    assert program.problem == "it has no command: it was copied, not installed"


def test_a_damaged_launcher_shows_it(launcher: Path) -> None:
    launcher.write_bytes(launcher.read_bytes().replace(MARKER + b"\x03", MARKER + b"\xff"))
    program = read_program(str(launcher))
    assert program is not None
    assert (program.kind, program.command) == (Kind.LAUNCHER, ())
    assert "damaged" in program.problem


def test_a_console_script_is_run_isolated(script: Path) -> None:
    program = read_program(str(script))
    assert program is not None
    assert (program.kind, program.command) == (Kind.CONSOLE_SCRIPT, (sys.executable, "-I", str(script)))


@pytest.mark.parametrize("kind", ["link", "pipe", "too large"])
def test_what_is_no_file_of_a_launchers_size_is_not_read(launcher: Path, kind: str) -> None:
    path = launcher.with_name("other")
    if kind == "link":
        path.symlink_to(launcher)
    elif kind == "pipe":
        os.mkfifo(path)  # to open it would hang
    else:
        path.write_bytes(launcher.read_bytes())
        os.truncate(path, MAX_FILE_BYTES + 1)
    program = read_program(str(path))
    assert program is not None
    assert (program.kind, program.data) == (Kind.OTHER, b"")
