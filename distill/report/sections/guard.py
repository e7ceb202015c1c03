"""What training took away: tasks beside what was trained for, base and student."""

from __future__ import annotations

from distill.evaluate.compare import p_text
from distill.evaluate.metrics import Difference
from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import percent, point, points


def section(data: RunData) -> Section | None:
    """Student minus base on each task of the guard, with the bound that was set."""
    guard = data.evaluated.guard
    if not guard:
        return None
    marks = []
    rows: list[Row] = []
    for task in guard["tasks"]:
        difference = Difference(**task["difference"])
        if difference.value is not None:
            marks.append(point(task["name"], difference, 2 if task["missed"] else 0, "{:+.1f}"))
        between = "-"
        if difference.low is not None and difference.high is not None:
            between = f"{points(difference.low)} to {points(difference.high)}"
        rates = {model["name"]: percent(model["rate"]) for model in task.get("models", ())}
        rows.append({
            "task": task["name"], "problems": difference.items,
            **{f"{name} [95%]": rates.get(name, "-") for name in ("base", "student")},
            "points": points(difference.value), "95% interval": between, "p": p_text(difference.p),
            "verdict": task["verdict"] + (", over the bound" if task["missed"] else ""),
        })  # fmt: skip
    bound = f"{guard['points']:g} point" + ("" if guard["points"] == 1 else "s")
    lead = (
        "Student minus base on tasks beside what was trained for, on the same problems. A shown loss of more than "
        f"{bound} fails the evaluation; a loss that is not shown is not one that was ruled out: the interval says how "
        "large it could be."
    )
    svg = plots.dots(
        "guard", "Student minus base on tasks beside what was trained for", marks, "points", reference=0.0,
        limits=plots.around_zero(marks),
    )  # fmt: skip
    return Section("guard", "Regression guard", lead, [Figure("", svg, Table(rows), wide=True)])
