"""Hooks as programs: what they are given, and what becomes of those that fail, hang, or cannot be run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from containerd_shimkit.container.hooks import run_hooks, try_hooks
from containerd_shimkit.errors import AbortedError, DeadlineExceededError, InvalidArgumentError
from containerd_shimkit.oci.hooks import Hook

STATE = b'{"id":"c"}'


def shell(script: str, *args: str, env: tuple[str, ...] = (), timeout: int | None = None) -> Hook:
    return Hook("/bin/sh", ("hook", "-c", script, *args), env, timeout)


def test_a_hook_has_the_state_its_arguments_and_its_own_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the service")
    script = 'echo "$0 $1 $A ${SECRET-none}"; cat; echo; exec ls /proc/self/fd'
    run_hooks("prestart", [shell(f"exec > {tmp_path}/out; {script}", "zero", "one", env=("A=a b",))], STATE)
    first, state, *descriptors = (tmp_path / "out").read_text().split("\n")
    assert first == "zero one a b none"
    assert state.encode() == STATE
    inherited = {each for each in os.listdir("/proc/self/fd") if _is_inherited(int(each))}
    assert set(descriptors) - inherited - {"", "0", "1", "2"} <= {"3"}, "3 is the directory that ls lists"


def _is_inherited(descriptor: int) -> bool:
    """Whether it came to this process from its own parent, and is no business of a hook's."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def test_hooks_run_in_order_until_one_fails(tmp_path: Path) -> None:
    hooks = [shell(f"echo 1 >> {tmp_path}/out"), shell("echo why >&2; exit 3"), shell(f"echo 3 >> {tmp_path}/out")]
    with pytest.raises(AbortedError, match=r"hooks\.createRuntime\[1\] \(/bin/sh\) ended with status 3.*: why"):
        run_hooks("createRuntime", hooks, STATE)
    assert (tmp_path / "out").read_text() == "1\n"


def test_hooks_that_come_too_late_all_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    try_hooks("poststop", [shell("exit 3"), Hook("/nowhere"), shell(f"echo 3 >> {tmp_path}/out")], STATE)
    assert (tmp_path / "out").read_text() == "3\n"
    assert "hooks.poststop[0] (/bin/sh) ended with status 3 and printed nothing" in caplog.text
    assert "hooks.poststop[1] (/nowhere) cannot be executed: No such file or directory" in caplog.text


def test_one_that_is_killed_says_by_what() -> None:
    with pytest.raises(AbortedError, match="was ended by signal 9"):
        run_hooks("prestart", [shell("kill -9 $$")], STATE)


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="not done within its timeout of 1 s"):
        run_hooks("prestart", [shell(f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout=1)], STATE)
    assert time.monotonic() - began < 10
    child = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while os.path.exists(f"/proc/{child}") and time.monotonic() < until:
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.01)
    else:
        assert not os.path.exists(f"/proc/{child}")


def test_one_that_prints_without_end_is_read_and_its_last_words_are_kept() -> None:
    with pytest.raises(AbortedError) as caught:
        run_hooks("prestart", [shell("head -c 1000000 /dev/zero | tr '\\0' x; echo last; exit 1")], STATE)
    assert str(caught.value).endswith("xlast")
    assert len(str(caught.value)) < 5000


def test_one_that_leaves_a_writer_behind_is_not_waited_for() -> None:
    began = time.monotonic()
    run_hooks("prestart", [shell("sleep 3 & exit 0")], STATE)
    assert time.monotonic() - began < 2


def test_a_state_larger_than_a_pipe_reaches_a_hook_that_reads_late(tmp_path: Path) -> None:
    run_hooks("prestart", [shell(f"sleep 0.1; wc -c > {tmp_path}/out")], b"x" * 1_000_000)
    assert int((tmp_path / "out").read_text()) == 1_000_000


def test_what_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    with pytest.raises(InvalidArgumentError, match=r"hooks\.prestart\[0\] .* cannot be executed: Permission denied"):
        run_hooks("prestart", [Hook(str(tmp_path / "text"))], STATE)


def test_nothing_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for hook in (shell("exit 0"), shell("exit 1"), Hook("/nowhere"), shell("sleep 9", timeout=1)):
        try_hooks("poststop", [hook], STATE)
    assert sorted(os.listdir("/proc/self/fd")) == before
