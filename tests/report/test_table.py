"""Tables in the terminal and as Markdown."""

from __future__ import annotations

import pytest

from distill.report import table, wording

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
    assert wording.size(count) == text


@pytest.mark.parametrize(
    ("texts", "numeric"),
    [
        (["83.2% [79.7, 86.2]", "-"], True),
        (["<0.001", "0.040"], True),
        (["+4.1 points [-0.3, +8.5]", "−1"], True),
        (["1 min 04 s", "3.2 s"], True),
        (["500 problems x 1 sample: differences from 7.4 points on are found"], False),
        (["none", "3"], False),
        (["-", ""], False),
    ],
)
def test_numbers_stand_right_and_sentences_left(texts: list[str], numeric: bool):
    assert table.is_numeric([{"x": text} for text in texts], "x") is numeric


def test_markdown_opens_no_tag_and_hides_nothing():
    assert table.markdown([{"x": "<script>\u202e\x00"}]).splitlines()[2] == "| &lt;script>⟨U+202E⟩␀ |"


def test_numbers_in_words():
    assert wording.percent({"value": 0.8324, "low": 0.797, "high": 0.862}) == "83.2% [79.7, 86.2]"
    assert wording.percent({"value": 0.5, "low": None, "high": None}) == "50.0%"
    assert wording.percent({"value": None}) == wording.estimate({}) == wording.points(None) == "-"
    assert [wording.points(x) for x in (-0.0, -0.0001, 0.0001)] == ["+0.0", "−0.0", "+0.0"]
    assert wording.points(-0.0125) == "−1.2"
    assert wording.estimate({"value": 1204.4, "low": 1130.0, "high": 1290.0}) == "1,204 [1,130, 1,290]"
    assert [wording.money(x) for x in (None, 0.0, 1234.5, 0.0123, 0.000016)] == [
        "-",
        "0.00",
        "1,234.50",
        "0.012",
        "1.6e-05",
    ]
    assert [wording.duration(x) for x in (4.21, 59.6, 187, 7500)] == ["4.2 s", "60 s", "3 min 07 s", "2 h 05 min"]
    with pytest.raises(ValueError, match="nothing was measured"):
        wording.point("x", {"value": None}, 0)
