"""The table of agreement with labels: it counts both kinds of error, and the page has a place for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import verdicts
from benchmarks.verdicts import Agreement, Labelled
from distill.core.protocols import Answer


def test_false_accepts_and_false_rejects_are_counted_apart():
    rows = [Labelled(Answer("7", "7"), right) for right in (True, True, False, False, False)]

    found = Agreement.of([True, False, True, True, False], rows)

    assert (found.accepts, found.rejects, found.agreed) == (2, 1, "2/5")


def test_the_table_goes_between_the_markers(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{verdicts.BEGIN}\nold\n{verdicts.END}\nafter\n", encoding="utf-8")

    verdicts.put(page, "| new |")

    assert page.read_text(encoding="utf-8") == f"before\n{verdicts.BEGIN}\n\n| new |\n\n{verdicts.END}\nafter\n"


def test_a_page_without_markers_is_refused(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")

    with pytest.raises(ValueError, match="no place for the table"):
        verdicts.put(page, "| new |")


def test_the_published_table_has_a_line_for_every_data_set():
    published = verdicts.PAGE.read_text(encoding="utf-8").partition(verdicts.BEGIN)[2].partition(verdicts.END)[0]

    assert [data.name for data in verdicts.SETS if f"| {data.name} |" not in published] == []


def test_the_data_sets_are_there_and_hold_both_verdicts(shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "DATA", shared_data)
    for data in verdicts.SETS:
        rows = data.rows()

        assert len(rows) >= 17
        assert any(not row.right for row in rows)
