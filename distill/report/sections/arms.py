"""Arms of the experiment against its first."""

from __future__ import annotations

from distill.evaluate.compare import ArmResult, p_text
from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import percent, point, points


def section(data: RunData) -> Section | None:
    """Differences in pass@1 on the first task, paired over problems and seeds."""
    comparison = data.evaluated.comparison
    marks = [
        point(result.arm, result.difference, 0, "{:+.1f}")
        for result in comparison
        if result.difference is not None and result.difference.value is not None
    ]
    if not marks:
        return None
    first = comparison[0].arm
    noise = "training and problems" if len(comparison[0].seeds) > 1 else "problems, not that of training (one seed)"
    lead = f"Difference in pass@1 to “{first}” on the same problems, in points; intervals hold the noise of {noise}."
    svg = plots.dots(
        "arms", f"Difference of each arm to {first}", marks, f"points against {first}",
        limits=plots.around_zero(marks), reference=0.0,
    )  # fmt: skip
    rows: list[Row] = [_row(result) for result in comparison]
    by_seed: list[Row] = [
        {
            "arm": result.arm,
            **{f"seed {seed}": _rate(rate) for seed, rate in zip(result.seeds, result.rates, strict=True)},
        }
        for result in comparison
    ]
    tables = []
    if len({tuple(row) for row in by_seed}) == 1 and len(comparison[0].seeds) > 1:
        tables.append(Table(by_seed, "pass@1 by seed, %", folded=True))
    return Section("arms", "Arms", lead, [Figure("", svg, Table(rows), wide=True)], tables)


def _row(result: ArmResult) -> Row:
    difference = result.difference
    between = "-"
    if difference is not None and difference.low is not None and difference.high is not None:
        between = f"{points(difference.low)} to {points(difference.high)}"
    return {
        "arm": result.arm, "seeds": len(result.seeds), "mean [95%]": percent(result.mean),
        "points": "-" if difference is None else points(difference.value), "95% interval": between,
        "p, adjusted": p_text(result.p_holm), "verdict": result.verdict or "-",
        "detectable": "-" if difference is None else points(difference.detectable).removeprefix("+"),
        "thinking tokens": "-" if result.thinking_tokens is None else f"{result.thinking_tokens:.0f}",
    }  # fmt: skip


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"
