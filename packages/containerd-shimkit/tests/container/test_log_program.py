"""Logging programs, and the containers whose output they take: made for real."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from containerd_shimkit import AbortedError, DeadlineExceededError, InvalidArgumentError, ShimError
from containerd_shimkit.container import log_program
from containerd_shimkit.container.log_program import start_logging
from containerd_shimkit.container.plan_logging import plan_logging
from containerd_shimkit.shim.reaper import Reaper

from .bench import Bench, Play, open_descriptors

COPY = "cat <&3 >$2/out 5>&- & cat <&4 >$2/err 5>&- & exec 3<&- 4<&- 5>&-; wait; echo done >$2/done"


def program(directory: Path, script: str = COPY, scheme: str = "binary") -> str:
    """The URI of a logging program that is a shell's *script*, whose $2 is the directory."""
    path = directory / "logger"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{scheme}://{path}?directory={directory}"


def started(scenario: Callable[[Reaper], Awaitable[None]]) -> None:
    async def whole() -> None:
        reaper = Reaper.current()
        before = open_descriptors()
        await asyncio.wait_for(scenario(reaper), 40)
        await asyncio.wait_for(reaper.finish(), 10)
        assert sorted(open_descriptors()) == sorted(before)

    asyncio.run(whole())


async def start(uri: str, reaper: Reaper) -> log_program.LogProgram:
    command = plan_logging(uri, uri)
    assert command is not None
    return await start_logging(command, "c1", "ns", reaper)


def others_of(pid: int) -> set[str]:
    """What a logging program has open besides its pipes, and besides what whoever runs the tests has left open."""
    left = {int(each) for each in os.listdir("/proc/self/fd") if int(each) > 5 and _is_inheritable(int(each))}
    links = [each for each in Path(f"/proc/{pid}/fd").iterdir() if int(each.name) not in {3, 4, *left}]
    return {os.readlink(each) for each in links if each.is_symlink()}


def _is_inheritable(descriptor: int) -> bool:
    with suppress(OSError):
        return os.get_inheritable(descriptor)
    return False


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come")


def test_it_is_given_its_pipes_its_arguments_two_variables_and_nothing_else(tmp_path: Path) -> None:
    # the shell adds PWD and the like: so one that says what the kernel gave it
    script = 'tr "\\0" "\\n" </proc/$$/environ >$2/env; echo "$@" >$2/args; exec 5>&-; cat <&3; exit'

    async def scenario(reaper: Reaper) -> None:
        kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]  # so that its numbers are taken here
        logger = await start(program(tmp_path, script), reaper)
        assert sorted((tmp_path / "env").read_text().split()) == ["CONTAINER_ID=c1", "CONTAINER_NAMESPACE=ns"]
        pipes = [os.readlink(f"/proc/{logger.pid}/fd/{number}") for number in (3, 4)]
        assert all(each.startswith("pipe:") for each in pipes)
        assert pipes[0] != pipes[1]
        # its own script, and what it reads from by now
        await until(lambda: others_of(logger.pid) <= {"/dev/null", str(tmp_path / "logger"), pipes[0]})
        assert (tmp_path / "args").read_text() == f"directory {tmp_path}\n"
        assert os.getsid(logger.pid) == logger.pid
        await logger.finish()
        await logger.finish()
        for descriptor in kept:
            os.close(descriptor)

    started(scenario)


@pytest.mark.parametrize(
    ("scheme", "script", "kind", "words"),
    [
        ("binary", "exit 3", AbortedError, "ended with status 3 before it was ready"),
        ("binary-v2", "exec 5>&-; sleep 1000", AbortedError, "closed its descriptor 5 without a word"),
        ("binary", "sleep 1000", DeadlineExceededError, r"did not say within 0\.3 s that it is ready"),
        ("binary", "sleep 1000 & exit 4", AbortedError, "ended with status 4 before it was ready"),
    ],
)
def test_one_that_does_not_become_ready_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, script: str, kind: type[ShimError], words: str
) -> None:
    monkeypatch.setattr(log_program, "_READY_TIMEOUT", 0.3)
    uri = program(tmp_path, f"echo $$ >$2/pid; {script}", scheme)

    async def scenario(reaper: Reaper) -> None:
        with pytest.raises(kind, match=words) as caught:
            await start(uri, reaper)
        assert f"the logging program '{uri}' of c1" in str(caught.value)
        await until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())

    try:
        started(scenario)
    finally:
        if "& exit" in script:  # what it has left is nobody's
            os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_one_that_cannot_be_executed_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario(reaper: Reaper) -> None:
        with pytest.raises(InvalidArgumentError, match=r"the logging program /no/where cannot be executed: No such"):
            await start("binary:///no/where", reaper)
        (tmp_path / "text").write_text("no program")
        with pytest.raises(InvalidArgumentError, match="cannot be executed: Permission denied"):
            await start(f"binary://{tmp_path}/text", reaper)

    started(scenario)


def test_a_word_makes_either_kind_ready(tmp_path: Path) -> None:
    async def scenario(reaper: Reaper) -> None:
        for scheme in ("binary", "binary-v2"):
            logger = await start(program(tmp_path, "echo >&5; cat <&3", scheme), reaper)
            await logger.finish()

    started(scenario)


def test_one_that_does_not_end_is_told_to_and_then_made_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("_DRAIN_TIMEOUT", "_LEAVE_TIMEOUT", "_TERM_TIMEOUT"):
        monkeypatch.setattr(log_program, name, 0.2)

    async def scenario(reaper: Reaper) -> None:
        obedient = "trap 'echo told >$2/told; exit' TERM; exec 5>&-; while :; do sleep 0.01; done"
        logger = await start(program(tmp_path, obedient), reaper)
        await logger.finish()
        assert (tmp_path / "told").exists()
        assert not caplog.text
        logger = await start(program(tmp_path, "trap '' TERM; exec 5>&-; while :; do sleep 0.01; done"), reaper)
        out = os.open(logger.paths[0], os.O_WRONLY)
        os.write(out, b"never taken")
        os.close(out)
        begun = time.monotonic()
        await logger.finish()
        assert time.monotonic() - begun > 0.5
        assert "is killed: it did not end when it was told to" in caplog.text

    started(scenario)


@pytest.mark.root
def test_all_that_a_container_writes_is_logged_by_the_time_it_is_deleted(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        uri = program(tmp_path)
        script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; echo err >&2; echo end"
        container = await bench.running("/bin/sh", "-c", script, stdout=uri, stderr=uri)
        ended = await container.wait_timeout(30)
        assert ended is not None
        await container.delete()
        expected = "".join(f"{i}\n" for i in range(20000)) + "end\n"
        found = (tmp_path / "out").read_text()
        assert hashlib.sha256(found.encode()).digest() == hashlib.sha256(expected.encode()).digest()
        assert (tmp_path / "err").read_text() == "err\n"
        assert (tmp_path / "done").exists()

    play(scenario)


@pytest.mark.root
def test_a_slow_program_takes_all_before_it_is_ended(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        uri = program(tmp_path, "exec 5>&-; sleep 2; cat <&3 >$2/out")
        container = await bench.running("/bin/sh", "-c", "echo late", stdout=uri, stderr=uri)
        await container.wait_timeout(10)
        await container.delete()
        assert (tmp_path / "out").read_text() == "late\n"

    play(scenario)


@pytest.mark.root
def test_a_container_outlives_its_logging_program_and_does_not_wait_for_it(
    play: Play, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bench: Bench) -> None:
        uri = program(tmp_path, "exec 5>&-; head -n 1 <&3 >$2/out; exit 9")
        more_than_a_pipe = "echo first; sleep 0.3; i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done; exit 5"
        with caplog.at_level(logging.ERROR):
            container = await bench.running("/bin/sh", "-c", more_than_a_pipe, stdout=uri, stderr=uri)
            ended = await container.wait_timeout(30)
        assert ended is not None
        assert ended.status == 5
        assert "ended with status 9: what is written from now on is lost" in caplog.text
        await container.delete()

    play(scenario)


@pytest.mark.root
def test_a_terminals_output_and_that_of_an_exec_are_logged_too(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        uri = program(tmp_path)
        script = "[ -t 1 ] && echo on a terminal; sleep 1000"
        container = await bench.running("/bin/sh", "-c", script, stdout=uri, terminal=True)
        await until(lambda: b"on a terminal\r\n" in (tmp_path / "out").read_bytes())
        other = tmp_path / "other"
        other.mkdir()
        uri = program(other)
        assert (await bench.run(container, "/bin/sh", "-c", "echo said", config={"stdout": uri, "stderr": uri}))[0] == 0
        assert (other / "out").read_text() == "said\n"

    play(scenario)


@pytest.mark.root
def test_what_fails_after_its_logging_program_was_started_ends_that_too(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        uri = program(tmp_path)
        with pytest.raises(ShimError, match="/not/there"):
            await bench.container("/not/there", stdout=uri, stderr=uri)
        await until(lambda: (tmp_path / "done").exists())
        with pytest.raises(ShimError, match="stdin"):
            await bench.container("/bin/true", stdin="/not/there", stdout=uri, stderr=uri)

    play(scenario)
