"""scripts/lib/cri_conformance.py: how what critest says is read and compared."""

from __future__ import annotations

from cri_conformance import falling_short, parse_report, table

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="4"><testsuite name="suite">
<testcase name="[SynchronizedBeforeSuite]" status="passed"></testcase>
<testcase name="[It] [k8s.io] Container starts" status="passed"></testcase>
<testcase name="[It] [k8s.io] Container stops" status="failed"><failure message="no"></failure></testcase>
<testcase name="[It] [k8s.io] Container flies" status="skipped"></testcase>
</testsuite></testsuites>
"""
FOUND = {
    "[k8s.io] Container starts": "passed",
    "[k8s.io] Container stops": "failed",
    "[k8s.io] Container flies": "skipped",
}


def test_a_report_says_what_became_of_each_specification() -> None:
    assert parse_report(REPORT) == FOUND


def test_only_what_runc_passes_counts() -> None:
    better = {**FOUND, "[k8s.io] Container stops": "passed"}
    assert falling_short(FOUND, better) == ["[k8s.io] Container stops"]
    assert falling_short(better, FOUND) == []
    assert falling_short({}, FOUND) == ["[k8s.io] Container starts"]
    assert falling_short({**FOUND, "[k8s.io] Container starts": "skipped"}, FOUND) == ["[k8s.io] Container starts"]


def test_the_table_has_the_counts_and_the_differences() -> None:
    better = {**FOUND, "[k8s.io] Container stops": "passed"}
    assert table(better, FOUND, ("ours", "runc 1")).splitlines() == [
        "| specifications | ours | runc 1 |",
        "|---|---|---|",
        "| passed | 2 | 1 |",
        "| failed | 0 | 1 |",
        "| skipped | 1 | 1 |",
        "| Container stops | passed | failed |",
    ]
