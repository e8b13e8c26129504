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
