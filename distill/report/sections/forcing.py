"""Budget forcing: thinking cut short, or told to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.report import plots
from distill.report.evaluated import Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.sections.at_k import DRAWN_LINES, band
from distill.report.wording import estimate, percent


def section(data: RunData) -> Section | None:
    """Rate against the thinking that was spent, for each model that was forced."""
    figures = [figure for task in data.evaluated.tasks if (figure := _figure(data, task)) is not None]
    if not figures:
        return None
    lead = (
        "Answers as the model gives them when its thinking is ended after a budget, or when the end of its thinking is "
        "replaced by “Wait”. Thinking and completion tokens are what an answer asked for in this way would cost."
    )
    return Section("forcing", "Budget forcing", lead, figures)


def _figure(data: RunData, task: Task) -> Figure | None:
    lines, rows = [], []
    for model in task.models:
        forced = model.about.get("forced") or ()
        if not forced:
            continue
        plain = {
            "rate": model.about["rate"], "thinking_tokens": model.about["thinking_tokens"],
            "completion_tokens": model.about["completion_tokens"],
        }  # fmt: skip
        for about in (*forced, plain):
            rows.append(_row(model.label, about))
        spent = [(about["thinking_tokens"]["value"], about["rate"]) for about in (*forced, plain)]
        points = sorted(((x, rate) for x, rate in spent if x is not None), key=lambda point: point[0])
        if model in task.drawn(DRAWN_LINES):
            lines.append(band(model.label, points, data.series(model.label, model.kind)))
    if not lines:
        return None
    svg = plots.lines(
        f"forcing-{task.name}", f"Accuracy on {task.name} against the thinking that was forced", lines,
        "thinking tokens spent, mean", "problems solved, %", highest=100.0,
    )  # fmt: skip
    return Figure(task.name, svg, Table(rows), wide=True)


def _row(label: str, about: Mapping[str, Any]) -> Row:
    manner = "as drawn"
    if about.get("budget") is not None:
        manner = f"cut at {about['budget']:,}"
    elif about.get("waits") is not None:
        manner = f"{about['waits']} × Wait"
    return {
        "model": label, "manner": manner, "pass@1 [95%]": percent(about["rate"]),
        "thinking tokens [95%]": estimate(about["thinking_tokens"]),
        "completion tokens [95%]": estimate(about["completion_tokens"]), "continued": about.get("extended", 0),
    }  # fmt: skip
