"""Which models differ: paired over the same problems, with what could have been seen at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill.evaluate.compare import p_text
from distill.evaluate.metrics import Difference
from distill.evaluate.power import Plan
from distill.report import plots
from distill.report.evaluated import Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import point, points


def section(data: RunData) -> Section | None:
    """Every pair of models of the first arm, task by task."""
    figures = [_figure(task, len(data.evaluated.tasks) > 1) for task in data.evaluated.tasks if task.pairs]
    if not figures:
        return None
    lead = (
        "Difference in pass@1 on the same problems, in points, with 95% intervals. p is of the paired test, adjusted "
        "over all pairs of a task (Holm), and the verdict is its; “no difference shown” is not the same as none. "
        "“Detectable” is how large a true difference would have to be to be found in 8 of 10 such evaluations."
    )
    plans = [
        {"task": task.name, "size and what could be found": str(Plan(**task.about["power"]))}
        for task in data.evaluated.tasks
        if task.about.get("power")
    ]
    tables = [Table(plans, "What was expected before the run", folded=True)] if plans else []
    return Section("differences", "Differences", lead, figures, tables)


def _figure(task: Task, named: bool) -> Figure:
    figure = of_pairs(task.pairs, f"differences-{task.name}", f"Differences between models on {task.name}")
    return replace(figure, title=task.name if named else "")


def of_pairs(pairs: Sequence[Mapping[str, Any]], name: str, alt: str) -> Figure:
    """Pairs as plain data (`distill.evaluate.metrics.Pair`), drawn and in a table."""
    marks = []
    rows: list[Row] = []
    first = {pair["b"] for pair in pairs}
    against = f" against {first.pop()}" if len(first) == 1 else ""
    for pair in pairs:
        difference = Difference(**pair["difference"])
        label = f"{pair['a']} − {pair['b']}"
        if difference.value is not None:
            marks.append(point(pair["a"] if against else label, difference, 0, "{:+.1f}"))
        between = "-"
        if difference.low is not None and difference.high is not None:
            between = f"{points(difference.low)} to {points(difference.high)}"
        rows.append({
            "pair": label, "points": points(difference.value), "95% interval": between,
            "p": p_text(difference.p), "p, adjusted": p_text(pair["p_holm"]), "verdict": pair["verdict"],
            "detectable": "-" if difference.detectable is None else f"{100 * difference.detectable:.1f}",
            "problems": difference.items,
        })  # fmt: skip
    svg = plots.dots(name, alt, marks, f"points{against}", limits=plots.around_zero(marks), reference=0.0)
    return Figure("", svg, Table(rows), wide=True)
