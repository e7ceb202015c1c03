"""Test-time compute: what more answers or more thinking buy, at the tokens that they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.evaluate.metrics import Estimate
from distill.report import plots
from distill.report.evaluated import Model, Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.sections.at_k import DRAWN_LINES, band
from distill.report.wording import bare_percent, estimate, percent, points

SHOWN_COSTS = 5
"""Rows for two models."""
WAYS = {"maj": "votes", "pass": "any right", "budget": "budget"}


def section(data: RunData) -> Section | None:
    """Accuracy against the thinking budget and against tokens spent, all models together."""
    figures = [
        figure
        for task in data.evaluated.tasks
        for figure in (_by_budget(data, task), _by_tokens(data, task))
        if figure is not None
    ]
    if not figures:
        return None
    lead = (
        "From the stored answers, nothing drawn anew. Under a budget an answer counts as wrong if its thinking and "
        "answer together are longer. Where several answers to a problem vote, all of them are paid: models above each "
        "other spend the same tokens, though not the same money."
    )
    tables = [
        Table(
            _equal_rows(task), f"At equal tokens, {task.name}" if len(data.evaluated.tasks) > 1 else "At equal tokens"
        )
        for task in data.evaluated.tasks
        if any(equal.points for equal in task.equal)
    ]
    if tables:
        lead += " Between two points of a curve, part of the problems is given the next step."
    return Section("compute", "Test-time compute", lead, figures, tables)


def _equal_rows(task: Task) -> list[Row]:
    """Both models where they cost the same, at a few of the costs that both reach."""
    rows: list[Row] = []
    for equal in task.equal:
        every = -(-len(equal.points) // SHOWN_COSTS)
        rows += [
            {
                "models": f"{equal.a} − {equal.b}", "by": WAYS[equal.along], "tokens a problem": f"{point.tokens:,.0f}",
                "first [95%]": point.a.percent, "second [95%]": point.b.percent,
                "points [95%]": _difference(point.difference),
            }
            for point in equal.points[::every]
        ]  # fmt: skip
    return rows


def _difference(difference: Estimate) -> str:
    if difference.low is None or difference.high is None:
        return points(difference.value)
    return f"{points(difference.value)} [{points(difference.low)}, {points(difference.high)}]"


def _by_budget(data: RunData, task: Task) -> Figure | None:
    lines, rows = [], []
    for model in task.models:
        steps = model.about.get("curve", {}).get("budget") or ()
        if len(steps) > 1:
            drawn = [(point["budget"], point["rate"]) for point in steps]
            if model in task.drawn(DRAWN_LINES):
                lines.append(band(model.label, drawn, data.series(model.label, model.kind)))
            rows += [_budget_row(model, point) for point in steps]
    if not lines:
        return None
    svg = plots.lines(
        f"budget-{task.name}", f"Accuracy on {task.name} against the budget of tokens", lines,
        "tokens allowed for an answer", "problems solved, %", log_x=True, highest=100.0,
    )  # fmt: skip
    return Figure(_title(data, task, "Budget for one answer"), svg, Table(rows, "Numbers", folded=True))


def _budget_row(model: Model, point: Mapping[str, Any]) -> Row:
    return {
        "model": model.label, "budget": point["budget"], "pass@1 [95%]": percent(point["rate"]),
        "finished within it": bare_percent(point["finished"]),
        "tokens an answer": estimate(point["tokens"]),
    }  # fmt: skip


def _by_tokens(data: RunData, task: Task) -> Figure | None:
    """The majority of 1, 2, 4 ... answers against the tokens of all of them."""
    lines: list[plots.Line] = []
    rows: list[Row] = []
    for model in task.models:
        steps = [p for p in model.about.get("curve", {}).get("samples") or () if p.get("maj_at") is not None]
        if len(steps) > 1:
            drawn = [(point["tokens"]["value"], point["maj_at"]) for point in steps]
            if model in task.drawn(DRAWN_LINES):
                lines.append(band(model.label, drawn, data.series(model.label, model.kind)))
            rows += [
                {
                    "model": model.label, "answers": point["samples"], "tokens a problem": estimate(point["tokens"]),
                    "maj@k [95%]": percent(point["maj_at"]), "pass@k [95%]": percent(point["pass_at"]),
                }
                for point in steps
            ]  # fmt: skip
    if not lines:
        return None
    svg = plots.lines(
        f"tokens-{task.name}", f"Accuracy of the majority on {task.name} against tokens spent", lines,
        "tokens spent a problem", "solved by the majority, %", log_x=True, highest=100.0,
    )  # fmt: skip
    return Figure(_title(data, task, "Votes of several answers"), svg, Table(rows, "Numbers", folded=True))


def _title(data: RunData, task: Task, what: str) -> str:
    return what if len(data.evaluated.tasks) == 1 else f"{task.name}: {what[:1].lower()}{what[1:]}"
