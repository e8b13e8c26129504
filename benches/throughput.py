"""Tasks a second: N of them, P at once; through containerd, in one pod and in a pod each, and at one shim directly.

    uv run python benches/throughput.py [--tasks N] [--parallel P] [--runs N] [--json FILE] [--shim-directory DIR]
                                        [--containerd DIR]

Beside them through containerd, a shim that does nothing: the ceiling that containerd and this client set. Beside them
directly, `runc run` and `crun run` of the same configuration. Every task is checked to have run: by its exit status
through containerd, by its output directly.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from measuring.containerd_client import Sandboxed
from measuring.direct import DirectShim, TaskClient, direct_shim
from measuring.figures import Figure, Section, figures_of, take_turns
from measuring.programs import EXIT_STATUS, IMAGE, NATIVE_OURS, NATIVE_RUNC, NULL, WASM_OURS, Contender
from measuring.run import parser_of, run_bench
from measuring.stage import Stage

T = TypeVar("T")
Change = Callable[[dict[str, Any]], object]  # of a specification

POD_EACH = "Through containerd, every task a pod of its own"
ONE_POD = "Through containerd, all tasks in one pod"
DIRECT = "Without containerd"
FILTERED = "Without containerd, under the seccomp profile of ctr"
WHOLE = "containers, with snapshot"
TASKS = "tasks of containers that are there"
RUNC_RUN, CRUN_RUN = "native, runc run", "native, crun run"
OWN_RUN = "native, containerd-shimkit-oci run"
_OWN: Final = os.path.join(os.path.dirname(sys.executable), "containerd-shimkit-oci")
_CLIENT = "client"
_RATE = "1/s"


@dataclass(frozen=True, slots=True)
class Load:
    """How much is run at once and in all."""

    tasks: int
    parallel: int

    def spread(self, work: Callable[[T], object], items: Sequence[T]) -> float:
        """Do *work* for each item, so many at once; items a second."""
        began = time.monotonic()
        with ThreadPoolExecutor(self.parallel) as pool:
            for _ in pool.map(work, items):
                pass
        return len(items) / (time.monotonic() - began)


def main() -> None:
    """Measure, and print tables."""
    parser = parser_of(__doc__, runs=3)
    parser.add_argument("--tasks", type=int, default=200, help="of each contender in each run (default 200)")
    parser.add_argument("--parallel", type=int, default=4, help="at once (default 4)")
    args = parser.parse_args()
    load = Load(args.tasks, args.parallel)
    run_bench("throughput", args, lambda stage: measure(stage, load), settings=["tasks", "parallel"])


def measure(stage: Stage, load: Load) -> list[Section]:
    """All sections, each with contenders in turns."""
    null = [NULL] if stage.programs.null_shim else []
    contenders = [WASM_OURS, NATIVE_OURS, NATIVE_RUNC, *null]
    return [
        through_containerd(stage, load, ONE_POD, contenders),
        through_containerd(stage, load, POD_EACH, contenders),
        directly(stage, load, DIRECT),
        directly(stage, load, FILTERED, ctr_profile(stage)),
    ]


def through_containerd(stage: Stage, load: Load, title: str, contenders: Sequence[Contender]) -> Section:
    """Whole containers, and tasks alone, by containerd's API."""

    def measured(contender: Contender) -> Callable[[], dict[str, float]]:
        def measure_once() -> dict[str, float]:
            if title != ONE_POD:
                return rates(stage, load, contender, "")
            holder = stage.container(contender, contender.sleep(), group := f"pod-{time.monotonic_ns()}")
            stage.client.start(holder.id, stage.client.make(holder))  # a pod lives longer than its tasks
            try:
                return rates(stage, load, contender, group)
            finally:
                stage.client.end(holder.id)

        return measure_once

    for contender in contenders:
        rates(stage, Load(load.parallel, load.parallel), contender, "")  # unmeasured: whatever can be warm is
    found = take_turns(stage.options.runs, {each.name: measured(each) for each in contenders})
    cpu = figures_of({_CLIENT: "ms"}, found)[0]
    note = f"The client's own CPU time, ms a container: {', '.join(f'{n} {cpu.median(n):.1f}' for n in cpu.values)}."
    return Section(title, figures_of({WHOLE: _RATE, TASKS: _RATE}, found), NATIVE_RUNC.name, [note])


def rates(stage: Stage, load: Load, contender: Contender, group: str) -> dict[str, float]:
    """Containers a second, tasks a second, and what the client took for a container."""
    containers = [stage.container(contender, contender.end(), group) for _ in range(load.tasks)]
    client = stage.client

    def run_whole(container: Sandboxed) -> None:
        check(contender, client.run(container))

    before = time.process_time()
    whole = load.spread(run_whole, containers)
    cpu_ms = (time.process_time() - before) / load.tasks * 1000
    mounts = {each.id: client.make(each) for each in containers}
    try:
        tasks = load.spread(lambda each: check(contender, client.run_task(each.id, mounts[each.id])), containers)
    finally:
        for each in containers:
            client.remove(each.id)
    return {WHOLE: whole, TASKS: tasks, _CLIENT: cpu_ms}


def check(contender: Contender, status: int) -> None:
    """Raise RuntimeError unless a task ended as its program ends."""
    if status != EXIT_STATUS:
        raise RuntimeError(f"a task of {contender.name} ended with status {status}, not with {EXIT_STATUS}")


def ctr_profile(stage: Stage) -> dict[str, Any]:
    """The `linux.seccomp` that `ctr run --seccomp` gives a container, which is containerd's own profile for pods."""
    name = f"b{secrets.token_hex(6)}"
    stage.ctd.ctr("run", "--detach", "--seccomp", "--runtime", NATIVE_RUNC.runtime, IMAGE, name, *NATIVE_RUNC.sleep())
    try:
        profile: dict[str, Any] = json.loads(Path(stage.ctd.bundle(name), "config.json").read_text())["linux"][
            "seccomp"
        ]
        return profile
    finally:
        stage.ctd.ctr("tasks", "kill", "--signal", "SIGKILL", name)
        stage.ctd.ctr("tasks", "delete", "--force", name)
        stage.ctd.ctr("containers", "delete", name)


def directly(stage: Stage, load: Load, title: str, profile: dict[str, Any] | None = None) -> Section:
    """Tasks at one shim of ours by its socket, beside `runc run` and `crun run` of the same configuration."""

    def change(spec: dict[str, Any]) -> None:
        if profile is not None:
            spec["linux"]["seccomp"] = profile

    found = take_turns(
        stage.options.runs,
        {
            WASM_OURS.name: lambda: shim_rate(stage, load, WASM_OURS, change),
            NATIVE_OURS.name: lambda: shim_rate(stage, load, NATIVE_OURS, change),
            RUNC_RUN: lambda: run_rate(stage, load, "runc", change),
            CRUN_RUN: lambda: run_rate(stage, load, "crun", change),
            OWN_RUN: lambda: run_rate(stage, load, _OWN, change),
        },
    )
    values = {name: [each for each in rates if each is not None] for name, rates in found.items()}
    figure = Figure("tasks", _RATE, {name: rates for name, rates in values.items() if rates})
    note = "crun runs in a mount namespace without the empty cgroup v2 hierarchy of hybrid hosts, which it refuses."
    return Section(title, [figure], RUNC_RUN, [note])


def shim_rate(stage: Stage, load: Load, contender: Contender, change: Change) -> float:
    """Tasks a second at a shim that is there, their bundles too; each thread has a connection."""
    with direct_shim(stage) as made:
        holder, client, address = made.start()
        bundles = [made.bundle(contender.echo("hello"), change) for _ in range(load.tasks)]
        output = f"{made.directory}/output"
        Path(output).touch()
        clients = [TaskClient(address) for _ in range(load.parallel)]
        shares = [(each, bundles[number :: load.parallel]) for number, each in enumerate(clients)]

        def run_share(share: tuple[TaskClient, list[tuple[str, str]]]) -> None:
            for name, path in share[1]:
                share[0].run(name, path, output)

        took = len(shares) / load.spread(run_share, shares)
        for each in clients:
            each.close()
        made.end(holder, client)
        check_output(output, load.tasks, contender.name)
    return load.tasks / took


def run_rate(stage: Stage, load: Load, runtime: str, change: Change) -> float | None:
    """`runc run`s a second, or crun's, of one bundle; None where there is no such runtime."""

    def change_all(spec: dict[str, Any]) -> None:
        change(spec)
        spec["linux"].pop("cgroupsPath", None)  # runc makes one for each id: the bundle is run many times at once

    with direct_shim(stage) as made:
        _, path = made.bundle(NATIVE_RUNC.echo("hello"), change_all)
        return timed_runs(made, load, runtime, path)


def timed_runs(made: DirectShim, load: Load, runtime: str, path: str) -> float | None:
    """Run a bundle by xargs, which is quicker at starting programs than Python is."""
    output = f"{made.directory}/output"
    run = f"exec xargs -P {load.parallel} -I ID {runtime} --root {made.directory}/state run --bundle {path} ID"
    hidden = "umount -l /sys/fs/cgroup/unified 2>/dev/null; " if runtime == "crun" else ""
    ids = "".join(f"{made.group}-{number}\n" for number in range(load.tasks))
    with open(output, "wb") as file:
        began = time.monotonic()
        try:
            subprocess.run(
                ["unshare", "--mount", "sh", "-c", f"command -v {runtime} >/dev/null || exit 66; {hidden}{run}"],
                input=ids.encode(),
                env={**os.environ, "LC_ALL": "C"},
                stdout=file,
                stderr=subprocess.PIPE,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            if error.returncode == 66:
                return None
            raise RuntimeError(f"{runtime} run: exit status {error.returncode}: {error.stderr.decode()}") from error
        took = time.monotonic() - began
    check_output(output, load.tasks, runtime)
    return load.tasks / took


def check_output(path: str, tasks: int, name: str) -> None:
    """Raise RuntimeError unless every task printed its word: one that failed at once would look quick."""
    printed = Path(path).read_text().count("hello")  # not whole lines: some programs write the newline apart
    if printed != tasks:
        raise RuntimeError(f"{printed} of {tasks} tasks of {name} printed their word")


if __name__ == "__main__":
    main()
