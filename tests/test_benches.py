"""The benchmarks run and print what they promise; their figures are for people."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness.containerd import Containerd

BENCHES = Path(__file__).parent.parent / "benches"


@pytest.mark.timeout(180)
def test_first_figures_are_measured_for_every_contender(containerd: Containerd, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "first_figures.py"), "--runs", "1"]
    command += ["--containerd", containerd.install.directory, "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|") == 6, "a head, a rule and four rows"
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for measured in figures.values():
        assert set(measured) == {"wasm, ours", "native, ours", "native, runc"}
        assert all(value > 0 for values in measured.values() for value in values)


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
