"""How long each model thinks."""

from __future__ import annotations

from distill.report import plots
from distill.report.evaluated import Task
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData


def section(data: RunData) -> Section | None:
    """Distribution of thinking tokens, task by task."""
    figures = [_figure(data, task) for task in data.evaluated.tasks if task.lengths]
    if not figures:
        return None
    means: list[Row] = [
        {
            "model": model.label, "task": task.name, "mean thinking tokens [95%]": str(model.thinking_tokens),
            "answers": model.thinking_tokens.n,
        }
        for task in data.evaluated.tasks
        for model in task.models
        if model.thinking_tokens.value is not None
    ]  # fmt: skip
    lead = "Tokens spent on thinking before the answer: the median, the middle half (box) and the middle 90% (line)."
    return Section("thinking", "Thinking", lead, figures, [Table(means, "Means", folded=True)])


def _figure(data: RunData, task: Task) -> Figure:
    boxes = [
        plots.Box(length.label, length.quantiles, data.series(length.label, length.kind)) for length in task.lengths
    ]
    shares = ("5%", "25%", "median", "75%", "95%")
    rows: list[Row] = [
        {"model": length.label, **dict(zip(shares, map(round, length.quantiles), strict=True))}
        for length in task.lengths
    ]
    alt = f"Thinking tokens of each model on {task.name}"
    svg = plots.boxes(f"thinking-{task.name}", alt, boxes, "thinking tokens")
    return Figure(task.name if len(data.evaluated.tasks) > 1 else "", svg, Table(rows))
