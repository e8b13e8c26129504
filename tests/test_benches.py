"""The benchmarks run and write what they promise, whatever the figures are; what is pure of them is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from dataclasses import replace
from functools import partial
from pathlib import Path

import bars
import pytest
import report
import throughput
from containerd_shim_wasm_test_modules import HAS_DEFAULT_DEVICES
from harness.containerd import find_install
from measuring.figures import Figure, Result, Section, figures_of, markdown, ratio, take_turns
from measuring.plot import Bar, Panel, draw
from measuring.processes import ended, private_zygotes
from measuring.programs import fresh_module

ROOT = Path(__file__).parent.parent
BENCHES = ROOT / "benches"
_NEWEST = ROOT / ".cache" / "containerd-2" / "usr" / "bin"

# what must be in each benchmark's figures: section, figure, contenders
EXPECTED = {
    "startup": (
        "Phases of a pod of one container, without containerd",
        "exit to TaskExit",
        {"wasm, ours", "native, ours"},
    ),
    "throughput": (throughput.ONE_POD, throughput.WHOLE, {"wasm, ours", "native, ours", "native, runc"}),
    "memory": ("One pod of 2 containers", "Pss a container, shim included", {"wasm, ours", "native, runc"}),
    "cold": ("ctr run --rm, no zygote and no compiled code", "ctr run --rm", {"wasm, ours", "native, runc"}),
    "scale": ("Beside containers that live: wasm, ours", throughput.TASKS, {"1 live", "2 live"}),
}


def run_smoke(name: str, containerd: str, path: Path) -> Result:
    if os.geteuid():
        pytest.skip(f"benchmarks start containers, which needs root; this is uid {os.geteuid()}")
    if find_install(containerd) is None:
        pytest.skip(f"no containerd in {containerd or 'PATH'}: scripts/test, run as root on Debian, brings it")
    command = [sys.executable, str(BENCHES / f"{name}.py"), *report.SIZES["smoke"][name]]
    command += ["--containerd", containerd, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| --- |" in done.stdout
    return bars.read_results([path])[0]


@pytest.mark.root
@pytest.mark.containerd
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_benchmark_measures_every_contender(name: str, tmp_path: Path) -> None:
    before = set(os.listdir("/tmp"))
    result = run_smoke(name, os.path.dirname(shutil.which("containerd") or ""), tmp_path / "figures.json")
    title, what, contenders = EXPECTED[name]
    section = result.section(title)
    assert section
    figure = section.figure(what)
    assert figure
    assert contenders <= set(figure.values)
    assert {len(values) for values in figure.values.values()} == {result.settings["runs"]}
    assert {"processor", "cores", "kernel", "load before", "load after", "containerd", "runc"} <= set(result.machine)
    assert [left for left in set(os.listdir("/tmp")) - before if left.startswith("bench-")] == []


@pytest.mark.root
@pytest.mark.containerd
@pytest.mark.timeout(120)
def test_the_client_speaks_to_the_newest_containerd_too(tmp_path: Path) -> None:
    result = run_smoke("memory", str(_NEWEST), tmp_path / "figures.json")
    assert result.machine["containerd"].startswith("2.")


def test_contenders_take_turns_and_each_begins_a_round() -> None:
    order: list[str] = []

    def measured(name: str) -> int:
        order.append(name)
        return len(order)

    found = take_turns(3, {name: partial(measured, name) for name in "abc"})
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_a_table_has_medians_spread_and_ratios() -> None:
    figure = Figure("start", "ms", {"ours": [40, 50, 900], "runc": [100.0, 100.0, 100.0]})
    lines = markdown(Section("t", [figure], "runc", ["a note"])).splitlines()
    assert lines[2:] == [
        "| start, ms | 50.0 (40.0 to 900) | 100 (100 to 100) |",
        "| … by runc | 0.50x | 1.00x |",
        "",
        "a note",
    ]


def test_measures_that_a_contender_lacks_leave_a_gap() -> None:
    figures = figures_of({"x": "ms", "y": "KiB", "z": "s"}, {"a": [{"x": 1, "y": 2}], "b": [{"x": 3}]})
    assert figures == [Figure("x", "ms", {"a": [1], "b": [3]}), Figure("y", "KiB", {"a": [2]})]
    assert ratio(figures[1], "a", "b") is None


def result_of(python: str = "CPython 3.12.1") -> Result:
    figure = Figure(throughput.WHOLE, "1/s", {"wasm, ours": [100, 110, 120], "native, runc": [20], "null shim": [300]})
    return Result("throughput", {"python": python}, {"runs": 3}, [Section(throughput.ONE_POD, [figure])])


def test_bars_are_met_missed_or_not_measured() -> None:
    found = {bar.what: bar for bar in bars.bars_of([result_of()])}
    assert found["through containerd, one pod, wasm against runc"].measured == 5.5
    assert found["through containerd, one pod, wasm against runc"].is_met
    assert not found["through containerd, one pod, wasm against a shim that does nothing"].is_met
    assert found["directly, wasm against `runc run`"].is_met is None
    assert "| at least 5x | 5.50x | met |" in bars.table(list(found.values()))
    assert "| at most 2.5x |  | not measured |" in bars.table(list(found.values()))


def test_what_another_machine_or_python_has_measured_says_so() -> None:
    load = {"load before": "1", "load after": "2", "took": "3 s"}
    one, other = (
        replace(each, machine={**each.machine, **load}) for each in (result_of(), result_of("CPython 3.11.7"))
    )
    lines = report.body_of([one, other]).splitlines()
    assert [line for line in lines if "CPython" in line] == [
        "python CPython 3.12.1",
        "runs 3; load 1 before, 2 after; python CPython 3.11.7",
    ]


@pytest.mark.parametrize(("python", "is_binding"), [("CPython 3.11.7", False), ("CPython 3.13.0", True)])
def test_bars_of_memory_bind_from_the_python_on_that_shares_enough(python: str, is_binding: bool) -> None:
    figure = Figure("Pss a container, shim included", "KiB", {"wasm, ours": [4000]})
    result = replace(result_of(python), bench="memory", sections=[Section("One pod of 50 containers", [figure])])
    bar = next(bar for bar in bars.bars_of([result]) if bar.measured is not None)
    assert (bar.measured, bar.is_met, bar.is_binding) == (4.096, False, is_binding)


def test_results_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    result_of().write(tmp_path / "one.json")
    (tmp_path / "all.json").write_text(json.dumps([json.loads((tmp_path / "one.json").read_text())] * 2))
    both = bars.read_results([tmp_path / "all.json"])
    assert both == [result_of(), result_of()]


def test_a_page_keeps_what_is_not_between_its_markers() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.between_markers(page, "new") == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    with pytest.raises(ValueError, match="lacks its markers"):
        report.between_markers(f"{report.END} {report.BEGIN}", "new")


def test_tables_and_picture_in_docs_are_of_the_figures_in_docs() -> None:
    """If not: `python benches/report.py --from docs/benchmarks.json` makes them anew."""
    results = bars.read_results([ROOT / "docs" / "benchmarks.json"])
    assert (ROOT / "docs" / "benchmarks.svg").read_text() == draw(report.panels_of(results))
    assert report.body_of(results) in (ROOT / "docs" / "benchmarks.md").read_text()


def test_a_picture_is_xml_whose_bars_are_as_long_as_their_values() -> None:
    panel = Panel("a < b", [Bar("x", "wasm", 50, 40, 60), Bar("y", "peer", 100, 100, 100)])
    tree = xml.etree.ElementTree.fromstring(draw([panel]))
    bars_drawn = [each for each in tree.iter() if each.tag.endswith("rect") and each.get("height") == "15"]
    short, long = (float(each.attrib["width"]) for each in bars_drawn)
    assert short * 2 == pytest.approx(long, abs=0.2)
    assert "a < b" in [each.text for each in tree.iter()]


def test_fresh_modules_differ_and_are_the_module_still() -> None:
    one, other = fresh_module(), fresh_module()
    assert one != other
    assert one.startswith(HAS_DEFAULT_DEVICES.bytes)
    section = one[len(HAS_DEFAULT_DEVICES.bytes) :]
    assert section[:1] == b"\0", "a custom section"
    assert section[1] == len(section) - 2, "as long as it says"


LISTENER = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


def test_a_zygote_is_found_by_its_socket_and_ended(tmp_path: Path) -> None:
    for directory in ("zygotes", "elsewhere"):
        (tmp_path / directory).mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LISTENER, str(tmp_path / directory / "z.sock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for directory in ("zygotes", "elsewhere")
    ]
    with started[0] as zygote, started[1] as other:
        for each in started:
            assert each.stdout
            assert each.stdout.readline() == b"listening\n"
        found = private_zygotes(str(tmp_path / "zygotes"))
        assert found == {zygote.pid}
        ended(found)
        assert zygote.wait() == -9
        assert other.poll() is None
        assert private_zygotes(str(tmp_path / "zygotes")) == set()


def test_what_an_engine_costs_a_container_is_measured_beside_the_distributions_own_binding(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(BENCHES / "engine_fork.py"),
        "--rounds",
        "2",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|") == 6, "a head, a rule and four rows"
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) == {"module", "component"}
    for by_name in figures.values():
        assert set(by_name) == {"ours", "stock"}
        assert all(value > 0 for figure in by_name.values() for value in figure.values())
