"""What the documentation says is checked where it can be: code blocks, names of tests, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from containerd_shimkit.task.service import TaskService

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md")]


def test_the_shim_in_the_documentation_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "writing-a-shim.md").read_text()
    assert f"```python\n{(ROOT / 'tests' / 'toy_shim.py').read_text()}```" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["task-api", "security"])
def test_every_test_that_a_page_names_exists(name: str) -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "docs" / f"{name}.md").read_text()))
    sources = [path.read_text() for path in (*ROOT.glob("tests/*.py"), *ROOT.glob("packages/*/tests/**/*.py"))]
    there = {name for source in sources for name in re.findall(r"^def (test_[a-z0-9_]+)", source, re.MULTILINE)}
    assert named
    assert named <= there, named - there


def test_every_advisory_is_answered_by_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| CVE-")]
    assert len(rows) > 20
    assert [row for row in rows if "`test_" not in row.split(" | ")[-1]] == []


def test_the_task_api_table_has_every_method() -> None:
    page = (ROOT / "docs" / "task-api.md").read_text()
    service = TaskService("ns", lambda *_: None, None, on_shutdown=lambda: None)  # type: ignore[arg-type]
    for methods in service.services().values():
        for method in methods:
            assert f"| {method} |" in page, method
