"""How long a container takes to start and to go: `ctr run --rm` beside runc's, and our shim's own phases.

    uv run python benches/startup.py [--runs N] [--json FILE] [--shim-directory DIR] [--containerd DIR]

The phases are measured from outside, at one shim without containerd: its programs by their processes, its calls by
their answers, a container's end by its pidfd. What a step of Create costs is what Create takes less without it.
"""

from __future__ import annotations

import itertools
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from containerd_shimkit.wire import bytes_field
from measuring.direct import DirectShim, TaskClient, direct_shim
from measuring.figures import Figure, Section, figures_of, take_turns
from measuring.programs import (
    EXIT_STATUS,
    FRESH_OUTPUT_END,
    IMAGE,
    NATIVE_OURS,
    NATIVE_RUNC,
    NULL,
    WASM_OURS,
    Contender,
    fresh_module,
)
from measuring.run import parser_of, run_bench
from measuring.stage import Stage

CTR = "ctr run --rm"
BUDGET = "Phases of a pod of one container, without containerd"
PHASES = "Phases of a container in a pod that is there, without containerd"
STEPS = "Create by step"
PROGRAMS = "The shim's program by itself"
NEVER_SEEN = "wasm never seen, ours"
_PHASES = ("Create", "Start", "first byte", "exit to TaskExit", "exit to Wait", "Delete", "Create to Delete")
_START, _DELETE, _WHOLE = "start, the program", "delete, the program", "start to delete"


def main() -> None:
    """Measure, and print tables."""
    args = parser_of(__doc__, runs=20).parse_args()
    run_bench("startup", args, measure, fresh=args.runs)


def measure(stage: Stage) -> list[Section]:
    """All sections, each with contenders in turns."""
    runs = stage.options.runs
    return [each(stage, runs) for each in (through_ctr, programs, budget, phases, steps)]


def through_ctr(stage: Stage, runs: int) -> Section:
    """Whole `ctr run --rm`s, each a pod of its own, their output checked."""
    numbers = itertools.count()

    def run_fresh() -> float:
        return run_ms(stage, WASM_OURS.runtime, [f"/fresh-{next(numbers)}.wasm"], FRESH_OUTPUT_END)

    for contender in (WASM_OURS, NATIVE_OURS, NATIVE_RUNC):
        echo_ms(stage, contender)  # once unmeasured: a zygote, compiled code and the page cache are there then
    contenders: dict[str, Callable[[], float]] = {
        WASM_OURS.name: lambda: echo_ms(stage, WASM_OURS),
        NEVER_SEEN: run_fresh,
        NATIVE_OURS.name: lambda: echo_ms(stage, NATIVE_OURS),
        NATIVE_RUNC.name: lambda: echo_ms(stage, NATIVE_RUNC),
    }
    if stage.programs.null_shim:
        contenders[NULL.name] = lambda: run_ms(stage, NULL.runtime, NULL.end(), "", EXIT_STATUS)
    found = take_turns(runs, contenders)
    return Section(CTR, [Figure(CTR, "ms", found)], NATIVE_RUNC.name)


def echo_ms(stage: Stage, contender: Contender) -> float:
    """One `ctr run --rm` of the contender's echo."""
    return run_ms(stage, contender.runtime, contender.echo("hello"), "hello\n")


def run_ms(stage: Stage, runtime: str, args: list[str], expected: str, status: int = 0) -> float:
    """One `ctr run --rm`, from its start to its end, in ms."""
    name = f"run-{time.monotonic_ns()}"
    began = time.monotonic()
    done = stage.ctd.ctr("run", "--rm", "--runtime", runtime, IMAGE, name, *args, timeout=120, check=False)
    took = time.monotonic() - began
    if done.returncode != status or not done.stdout.endswith(expected):
        raise RuntimeError(
            f"{runtime} of {args} ended with status {done.returncode} and printed {done.stdout!r} and "
            f"{done.stderr!r}, not {expected!r}"
        )
    return took * 1000


def programs(stage: Stage, runs: int) -> Section:
    """`start` that makes a shim, `start` that finds one, `delete` when nothing is left; and any program, for scale."""
    with direct_shim(stage) as made:

        def cycle() -> dict[str, float]:
            name, path = made.bundle(NATIVE_OURS.sleep())
            second, other = made.bundle(NATIVE_OURS.sleep())
            first_ms, address = command_ms(made, "start", name, path)
            client = TaskClient(address)
            client.create(name, path)
            found_ms, _ = command_ms(made, "start", second, other)
            client.create(second, other)
            for each in (second, name):
                client.kill(each)
                client.wait(each)
                client.call("Delete", each)
            delete_ms, _ = command_ms(made, "delete", second, other)
            client.shut_down(name)
            client.close()
            made.action("delete", name, path)
            return {
                "start, making a shim": first_ms,
                "start, a shim being there": found_ms,
                "delete, nothing being left": delete_ms,
                "-v": program_ms(made, stage.options.shim, "-v"),
                "/bin/true, for scale": program_ms(made, "/bin/true"),
            }

        found = take_turns(runs, {"ours": cycle})
    units = dict.fromkeys(found["ours"][0], "ms")
    return Section(PROGRAMS, figures_of(units, found))


def command_ms(made: DirectShim, action: str, name: str, path: str) -> tuple[float, str]:
    """How long the shim's program takes for an action, in ms; what it printed."""
    began = time.monotonic()
    printed = made.action(action, name, path)
    return (time.monotonic() - began) * 1000, printed


def program_ms(made: DirectShim, *command: str) -> float:
    """How long a program takes in the same way, in ms."""
    began = time.monotonic()
    subprocess.run(command, env=made.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return (time.monotonic() - began) * 1000


def budget(stage: Stage, runs: int) -> Section:
    """All that a pod of one container takes, its shim's start and end included."""
    with direct_shim(stage) as made:
        found = watched(made, runs, lambda args: run_pod(made, args))
    units = dict.fromkeys((_START, *_PHASES, _DELETE, _WHOLE), "ms")
    return Section(BUDGET, figures_of(units, found), notes=[_NOTE])


def phases(stage: Stage, runs: int) -> Section:
    """What a shim that is there takes for each phase of a container that prints a word."""
    with running_shim(stage) as (made, client, waiter):
        watch = Watch(made, client, waiter)
        found = watched(made, runs, lambda args: watch.run(*made.bundle(args)))
    return Section(PHASES, figures_of(dict.fromkeys(_PHASES, "ms"), found), notes=[_NOTE])


_NOTE = (
    "First byte: from the call of Start to the container's first byte of output. Exit: by the container's pidfd; the "
    "event is noted by another thread, so a span near nothing may come out below it."
)


def watched(
    made: DirectShim, runs: int, run: Callable[[list[str]], dict[str, float]]
) -> dict[str, list[dict[str, float]]]:
    """*run* containers of wasm, of wasm that nobody has seen, and native ones, in turns."""

    def run_fresh() -> dict[str, float]:
        # into the shared root: the file is as new as its content
        with open(f"{made.rootfs}/new.wasm", "wb") as file:
            file.write(fresh_module())
        os.chmod(file.name, 0o755)
        try:
            return run(["/new.wasm"])
        finally:
            os.unlink(file.name)

    run(WASM_OURS.echo("hello"))  # unmeasured: whatever can be warm is
    return take_turns(
        runs,
        {
            WASM_OURS.name: lambda: run(WASM_OURS.echo("hello")),
            NEVER_SEEN: run_fresh,
            NATIVE_OURS.name: lambda: run(NATIVE_OURS.echo("hello")),
        },
    )


def run_pod(made: DirectShim, args: list[str]) -> dict[str, float]:
    """One container with a shim of its own, from `start` to `delete`; its phases in ms."""
    name, path = made.bundle(args, lambda spec: spec["annotations"].clear())  # in no pod but its own
    began = time.monotonic()
    start_ms, address = command_ms(made, "start", name, path)
    client, waiter = TaskClient(address), TaskClient(address)
    measured = Watch(made, client, waiter).run(name, path)
    client.shut_down(name)
    for connection in (client, waiter):
        connection.close()
    delete_ms, _ = command_ms(made, "delete", name, path)
    whole_ms = (time.monotonic() - began) * 1000
    return {_START: start_ms, **measured, _DELETE: delete_ms, _WHOLE: whole_ms}


@dataclass(frozen=True, slots=True)
class Watch:
    """Runs containers at one shim and notes when what happens; *waiter* is a second connection, for Wait."""

    made: DirectShim
    client: TaskClient
    waiter: TaskClient

    def run(self, name: str, path: str) -> dict[str, float]:
        """A bundle's container, from Create to Delete; its phases in ms."""
        os.mkfifo(f"{path}/stdout", 0o600)
        output = os.open(f"{path}/stdout", os.O_RDONLY | os.O_NONBLOCK)
        began = time.monotonic()
        pid = self.client.create(name, path, f"{path}/stdout")
        created = time.monotonic()
        pidfd = os.pidfd_open(pid)
        self.waiter.send("Wait", bytes_field(1, name))
        starting = time.monotonic()
        self.client.send("Start", bytes_field(1, name))  # not awaited: a short program is over before it is answered
        waited = {"start": self.client.fileno(), "byte": output, "exit": pidfd, "wait": self.waiter.fileno()}
        times = first_readable(waited)
        for connection in (self.client, self.waiter):
            connection.receive()
        deleting = time.monotonic()
        self.client.call("Delete", name)
        deleted = time.monotonic()
        for descriptor in (output, pidfd):
            os.close(descriptor)
        spans = {
            "Create": created - began,
            "Start": times["start"] - starting,
            "first byte": times["byte"] - starting,
            "exit to TaskExit": self.made.events.exit_of(name) - times["exit"],
            "exit to Wait": times["wait"] - times["exit"],
            "Delete": deleted - deleting,
            "Create to Delete": deleted - began,
        }
        return {what: span * 1000 for what, span in spans.items()}


def first_readable(descriptors: dict[str, int]) -> dict[str, float]:
    """Wait until all of them have become readable; when each did, by time.monotonic. Raises: TimeoutError."""
    poller = select.poll()
    names = {number: name for name, number in descriptors.items()}
    for number in names:
        poller.register(number, select.POLLIN)
    times: dict[str, float] = {}
    while len(times) < len(names):
        ready = poller.poll(60_000)
        now = time.monotonic()
        if not ready:
            raise TimeoutError(f"of a container's {sorted(descriptors)} only {sorted(times)} came within 60 s")
        for number, _ in ready:
            times[names[number]] = now
            poller.unregister(number)
    return times


def steps(stage: Stage, runs: int) -> Section:
    """Create of a native program with all that the default spec asks for, and with one thing less."""
    with running_shim(stage) as (made, client, _):

        def create_ms(change: Callable[[dict[str, Any]], object]) -> Callable[[], float]:
            return lambda: timed_create(made, client, change)

        found = take_turns(runs, {name: create_ms(change) for name, change in _CHANGES.items()})
    return Section(STEPS, [Figure("Create", "ms", found)], "the whole default spec")


def timed_create(made: DirectShim, client: TaskClient, change: Callable[[dict[str, Any]], object]) -> float:
    """One Create, in ms; the container is removed before it has run."""
    name, path = made.bundle(NATIVE_OURS.echo("hello"), change)
    began = time.monotonic()
    client.create(name, path)
    took = time.monotonic() - began
    client.kill(name)
    client.wait(name)
    client.call("Delete", name)
    return took * 1000


def without_namespaces(*kinds: str) -> Callable[[dict[str, Any]], object]:
    """Leave namespaces out of a spec."""

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] not in kinds]

    return change


def without_mounts(spec: dict[str, Any]) -> None:
    """Leave a spec the mounts that a container cannot do without."""
    spec["mounts"] = [each for each in spec["mounts"] if each["destination"] in ("/proc", "/dev")]


def without_masks(spec: dict[str, Any]) -> None:
    """Hide no path, and leave all writable."""
    spec["linux"] |= {"maskedPaths": [], "readonlyPaths": []}


def without_device_rules(spec: dict[str, Any]) -> None:
    """Leave the cgroup without limits."""
    spec["linux"]["resources"] = {}


_CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "the whole default spec": lambda spec: None,
    "no network namespace": without_namespaces("network"),
    "no ipc and uts namespaces": without_namespaces("ipc", "uts"),
    "mounts /proc and /dev only": without_mounts,
    "no masked and read-only paths": without_masks,
    "no device rules": without_device_rules,
}


@contextmanager
def running_shim(stage: Stage) -> Iterator[tuple[DirectShim, TaskClient, TaskClient]]:
    """A shim that runs, and two connections to it."""
    with direct_shim(stage) as made:
        holder, client, address = made.start()
        waiter = TaskClient(address)
        try:
            yield made, client, waiter
        finally:
            waiter.close()
            made.end(holder, client)


if __name__ == "__main__":
    main()
