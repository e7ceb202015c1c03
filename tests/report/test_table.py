"""Tables in the terminal and as Markdown."""

from __future__ import annotations

import pytest

from distill.report import summary, table

ROWS = [{"model": "a|b", "rate [95%]": "83.2% [79.7, 86.2]", "n": 1500}, {"model": "c", "rate [95%]": "-", "n": None}]


def test_markdown():
    assert table.markdown(ROWS) == (
        "| model | rate [95%] | n |\n| --- | ---: | ---: |\n| a\\|b | 83.2% [79.7, 86.2] | 1,500 |\n| c | - |  |\n"
    )


def test_shown_without_markup_and_without_wrapping(capsys: pytest.CaptureFixture[str]):
    table.show([{"name": "x" * 90, "rate": "[bold]5[/bold]"}])

    out = capsys.readouterr().out
    assert "x" * 90 in out
    assert "[bold]5[/bold]" in out


def test_nothing_to_show(capsys: pytest.CaptureFixture[str]):
    table.show([])

    assert capsys.readouterr().out == ""
    assert table.markdown([]) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (512, "512 bytes"), (990_000, "990 kB"), (1_520_000, "1.52 MB"), (7_310_000_000, "7.31 GB")],
)
def test_sizes(count: int | None, text: str):
    assert summary.size(count) == text
