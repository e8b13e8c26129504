"""What an engine costs a container: fork, load compiled code, instantiate, run hello, leave.

    uv run python benches/engine_fork.py [--rounds N] [--json FILE]

Ours stands beside the own Python of the `wasmtime` package, doing the same. Each contender is a process that warms up
and then forks again and again; they take turns, so that both see the same machine. Makes no container, needs no root.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from containerd_shim_wasm_test_modules import COMPONENT_HELLO_WORLD, HELLO_WORLD

PROGRAMS: Mapping[str, bytes] = {"module": HELLO_WORLD.bytes, "component": COMPONENT_HELLO_WORLD.bytes}
Guest = Callable[[], int]  # loads the program and runs it to its end, in a child
Answer = dict[str, float]  # of one round, or what all rounds come to


def ours(kind: str) -> Guest:
    """The engine as a shim uses it."""
    from containerd_shim_wasm import Guest, RuntimeContext, Settings, WasmLayer
    from containerd_shim_wasm.paths import parse_entrypoint
    from containerd_shim_wasmtime import WasmtimeEngine

    engine = WasmtimeEngine(Settings())
    engine.warm()
    code = made_in_a_child(lambda: engine.precompile([WasmLayer(PROGRAMS[kind])])[0] or b"")
    guest = Guest(code, compiled=True)
    ctx = RuntimeContext("id", ("app",), {}, parse_entrypoint("app"), guest, {})

    def run() -> int:
        engine.load(ctx)
        return engine.run_wasi(ctx)

    return run


def stock(kind: str) -> Guest:
    """The same with the package's Python."""
    import wasmtime
    from wasmtime import component

    config = wasmtime.Config()
    config.parallel_compilation = False
    engine = wasmtime.Engine(config)
    type_ = wasmtime.Module if kind == "module" else component.Component
    path = f"/proc/self/fd/{made_in_a_child(lambda: bytes(type_(engine, PROGRAMS[kind]).serialize()))}"

    def make_store() -> wasmtime.Store:
        os.environ["TOKIO_WORKER_THREADS"] = "1"
        config = wasmtime.WasiConfig()
        config.argv, config.env = ["app"], []
        config.inherit_stdin()
        config.inherit_stdout()
        config.inherit_stderr()
        config.preopen_dir("/", "/")
        store = wasmtime.Store(engine)
        store.set_wasi(config)
        return store

    def run_module() -> int:
        module = wasmtime.Module.deserialize_file(engine, path)
        linker, store = wasmtime.Linker(engine), make_store()
        linker.define_wasi()
        start = linker.instantiate(store, module).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
        return 0

    def run_component() -> int:
        guest = component.Component.deserialize_file(engine, path)
        linker, store = component.Linker(engine), make_store()
        linker.add_wasip2()
        interface = next(name for name in guest.type.exports(engine) if name.startswith("wasi:cli/run@"))
        index = guest.get_export_index("run", guest.get_export_index(interface))
        assert index is not None
        function = linker.instantiate(store, guest).get_func(store, index)
        assert function is not None
        function(store)
        function.post_return(store)
        return 0

    return run_module if kind == "module" else run_component


CONTENDERS: Mapping[str, Callable[[str], Guest]] = {"ours": ours, "stock": stock}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="of each contender and program (default 300)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--serve", nargs=2, metavar=("CONTENDER", "PROGRAM"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    figures = {kind: measure(kind, args.rounds) for kind in PROGRAMS}
    print(
        f"{os.cpu_count()} cores, Linux {os.uname().release}, Python {sys.version.split()[0]}, {args.rounds} rounds\n"
    )
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def show(figures: Mapping[str, Mapping[str, Answer]]) -> None:
    """A table of them: medians, but for the first."""
    columns = {
        "min_ms": ("ms a container, min", 2),
        "ms": ("median", 2),
        "page_faults": ("page faults", 0),
        "private_dirty_kb": ("child's private dirty, kB", 0),
        "rss_anon_kb": ("parent's RssAnon, kB", 0),
    }
    print("| program | who |", " | ".join(head for head, _ in columns.values()), "|")
    print("|---" * (2 + len(columns)) + "|")
    for kind, by_name in figures.items():
        for name, figure in by_name.items():
            cells = (f"{figure[column]:.{digits}f}" for column, (_, digits) in columns.items())
            print(f"| {kind} | {name} |", " | ".join(cells), "|")


def measure(kind: str, rounds: int) -> dict[str, Answer]:
    """Start every contender, and let them take turns."""
    command = [sys.executable, __file__, "--serve"]
    servers = {
        name: subprocess.Popen([*command, name, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in CONTENDERS
    }
    answers: dict[str, list[Answer]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            answers[name].append(ask(server))
    for server in servers.values():
        server.communicate()
    return {name: summary(answers[name]) for name in servers}


def ask(server: subprocess.Popen[str]) -> Answer:
    """One round of a contender."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write("\n")
    server.stdin.flush()
    answer: Answer = json.loads(server.stdout.readline())
    return answer


def summary(answers: list[Answer]) -> Answer:
    """The figures that are printed."""
    medians = {name: statistics.median(answer[name] for answer in answers) for name in answers[0]}
    return {"min_ms": min(answer["ms"] for answer in answers), **medians}


def serve(name: str, kind: str) -> None:
    """Be one contender's warm process: for each line of input, time one child, and look at another's memory."""
    run = CONTENDERS[name](kind)
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    gc.collect()
    gc.freeze()
    for _ in sys.stdin:
        before = time.perf_counter()
        faults = end_of(fork(run))
        took = time.perf_counter() - before
        answer = {
            "ms": took * 1000,
            "page_faults": faults,
            "private_dirty_kb": private_dirty(run),
            "rss_anon_kb": field("/proc/self/status", "RssAnon:"),
        }
        os.write(output, f"{json.dumps(answer)}\n".encode())


def fork(run: Guest, before_leaving: Callable[[], object] = lambda: None) -> int:
    """A child that runs the guest and leaves; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        gc.disable()
        status = run()
        before_leaving()
    finally:
        os._exit(status)


def end_of(pid: int) -> int:
    """See a child end; the page faults that it took."""
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"the guest ended with wait status {status}")
    return usage.ru_minflt


def private_dirty(run: Guest) -> int:
    """The memory, in kB, that a child has written to when its guest has ended, as this process sees it."""
    ended, leave = os.pipe(), os.pipe()
    pid = fork(run, lambda: (os.write(ended[1], b"."), os.read(leave[0], 1)))
    os.read(ended[0], 1)
    found = field(f"/proc/{pid}/smaps_rollup", "Private_Dirty:")
    os.write(leave[1], b".")
    end_of(pid)
    for descriptor in (*ended, *leave):
        os.close(descriptor)
    return found


def field(path: str, name: str) -> int:
    """A number in a file of /proc."""
    with open(path, encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def made_in_a_child(compile_program: Callable[[], bytes]) -> int:
    """A file with the compiled code, made where it leaves nothing in this process's memory."""
    descriptor = os.memfd_create("code")

    def write() -> int:
        os.write(descriptor, compile_program())
        return 0

    end_of(fork(write))
    return descriptor


if __name__ == "__main__":
    main()
