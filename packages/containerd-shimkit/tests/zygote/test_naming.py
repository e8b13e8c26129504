from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
from containerd_shimkit.zygote import naming

COMMAND = ["/usr/bin/python3", "-I", "/usr/bin/containerd-shim-x-v1"]


def name_in_child(change: Callable[[], object]) -> str:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            change()
            os.write(theirs, naming.socket_path(COMMAND).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as pipe:
        os.wait()
        return pipe.read()


def test_the_hash_is_fnv1a_of_64_bits() -> None:
    # from the algorithm's own list of test vectors
    assert naming.fnv1a(b"") == 0xCBF29CE484222325
    assert naming.fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert naming.fnv1a(b"foobar") == 0x85944171F73967E8


def test_one_program_in_one_context_has_one_name() -> None:
    assert name_in_child(lambda: None) == naming.socket_path(COMMAND)
    assert naming.socket_path(COMMAND) != naming.socket_path([*COMMAND[:2], "/usr/bin/containerd-shim-y-v1"])


def test_two_installations_of_one_shim_have_two_names() -> None:
    # two versions at once are two environments: the program has the same name in both, and nothing else differs
    commands = [[f"/opt/{each}/bin/python", "-I", f"/opt/{each}/bin/containerd-shim-x-v1"] for each in ("1.0", "1.1")]
    mixed = [commands[0][0], *commands[1][1:]]
    assert len({naming.socket_path(command) for command in (*commands, mixed)}) == 3


def test_a_name_tells_where_one_word_ends() -> None:
    commands = (["/a", "b"], ["/ab"], ["/a", "", "b"], ["/a", "b", ""], ["/a b"])
    assert len({naming.socket_path(command) for command in commands}) == len(commands)


@pytest.mark.parametrize(
    "change",
    [
        lambda: os.nice(1),
        lambda: resource.setrlimit(resource.RLIMIT_CPU, (99, 99)),
        lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        lambda: open("/proc/self/oom_score_adj", "w").write("777"),
    ],
    ids=["nice", "limits", "affinity", "oom_score_adj"],
)
def test_another_context_has_another_name(change: Callable[[], object]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU has one affinity")
    assert name_in_child(change) != naming.socket_path(COMMAND)


@pytest.mark.root
@pytest.mark.parametrize("flag", ["--net", "--uts", "--mount", "--ipc", "--pid --fork"])
def test_another_namespace_has_another_name(flag: str) -> None:
    if os.geteuid():
        pytest.skip("namespaces need root")
    script = f"from containerd_shimkit.zygote import naming; print(naming.socket_path({COMMAND!r}))"
    command = ["unshare", *flag.split(), sys.executable, "-c", script]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() != naming.socket_path(COMMAND)


@pytest.mark.parametrize("how", [["script.py"], ["-m", "module"]])
def test_a_program_can_be_run_anew_by_its_words(how: list[str], tmp_path: os.PathLike[str]) -> None:
    text = "from containerd_shimkit.zygote.naming import entry_command; print(*entry_command(), sep='\\n')"
    for name in ("script.py", "module.py"):
        with open(os.path.join(tmp_path, name), "w") as file:
            file.write(text)
    command = [sys.executable, *how, "-id", "x"]
    words = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = [os.path.join(tmp_path, "script.py")] if how[0] == "script.py" else how
    assert words == [sys.executable, "-I", *expected]
