"""The report page: whole, valid, self-contained, escaped, and every plot with its numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distill.core import files
from distill.core.errors import DistillError
from distill.report import final, page, summary
from distill.report.parts import Section
from distill.report.run_data import RunData, collect
from tests.report.synthetic import make_run

VOID = {"meta", "br", "img", "hr", "input", "link", "use", "path", "circle", "rect", "line"}


class Reader(HTMLParser):
    """Collects tags, attributes and text; complains about tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, f"</{tag}> closes nothing"
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_nests_and_names_every_part(html: str):
    reader = read(html)

    sections = [attrs["id"] for tag, attrs in reader.tags if tag == "section"]
    assert sections == [
        "accuracy", "differences", "arms", "breakdown", "at-k", "compute", "forcing", "thinking", "behaviours", "guard",
        "sampling", "funnel", "lengths", "training", "files", "cost", "samples", "settings", "provenance",
    ]  # fmt: skip
    links = {attrs["href"] for tag, attrs in reader.tags if tag == "a"}
    assert links == {f"#{name}" for name in sections}


def test_ids_are_unique_and_references_lead_somewhere(html: str):
    reader = read(html)
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]

    assert len(ids) == len(set(ids))
    referred = re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', html)
    assert referred
    assert {a or b for a, b in referred} <= set(ids)


def test_nothing_is_loaded_from_anywhere(html: str):
    reader = read(html)

    assert not [tag for tag, _ in reader.tags if tag in ("script", "link", "img", "iframe", "object", "embed", "base")]
    for tag, attrs in reader.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
    assert "http://" not in html and "https://" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "default-src 'none'" in html


def test_every_plot_has_its_numbers_in_a_table_and_a_name(html: str, chapters: list[Section]):
    figures = [figure for chapter in chapters for figure in chapter.figures]

    assert len(figures) > 20
    assert html.count('<svg class="plot" role="img" aria-label="') == html.count("<svg") == len(figures)
    text = "".join(read(html).text)
    for figure in figures:
        assert figure.numbers.rows, figure.title
        for row in figure.numbers.rows:
            assert list(row) == figure.numbers.columns, figure.title
            assert all(figure.numbers.text(row, column) in text for column in row)


def test_markdown_has_the_numbers_of_the_page(data: RunData, chapters: list[Section]):
    text = summary.markdown(data, chapters)

    cells = 0
    for chapter in chapters:
        for numbers in [*(figure.numbers for figure in chapter.figures), *chapter.tables]:
            for row in numbers.rows if chapter.id not in summary.LEFT_OUT_OF_MARKDOWN else ():
                assert all(numbers.text(row, column).replace("<", "&lt;") in text for column in row), row
                cells += len(row)
    assert cells > 500


def test_json_has_the_documented_keys_and_is_plain(data: RunData):
    told = summary.as_json(data)

    again = json.loads(json.dumps(told, allow_nan=False))
    assert again["tasks"][0]["models"][1]["rate"] == data.evaluated.tasks[0].models[1].about["rate"]
    documented = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    assert [key for key in told if f"`{key}`" not in documented] == []


def test_plots_take_their_colours_from_the_page(html: str):
    for plot in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert "var(--ink)" in plot
        assert not re.search(r"#(?:0[0-9a]0[0-9]0[0-9]|000000)\b", plot), "a stand-in colour was left"
    assert html.count("prefers-color-scheme: dark") == 1
    assert "@media print" in html


def test_hostile_text_is_shown_and_never_run(hostile_html: str):
    reader = read(hostile_html)

    assert not [tag for tag, _ in reader.tags if tag in ("script", "img")]
    assert not [attrs for _, attrs in reader.tags if any(name.startswith("on") for name in attrs)]
    assert "<script" not in hostile_html
    assert "&lt;script&gt;alert(" in hostile_html  # it was planted in problems, answers, names, reasons and settings
    assert "alert('pwned')" in "".join(reader.text)
    assert "{{ 7*7 }}" in "".join(reader.text), "the template was evaluated"
    assert not re.search("[\u202e\x00\x1b]", hostile_html)
    assert "⟨U+202E⟩gnp.exe␀␛[31m" in "".join(reader.text)
    assert "characters left out" in hostile_html and len(hostile_html) < 5_000_000


def test_accuracy_on_dev_problems_has_its_curve_where_a_training_looked(data: RunData, html: str):
    curves = data.curves
    assert curves[0].points["dev_accuracy"] == ((60, 0.2), (120, 0.4), (180, 0.6), (240, 0.8))
    assert any("dev_accuracy" not in curve.points for curve in curves)
    assert "Accuracy on dev problems by training step" in html


def test_the_same_run_gives_the_same_page(run: Path, html: str):
    assert page.render(collect(run)) == html


def test_headline_says_the_numbers(html: str):
    text = " ".join("".join(read(html).text).split())

    assert re.search(r"The student solves \d+\.\d% \[.*?\] of 100 test problems", text)
    assert "of its teacher’s" in text


@pytest.mark.parametrize(
    ("stages", "absent"),
    [
        (("problems",), ["evaluate", "filter", "train", "export"]),
        (("problems", "sample", "verify", "filter", "train"), ["evaluate", "export"]),
    ],
)
def test_a_run_that_is_not_done_has_a_report_that_says_so(tmp_path: Path, stages: tuple[str, ...], absent: list[str]):
    run = make_run(tmp_path / "short", arms=("main",), stages=stages, problems=10)

    html = page.render(collect(run))

    read(html)
    assert f"these stages have not run: {', '.join(absent)}." in html
    assert "No student was evaluated in this run." in html


def test_write_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path / "r", arms=("sft", "kl"), seeds=(0, 1), problems=30)

    final.write(run)
    final.show(run)

    told = capsys.readouterr()
    assert "student (sft)" in told.out and "mean of 2 seeds" in told.out
    assert "difference to sft" in told.out
    assert "report.html" in told.err
    assert (run / "report.html").stat().st_size < 1_000_000
    assert files.read_json(run / "report.json")["arms"][1]["verdict"] == "lower"
    assert "| model |" in (run / "report.md").read_text(encoding="utf-8")
    final.show(run, as_json=True)
    assert capsys.readouterr().out.startswith('{"name": "r"')


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(DistillError, match="not a run folder"):
        collect(tmp_path)
