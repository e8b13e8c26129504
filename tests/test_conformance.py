"""runtime-tools' validation suite finds nothing in our command line that it does not find in runc; how it is judged."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import conformance
import pytest
from conformance import Result, falls_short, parse_tap, programs, run, table, write_docs

SUITE = Path(__file__).parent.parent / ".cache" / "conformance"
OUTPUT = """TAP version 13
ok 1 - one
    ok 2 - nested
not ok 3 - three
  ---
  { "error": "ok 9 - no point of its own" }
  ...
ok 4 - four # SKIP not here
ok 5
1..5
"""


def test_points_are_counted_and_those_that_fail_are_named() -> None:
    assert parse_tap(OUTPUT, 0) == Result(3, ("three",), 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "short"),
    [
        (Result(3, (), 0), Result(3, (), 0), False),
        (Result(2, (), 1), Result(3, (), 0), True),
        (Result(3, ("x",), 0), Result(3, (), 0), True),
        (Result(3, ("x",), 0), Result(3, ("y",), 0), False),
        (Result(3, ("x", "y"), 0), Result(3, ("y",), 0), True),
        (Result(2, (), 0), Result(3, ("y",), 0), True),
        (Result(0, (), 1), Result(0, (), 1), False),
        (Result(0, (), 1), Result(0, (), 0), True),
        (Result(3, ("x",), 0), Result(0, (), 1), False),
        (Result(2, (), 0), Result(3, (), 1), True),
        (Result(3, (), 0), Result(0, (), 1), False),
    ],
)
def test_what_falls_short(ours: Result, theirs: Result, short: bool) -> None:
    assert falls_short(ours, theirs) is short


def test_the_table_goes_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{conformance.BEGIN}\nformer\n{conformance.END}\nafter\n")
    text = table({"kill": (Result(3, (), 0), Result(2, ("x",), 1))}, ("ours 1", "runc 2"))
    write_docs(page, text)
    head = "| program | ours 1 | runc 2 |\n|---|---|---|\n| kill | 3 "
    assert page.read_text().startswith(f"before\n{conformance.BEGIN}\n{head}")
    assert "former" not in page.read_text()
    assert page.read_text().endswith(f"{conformance.END}\nafter\n")
    page.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_docs(page, text)


@pytest.mark.root
@pytest.mark.conformance
@pytest.mark.timeout(600)
def test_no_program_of_the_suite_falls_short_of_runc() -> None:
    if os.geteuid():
        pytest.skip("containers need root")
    if not (SUITE / "built").is_file():
        pytest.skip("the suite is not built: scripts/test builds it where there is Go 1.24 or newer")
    runc = shutil.which("runc")
    if runc is None:
        pytest.skip("no runc to compare with")
    ours = os.path.join(os.path.dirname(sys.executable), "containerd-shimkit-oci")
    behind: dict[str, str] = {}
    for program in set(programs(SUITE)) - set(conformance.RACES):
        found = run(SUITE, program, ours)
        if found.is_clean:
            continue  # runc cannot do better
        theirs = run(SUITE, program, runc)
        # some look at what goes on at the same moment: a second look is fair to both
        if falls_short(found, theirs) and falls_short(found := run(SUITE, program, ours), theirs):
            behind[program] = f"ours: {found} {found.failed[:3]}, runc: {theirs}"
    assert not behind
