"""The same rates by level and by domain of the problems."""

from __future__ import annotations

from collections import Counter
from typing import Any

from distill.evaluate.metrics import Rate
from distill.report import plots
from distill.report.evaluated import Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import percent, point

DRAWN = 8
"""So many values are drawn, those with most answers; the table has all."""
DRAWN_MODELS = 4


def section(data: RunData) -> Section | None:
    """One figure for each property and task that has more than one value."""
    figures = [
        figure
        for task in data.evaluated.tasks
        for by in ("level", "domain")
        if (figure := _figure(data, task, by)) is not None
    ]
    if not figures:
        return None
    lead = "Small groups have wide intervals: a difference between two lines is not shown where they overlap much."
    return Section("breakdown", "By level and domain", lead, figures)


def _figure(data: RunData, task: Task, by: str) -> Figure | None:
    rates = {model: {value: rate for value, rate in model.by(by).items() if value} for model in task.models}
    answers = Counter[str]()
    for of_model in rates.values():
        answers |= Counter({value: rate.n for value, rate in of_model.items()})
    if len(answers) < 2:
        return None
    drawn = sorted(value for value, _ in answers.most_common(DRAWN))
    models = task.drawn(DRAWN_MODELS)
    rows = [
        (
            f"{by} {value}" if by == "level" else value,
            [
                point(model.label, rates[model][value], data.series(model.label, model.kind))
                for model in models
                if _measured(rates[model].get(value))
            ],
        )
        for value in drawn
    ]
    alt = f"Accuracy on {task.name} by {by}"
    svg = plots.groups(f"by-{by}-{task.name}", alt, rows, "problems solved, %", limits=(0, 100))
    numbers: list[Row] = []
    for value in sorted(answers):
        row: dict[str, Any] = {by: value, "answers": answers[value]}
        row |= {f"{m.label} [95%]": percent(of[value]) if value in of else "-" for m, of in rates.items()}
        numbers.append(row)
    title = f"By {by}" if len(data.evaluated.tasks) == 1 else f"{task.name}, by {by}"
    return Figure(title, svg, Table(numbers, "Numbers", folded=True))


def _measured(rate: Rate | None) -> bool:
    return rate is not None and rate.value is not None
