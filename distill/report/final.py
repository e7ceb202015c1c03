"""The end of a run: report.html, report.json and report.md in the run folder, and one table in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import click

from distill.core import files
from distill.core.stage import say
from distill.evaluate import compare
from distill.report import page, summary, table
from distill.report.run_data import collect


def write(run: Path) -> Path:
    """Write the three forms of the report; returns the page."""
    data = collect(run)
    chapters = page.sections(data)
    files.write_text(run / "report.html", page.render(data, chapters))
    files.write_json(run / "report.json", summary.as_json(data))
    files.write_text(run / "report.md", summary.markdown(data, chapters))
    return run / "report.html"


def show(run: Path, *, as_json: bool = False) -> None:
    """Print the final table to stdout (or the same numbers as JSON), and say where the report is."""
    data = collect(run)
    if as_json:
        click.echo(json.dumps(summary.as_json(data), ensure_ascii=False, allow_nan=False))
        return
    table.show(summary.final_rows(data))
    comparison = data.evaluated.comparison
    if len(comparison) > 1:
        table.show(compare.rows(comparison), title=f"arms, against {comparison[0].arm}")
    click.echo(summary.headline(data))
    say(f"report    {run / 'report.html'}")
