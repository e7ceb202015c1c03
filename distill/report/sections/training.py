"""Loss, divergence from the teacher, and accuracy on dev problems, by training step."""

from __future__ import annotations

from collections.abc import Sequence

from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import Curve, RunData
from distill.report.svg import SERIES

Points = Sequence[tuple[float, float]]
"""Steps with their values."""

CURVE_POINTS = 300
CURVE_ROWS = 12
NAMED = {
    "ce": ("Cross-entropy on the traces", "nats per token", 1.0),
    "kd": ("Divergence from the teacher", "nats per token", 1.0),
    "loss": ("Training loss", "nats per token", 1.0),
    "dev_accuracy": ("Accuracy on dev problems", "solved, %", 100.0),
}
"""Title, unit, and what a value is multiplied by to be in it."""


def section(data: RunData) -> Section | None:
    """One figure a quantity, one line an arm: the mean of its seeds."""
    figures = []
    arms = list(dict.fromkeys(curve.arm for curve in data.curves))
    for name, (title, unit, factor) in NAMED.items():
        curves = [curve for curve in data.curves if curve.points.get(name)]
        if not curves or (name == "loss" and any(curve.points.get("ce") for curve in data.curves)):
            continue
        drawn = [
            _line(arm, _mean([curve.points[name] for curve in curves if curve.arm == arm]), place, factor)
            for place, arm in enumerate(arms)
            if any(curve.arm == arm for curve in curves)
        ]
        highest = 100.0 if factor == 100 else None
        svg = plots.lines(f"curve-{name}", f"{title} by training step", drawn, "step", unit, highest=highest)
        figures.append(Figure(title, svg, Table(_rows(curves, name, factor), "Numbers", folded=True)))
    if not figures:
        return None
    lead = "Mean over the trained tokens of each logged step."
    if len(arms) > 1:
        lead += " One line an arm."
    if len(data.curves) > len(arms):
        lead += f" Lines are means of seeds; tables have all {len(data.curves)} training runs."
    return Section("training", "Training", lead, figures)


def _mean(runs: Sequence[Points]) -> Points:
    """Of several seeds, at the steps that all of them have."""
    if len(runs) == 1:
        return runs[0]
    by_step = [dict(points) for points in runs]
    steps = [step for step, _ in runs[0] if all(step in values for values in by_step)]
    return [(step, sum(values[step] for values in by_step) / len(by_step)) for step in steps]


def _line(arm: str, points: Points, series: int, factor: float) -> plots.Line:
    shown = _thinned(points, CURVE_POINTS)
    xs, ys = tuple(x for x, _ in shown), tuple(factor * y for _, y in shown)
    return plots.Line(arm, xs, ys, series % SERIES)


def _thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """At most `most` points: means over runs of neighbours, so that no spike is picked by chance."""
    width = -(-len(points) // most)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _rows(curves: Sequence[Curve], name: str, factor: float) -> list[Row]:
    several_seeds = len({curve.seed for curve in curves}) > 1
    digits = 1 if factor == 100 else 4
    columns = {}
    for curve in curves:
        label = f"{curve.arm}, seed {curve.seed}" if several_seeds else curve.arm
        columns[label] = {step: f"{factor * y:.{digits}f}" for step, y in _thinned(curve.points[name], CURVE_ROWS)}
    steps = sorted({step for values in columns.values() for step in values})
    return [
        {"up to step": f"{step:,.0f}", **{label: values.get(step, "") for label, values in columns.items()}}
        for step in steps
    ]
