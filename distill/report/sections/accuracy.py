"""How many problems each model solves, task by task."""

from __future__ import annotations

from typing import Any

from distill.evaluate.scores import OUTCOMES
from distill.report import plots, summary
from distill.report.evaluated import Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import bare_percent, percent, point


def section(data: RunData) -> Section | None:
    """Rates with intervals, and how answers ended."""
    if data.task is None and not data.entries:
        return None
    figures, tables = [], []
    first = _final(data)
    if first is not None:
        figures.append(first)
    for task in data.evaluated.tasks:
        if task is not data.task:
            figures.append(_figure(data, task))
        rows = _outcomes(task)
        title = "How answers ended" + (f", {task.name}" if len(data.evaluated.tasks) > 1 else "")
        tables.append(Table(rows, title, folded=True))
    lead = "Share of problems solved, averaged over all answers, with 95% intervals. "
    lead += "Truncated, unfinished and missing answers count as wrong; nothing is left out but what no one could grade."
    if data.exports:
        lead += " Exported files answer greedily; the student’s own greedy rate stands beside them."
    return Section("accuracy", "Accuracy", lead, figures, tables) if figures else None


def _final(data: RunData) -> Figure | None:
    """The first task with the exported files."""
    shown = [entry for entry in data.entries if entry.accuracy.value is not None]
    if not shown:
        return None
    numbers: list[Row] = [
        {column: text for column, text in row.items() if column not in ("size", "note")}
        for row in summary.final_rows(data)
    ]
    marks = [point(entry.label, entry.accuracy, data.series(entry.label, entry.kind)) for entry in shown]
    alt = "Accuracy of each model with its 95% interval"
    svg = plots.dots("accuracy", alt, marks, "problems solved, %", limits=(0, 100))
    return Figure(_title(data.task) if data.task else "", svg, Table(numbers))


def _figure(data: RunData, task: Task) -> Figure:
    models = [model for model in task.models if model.rate.value is not None]
    rows: list[Row] = []
    for model in task.models:
        row = {
            "model": model.label, "pass@1 [95%]": percent(model.rate),
            "thinking tokens": "-" if (mean := model.thinking_tokens.value) is None else f"{mean:,.0f}",
            "no answer": summary.no_answer(model.outcomes),
        }  # fmt: skip
        parts = model.about.get("by_part")
        if parts:
            row["of its instructions [95%]"] = percent(parts)
        rows.append(row)
    rows = [{column: row.get(column, "-") for column in dict.fromkeys(c for r in rows for c in r)} for row in rows]
    marks = [point(model.label, model.rate, data.series(model.label, model.kind)) for model in models]
    alt = f"Accuracy on {task.name} of each model with its 95% interval"
    svg = plots.dots(f"accuracy-{task.name}", alt, marks, "problems solved, %", limits=(0, 100))
    return Figure(_title(task), svg, Table(rows))


def _title(task: Task) -> str:
    answers = "1 answer" if task.samples == 1 else f"{task.samples} answers"
    return f"{task.name}: {task.problems:,} problems, {answers} each"


def _outcomes(task: Task) -> list[Row]:
    rows: list[Row] = []
    for model in task.models:
        row: dict[str, Any] = {"model": model.label, **{name: model.outcomes.get(name, 0) for name in OUTCOMES}}
        if (loops := model.about.get("loops")) is not None:
            total = sum(model.outcomes.values())
            row["in a loop"] = loops if isinstance(loops, int) else bare_percent(loops.get("value")) if total else "-"
        rows.append(row)
    return rows
