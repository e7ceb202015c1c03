"""What several answers to a problem are worth: at least one right (pass@k), or the most frequent one (maj@k)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.report import plots
from distill.report.evaluated import Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import percent

DRAWN_LINES = 6
"""More would hide each other; the table has all."""

DRAWN = {"pass_at": "pass@k", "maj_at": "maj@k"}


def section(data: RunData) -> Section | None:
    """Both by k, for tasks with more than one answer a problem."""
    figures = [
        figure
        for task in data.evaluated.tasks
        if task.samples > 1
        for key in DRAWN
        if (figure := _figure(data, task, key)) is not None
    ]
    if not figures:
        return None
    lead = (
        "pass@k: the share of problems that at least one of k answers solves, estimated without bias from all answers. "
        "maj@k: the share solved by the most frequent of k answers, equal ones grouped by the verifier; the mean over "
        "all choices of k answers, ties shared out. Bands are 95% intervals."
    )
    return Section("at-k", "Several answers", lead, figures)


def _figure(data: RunData, task: Task, key: str) -> Figure | None:
    measured = {model: by_k for model in task.models if len(by_k := _by_k(model.about.get(key) or {})) > 1}
    if not measured:
        return None
    lines = []
    for model in task.drawn(DRAWN_LINES):
        if model in measured:
            lines.append(band(model.label, list(measured[model].items()), data.series(model.label, model.kind)))
    ks = sorted({k for by_k in measured.values() for k in by_k})
    rows: list[Row] = [
        {"model": model.label, **{f"{k} [95%]": percent(by_k[k]) if k in by_k else "-" for k in ks}}
        for model, by_k in measured.items()
    ]
    title = DRAWN[key] if len(data.evaluated.tasks) == 1 else f"{task.name}: {DRAWN[key]}"
    svg = plots.lines(
        f"{key}-{task.name}", f"{DRAWN[key]} on {task.name}", lines, "answers to a problem, k", "problems solved, %",
        log_x=True, highest=100.0,
    )  # fmt: skip
    return Figure(title, svg, Table(rows, "Numbers", folded=True))


def _by_k(told: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    return {int(k): told[k] for k in sorted(told, key=int) if told[k].get("value") is not None}


def band(label: str, points: list[tuple[float, Mapping[str, Any]]], series: int) -> plots.Line:
    """A line of rates in percent with their intervals, by x; points without a value are left out."""
    there = [(x, about) for x, about in points if about.get("value") is not None]
    whole = all(about.get("low") is not None and about.get("high") is not None for _, about in there)
    return plots.Line(
        label,
        tuple(float(x) for x, _ in there),
        tuple(100 * about["value"] for _, about in there),
        series,
        tuple(100 * about["low"] for _, about in there) if whole else (),
        tuple(100 * about["high"] for _, about in there) if whole else (),
    )
