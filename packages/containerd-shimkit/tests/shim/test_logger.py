from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from containerd_shimkit.shim.logger import BundleLogHandler, format_line
from hypothesis import given
from hypothesis import strategies as st


def record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("containerd_shimkit.test", level, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def fifo(directory: Path) -> int:
    directory.mkdir(exist_ok=True)
    os.mkfifo(directory / "log")
    return os.open(directory / "log", os.O_RDWR | os.O_NONBLOCK)


def test_a_line_has_what_logrus_has() -> None:
    line = format_line(record('said "no"\nand left', logging.WARNING, instance="c1")).decode()
    assert re.fullmatch(
        r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z" level=warning msg="said \\"no\\"\\nand left" '
        r'instance="c1" logger="containerd_shimkit.test"\n',
        line,
    )


@given(st.text(max_size=9000))
def test_whatever_is_said_is_one_line_that_a_pipe_takes_whole(message: str) -> None:
    line = format_line(record(message))
    assert line.count(b"\n") == 1
    assert len(line) <= 4096


def test_a_traceback_stays_on_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        made = record("failed")
        made.exc_info = (ValueError, error, error.__traceback__)
        assert format_line(made).count(b"\n") == 1
        assert b"ValueError: why" in format_line(made)


def test_a_containers_line_goes_to_its_own_bundle(tmp_path: Path) -> None:
    first, second = fifo(tmp_path / "a"), fifo(tmp_path / "b")
    handler = BundleLogHandler()
    handler.add("a", str(tmp_path / "a"))
    handler.add("b", str(tmp_path / "b"))
    handler.emit(record("of a", instance="a"))
    handler.emit(record("of nobody"))
    assert b"of a" in os.read(first, 4096)
    assert b"of nobody" in os.read(second, 4096)
    handler.remove("b")
    handler.emit(record("of nobody again"))
    assert b"again" in os.read(first, 4096)
    handler.remove("a")
    handler.emit(record("to nobody"))
    for descriptor in (first, second):
        with pytest.raises(BlockingIOError):
            os.read(descriptor, 1)
        os.close(descriptor)


def test_a_full_fifo_or_a_missing_one_stops_nobody(tmp_path: Path) -> None:
    reader = fifo(tmp_path / "a")
    handler = BundleLogHandler()
    handler.add("none", str(tmp_path / "nowhere"))
    handler.add("a", str(tmp_path / "a"))
    for _ in range(100):
        handler.emit(record("x" * 4000))
    handler.remove("a")
    handler.remove("a")
    os.close(reader)
